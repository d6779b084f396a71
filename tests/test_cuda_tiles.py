"""Which tile a layer gets, and into how many parts its sum is split: by rule, or as measured; conv3x3/08."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from cuda_conv import Layer, Size, check_backward, check_forward, run_backward, run_forward
from cuda_devices import unwritten
from cuda_sanitized import run_sanitized

from nstcore.engines.cuda import conv, source, tiles
from nstcore.engines.cuda.conv import PRODUCTION, RUNGS
from nstcore.engines.cuda.on_cpu import KernelError, OnCpuDevice
from nstcore.engines.cuda.precision import PRECISIONS
from nstcore.engines.cuda.tiles import Choice, Pass
from nstcore.errors import DeviceError

pytestmark = pytest.mark.slow

FLOAT32, TF32, FLOAT16 = (PRECISIONS[name] for name in ("float32", "tf32", "float16"))
SHORT = "08_split_sum"


# ---- the rule -------------------------------------------------------------------------------------------------------


def layers() -> list[Pass]:
    """Every kind of layer of VGG, at pictures of several sizes."""
    sizes = itertools.product(("tf32", "float16"), (64, 100, 256, 512, 1024), ((64, 1), (128, 2), (256, 4), (512, 8)))
    return [Pass(C, C, side // f, side // f, PRECISIONS[name]) for name, side, (C, f) in sizes]


def test_a_sum_is_split_only_where_half_of_the_multiprocessors_would_be_idle():
    split = 0
    for p in layers():
        choice = tiles.predicted(p)
        split += choice.parts > 1
        assert choice.parts == 1 or choice.blocks(p) < tiles.PROCESSORS / 2
    assert 0 < split < len(layers())
    assert tiles.predicted(Pass(512, 512, 128, 128, TF32)) == Choice((128, 128))
    assert tiles.predicted(Pass(512, 512, 32, 32, TF32)) == Choice((128, 128), 4)  # conv5_1 of 512 x 512
    assert tiles.predicted(Pass(8, 64, 8, 8, TF32)).parts == 1  # another launch would take longer than the sum
    assert tiles.predicted(Pass(512, 513, 16, 16, TF32)) == tiles.UNALIGNED


def test_parts_are_never_more_than_there_are_chunks():
    for channels, side in itertools.product((8, 16, 64, 512), (1, 2, 8, 16)):
        for p in (Pass(channels, 512, side, side, TF32), Pass(channels, 512, side, side, FLOAT16)):
            assert all(c.parts <= -(-9 * channels * p.precision.dtype.itemsize // 64) for c in tiles.choices(p))


# ---- what was measured ----------------------------------------------------------------------------------------------

PASS = {"architecture": 90, "precision": "tf32", "inputs": 64, "outputs": 128, "positions": 1024, "pooled": False}
ENTRY = PASS | {"parts": 1, "rung": None}
MEASURED = {"layers": [ENTRY | {"tile": [128, 64], "parts": 2, "microseconds": 9.5}]}


def test_a_measured_layer_gets_what_was_fastest_and_any_other_what_the_rule_says(tiles_json):
    tiles_json(MEASURED)
    found = tiles.chosen(Pass(64, 128, 32, 32, TF32))
    assert found == Choice((128, 64), 2) != tiles.predicted(Pass(64, 128, 32, 32, TF32))
    assert tiles.chosen(Pass(64, 128, 30, 40, TF32)) == found  # about as many positions
    others = (
        Pass(64, 128, 64, 64, TF32),  # parts of few positions are not for more of them
        Pass(64, 128, 16, 16, TF32),
        Pass(64, 64, 32, 32, TF32),
        Pass(64, 128, 32, 32, FLOAT16),
        Pass(64, 128, 32, 32, TF32, 80),
        Pass(64, 128, 32, 32, TF32, 100),
    )
    for other in others:
        assert tiles.chosen(other) == tiles.predicted(other)


def test_a_tile_measured_at_fewer_positions_is_for_all_that_have_more_up_to_the_next_line(tiles_json):
    lines = [ENTRY | {"positions": n, "tile": tile} for n, tile in ((1024, [128, 64]), (16384, [64, 64]))]
    tiles_json({"layers": lines})
    sides = {16: None, 32: (128, 64), 64: (128, 64), 90: (128, 64), 128: (64, 64), 1024: (64, 64)}
    for side, tile in sides.items():
        p = Pass(64, 128, side, side, TF32)
        assert tiles.chosen(p) == (tiles.predicted(p) if tile is None else Choice(tile))


def test_no_rung_of_one_gpu_is_chosen_without_a_line(tiles_json):
    sixteen = [replace(p, precision=FLOAT16) for p in layers()]
    assert all(tiles.chosen(p).rung is None for p in sixteen)
    tiles_json({"layers": [ENTRY | {"precision": "float16", "tile": [128, 64], "rung": tiles.BOXES}]})
    assert tiles.chosen(Pass(64, 128, 32, 32, FLOAT16)).rung == tiles.BOXES
    assert all(tiles.chosen(replace(p, architecture=100)).rung is None for p in sixteen)
    assert {rung.name for rung in RUNGS.values() if rung.only is not None} == set(tiles.OF_SM_90)


def test_without_the_file_the_rule_decides(tiles_json):
    assert tiles.measured(tiles.file()) == {}
    assert all(tiles.chosen(p) == tiles.predicted(p) for p in layers())


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        '{"layers": 1}',
        {"layers": [ENTRY]},
        {"layers": [ENTRY | {"tile": [128, 65], "parts": 1}]},
        {"layers": [ENTRY | {"tile": [64], "parts": 1}]},
        {"layers": [ENTRY | {"tile": [128, 128], "parts": 3}]},
        {"layers": [ENTRY | {"tile": [128, 128], "parts": "2"}]},
        {"layers": [ENTRY | {"tile": [128, 128], "inputs": -1}]},
        {"layers": [ENTRY | {"tile": [128, 128], "precision": "float32"}]},
        {"layers": [ENTRY | {"tile": [128, 128], "rung": "06_tensor_core_16bit"}]},
        {"layers": [ENTRY | {"tile": [128, 128], "rung": ["a list"]}]},
        {"layers": [ENTRY | {"tile": [128, 128], "pooled": 1}]},
        {"layers": [ENTRY | {"tile": [128, 128], "rung": tiles.POOLED}]},  # of a layer that nobody pools
        {"layers": [ENTRY | {"tile": [128, 64], "rung": tiles.BOXES, "precision": "float32"}]},
        {"layers": [ENTRY | {"tile": [128, 64], "rung": tiles.WGMMA, "precision": "float16", "architecture": 100}]},
        {"layers": [ENTRY | {"tile": [64, 64], "rung": tiles.WGMMA, "precision": "float16"}]},
        {"layers": [ENTRY | {"tile": [128, 64], "rung": tiles.BOXES, "precision": "float16", "parts": 2}]},
        {"layers": [ENTRY | {"tile": [128, 64], "halo": False, "rung": "no"}]},
        {"layers": [{k: v for k, v in ENTRY.items() if k != "rung"} | {"tile": [128, 64], "halo": False}]},
    ],
    ids=range(21),
)
def test_a_file_that_is_something_else_is_refused_in_one_line(tiles_json, content):
    path = tiles_json(content)
    with pytest.raises(DeviceError) as error:
        tiles.chosen(Pass(64, 128, 32, 32, TF32))
    assert str(error.value).startswith(f"{path}: expected what tools/tune_tiles.py writes, got ")
    assert "\n" not in str(error.value)


# ---- by other rungs -------------------------------------------------------------------------------------------------

SIZE = Size(8, 16, 3, 5)


def lines(rung: str, tile: list[int], size: Size = SIZE) -> dict:
    """A table in which both passes of that layer, in float16, are by a rung."""
    channels = {"inputs": size.C, "outputs": size.K}, {"inputs": size.K, "outputs": size.C}
    mine = {"precision": "float16", "positions": size.H * size.W, "tile": tile, "rung": rung}
    return {"layers": [ENTRY | both | mine for both in channels]}


def both_passes(layer: Layer, device, short: str, replicate: bool) -> tuple[np.ndarray, np.ndarray]:
    back = run_backward(layer, device, short, replicate, "SP", True)
    return run_forward(layer, device, short, replicate, True), back


@pytest.mark.parametrize(
    ("rung", "tile"), [(tiles.WGMMA, [128, 64]), (tiles.HALO_TILE, [256, 64]), (tiles.BOXES, [128, 64])]
)
def test_a_measured_layer_is_computed_by_its_rung_from_the_same_filters(tiles_json, stand_in, rung, tile):
    """Both passes, to the last bit, and whatever the border: 11 has none that repeats, there the rule goes on."""
    layer, device, default = Layer(SIZE, FLOAT16), stand_in.devices[0], PRODUCTION["float16"]
    usual = {replicate: both_passes(layer, device, default, replicate) for replicate in (False, True)}
    alone = {replicate: both_passes(layer, device, rung.partition("/")[2], replicate) for replicate in (False, True)}
    named, launched = [], device.kernel
    tiles_json(lines(rung, tile))
    for replicate in (False, True):
        mine = both_passes(layer, device, default, replicate)
        forward = usual if rung == tiles.BOXES and replicate else alone
        assert np.array_equal(mine[0], forward[replicate][0])
        assert np.array_equal(mine[1], alone[replicate][1])
        device.kernel = lambda name, *more, **defines: (named.append(name), launched(name, *more, **defines))[1]
        layer.kernel(device, default, replicate)
        del device.kernel
    boxes = [rung, rung, RUNGS[default].name, rung]
    assert [n for n in named if n != conv.BORDER] == (boxes if rung == tiles.BOXES else 4 * [rung])


def test_rows_that_begin_anywhere_are_the_rule_s_whatever_the_table_says(tiles_json):
    tiles_json(lines(tiles.BOXES, [128, 64], Size(8, 12, 3, 5)))
    for p in (Pass(8, 12, 3, 5, FLOAT16), Pass(12, 8, 3, 5, FLOAT16)):
        assert tiles.chosen(p) == tiles.UNALIGNED == tiles.predicted(p)
        assert tiles.pooled(p).defines["ALIGNED"] == 0


def test_room_for_parts_is_there_with_either_border(tiles_json):
    """Where the rule, which takes over from 11 at a border that repeats, splits a sum."""
    p = Pass(512, 8, 2, 3, FLOAT16)
    assert tiles.predicted(p).parts > 1
    asked = PRODUCTION["float16"], FLOAT16, 90, 512, 8, 2, 3
    floats = conv.scratch_floats(*asked)
    assert floats == tiles.predicted(p).parts * 6 * 8
    tiles_json(lines(tiles.BOXES, [128, 64], Size(512, 8, 2, 3)))
    assert tiles.chosen(p).parts == 1
    assert conv.scratch_floats(*asked) == floats


def test_rungs_made_like_05_and_06_take_a_tile_of_theirs(tiles_json):
    p = Pass(64, 128, 32, 32, FLOAT16)
    tiles_json({"layers": [ENTRY | {"precision": "float16", "tile": [256, 128], "rung": tiles.BOXES}]})
    for launch in (tiles.split_sum(p), tiles.pooled(p)):
        assert (launch.defines["TILE_M"], launch.defines["TILE_N"]) == tiles.predicted(p).tile


@pytest.mark.parametrize(
    ("alone", "together", "fused", "tile"),
    [
        (None, None, True, None),
        ({"tile": [64, 64]}, None, True, (64, 64)),
        ({"tile": [64, 64], "parts": 2}, None, False, None),
        ({"tile": [256, 64], "rung": tiles.HALO_TILE}, None, False, None),
        (None, {"tile": [64, 64], "rung": tiles.POOLED}, True, (64, 64)),
        ({"tile": [256, 64], "rung": tiles.HALO_TILE}, {"tile": [64, 64], "rung": tiles.POOLED}, True, (64, 64)),
        ({"tile": [64, 64]}, {"tile": [128, 64]}, False, None),
        ({"tile": [64, 64]}, {"tile": [256, 64], "rung": tiles.HALO_TILE}, False, None),
        ({"tile": [64, 64]}, {"tile": [256, 64], "rung": tiles.HALO_POOLED}, True, (256, 64)),
    ],
)
def test_a_layer_pools_on_the_way_where_that_was_measured_to_be_faster(tiles_json, alone, together, fused, tile):
    """Where nobody has measured both, if 05 or 06 computes the layer, its sum not split."""
    p = Pass(64, 128, 200, 200, TF32)
    found = [({"pooled": False}, alone), ({"pooled": True}, together)]
    tiles_json({"layers": [ENTRY | pooled | mine | {"positions": 40000} for pooled, mine in found if mine]})
    launch = RUNGS[PRODUCTION["tf32"]].pools(p)
    assert (launch is not None) == fused
    if launch:
        defines = launch.defines
        assert (defines["TILE_M"], defines["TILE_N"]) == (tile or tiles.predicted(p).tile)


def test_every_form_that_a_table_can_ask_for_is_among_the_variants_that_are_checked():
    every = {(v.rung, v.precision.name, *v.defines.items()) for v in conv.variants()}
    for rung, name in itertools.product(tiles.TILES_OF, ("tf32", "float16", "bfloat16")):
        if rung is not None and name in RUNGS[rung.partition("/")[2]].precisions:
            for tile in tiles.TILES_OF[rung]:
                launch = Choice(tile, rung=rung).launch(Pass(512, 512, 8, 8, PRECISIONS[name]))
                assert launch.rung == rung
                assert (rung, name, *launch.defines.items()) in every
    checked = {(v.rung, v.precision.name, *v.defines.items()) for v in conv.variants() if v.production}
    for tile, parts, name in itertools.product(tiles.TILES, tiles.PARTS, ("tf32", "float16", "bfloat16")):
        launch = Choice(tile, parts).launch(Pass(512, 512, 8, 8, PRECISIONS[name]))
        rung = conv.SPLIT_SUM if launch.parts else RUNGS[PRODUCTION[name]].name
        assert (rung, name, *launch.defines.items()) in checked


# ---- split sums -----------------------------------------------------------------------------------------------------

# A chunk for each part and not, parts that end inside the tenth tap, channels and positions that end inside a tile
SIZES = [Size(1, 1, 1, 1), Size(40, 72, 5, 13), Size(17, 65, 5, 13), Size(64, 64, 9, 7), Size(136, 8, 2, 3)]


def check_both_ways(machine, layer: Layer, short: str) -> None:
    for replicate, linear in ((False, True), (True, False)):
        got = machine.check(lambda d, r=replicate, n=linear: run_forward(layer, d, short, r, n))
        check_forward(layer, got, short, replicate)
    for losses, mask in (("SP", True), ("", False)):
        got = machine.check(lambda d, n=losses, m=mask: run_backward(layer, d, short, False, n, m))
        check_backward(layer, got, short, False, losses, mask)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_split_sum_is_the_book_s_both_ways(machine, size):
    check_both_ways(machine, Layer(size, TF32), SHORT)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_split_sums_of_16_bits(machine, precision):
    check_both_ways(machine, Layer(Size(40, 72, 5, 13), PRECISIONS[precision]), SHORT)


def test_any_number_of_parts_will_do_even_more_than_there_are_chunks(machine, monkeypatch):
    layer = Layer(Size(72, 24, 5, 13), TF32)
    for parts in (3, 16, 64):
        forced = replace(RUNGS[SHORT], launch=lambda p, n=parts: Choice((64, 64), n).launch(p))
        monkeypatch.setitem(RUNGS, "forced", forced)
        got = machine.check(lambda d: run_backward(layer, d, "forced", False, "SP", True))
        check_backward(layer, got, "forced", False, "SP", True)


def test_the_rungs_in_use_split_by_themselves_and_take_their_memory_beforehand(stand_in, monkeypatch):
    """A pass may be recorded once and repeated: nothing may be allocated in it."""
    layer, short, device = Layer(Size(512, 8, 2, 3), TF32), PRODUCTION["tf32"], stand_in.devices[0]
    forward, backward = (RUNGS[short].launch(Pass(*shape, 2, 3, TF32)) for shape in ((512, 8), (8, 512)))
    assert forward.parts > 1
    assert backward.parts == 0  # 5 chunks: another launch would take longer
    size = 512, 8, 2, 3
    assert conv.scratch_floats(short, TF32, 90, *size) == forward.parts * 6 * 8
    assert conv.scratch_floats("03_register_tile", FLOAT32, 90, *size) == 0
    kernel = layer.kernel(device, short)
    scratch = unwritten(device, (forward.parts * 6 * 8,), np.float32)
    shared = conv.Convolution(device, TF32, short, *size, False, scratch)
    got = stand_in.check(lambda d: run_forward(layer, d, short, False, True))
    check_forward(layer, got, short, False)
    x, w, y = (device.to_device(np.zeros(shape, np.float32)) for shape in ((2, 3, 512), (8, 9, 512), (2, 3, 8)))
    b = device.to_device(layer.b)
    monkeypatch.setattr(device, "empty", None)
    kernel.forward(x, w, b, None, y)
    assert np.all(np.isnan(device.to_host(scratch)))
    shared.forward(x, w, b, None, y)
    assert np.all(device.to_host(scratch) == 0)
    np.testing.assert_allclose(device.to_host(y)[1, 2], np.maximum(layer.b, 0), TF32.unit)


BUGS = {
    "none": ("", ""),
    "a chunk left out between two parts": ("chunks * part / count,", "chunks * part / count + (part > 0),"),
    "a part that nobody adds": ("part < count; ++part", "part < count - 1; ++part"),
    "parts on top of each other": ("parts + (size_t)part * positions * pitch", "parts"),
    "the tenth tap of a later part unscaled": ("style_left < count ? style_left : count", "first ? 0 : style_left"),
    "the taps begun anew in every part": ("9 * in, 0, first - of_style)", "9 * in, 0, 0)"),
}


@pytest.mark.slow
@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_shows_in_the_numbers_or_in_their_order(unoptimised, tmp_path, monkeypatch, bug):
    there, gone = BUGS[bug]
    real, read = source.read(conv.SPLIT_SUM), source.read
    files = {"planted.cu": real.text, **real.headers}
    assert sum(text.count(there) for text in files.values()) == 1 or not there
    for name, text in files.items():
        (tmp_path / name).write_text(text.replace(there, gone) if there else text)
    broken = source.parse(tmp_path / "planted.cu", conv.SPLIT_SUM)
    monkeypatch.setattr(source, "read", lambda name: broken if name == conv.SPLIT_SUM else read(name))
    forced = replace(RUNGS[SHORT], launch=lambda p: Choice((64, 64), 9).launch(p))  # the tenth tap ends in the second
    monkeypatch.setitem(RUNGS, "forced", forced)
    layer = Layer(Size(72, 40, 5, 13), TF32)

    def sound():
        got = unoptimised.check(lambda d: run_backward(layer, d, "forced", False, "SP", True))
        check_backward(layer, got, "forced", False, "SP", True)

    if bug == "none":
        sound()
    else:
        with pytest.raises((AssertionError, KernelError)):
            sound()


def small_layers() -> None:
    """What AddressSanitizer watches: a layer that ends inside a tile."""
    device, layer = OnCpuDevice(build="asan"), Layer(Size(24, 40, 3, 25), TF32)
    check_forward(layer, run_forward(layer, device, SHORT, True, True), SHORT, True)
    check_backward(layer, run_backward(layer, device, SHORT, False, "SP", True), SHORT, False, "SP", True)


@pytest.mark.slow
def test_neither_kernel_leaves_its_memory():
    done = run_sanitized("asan", "from test_cuda_tiles import small_layers\nsmall_layers()\nprint('done')")
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
