"""Which tile a layer gets, and into how many parts its sum is split: by rule, or as measured; conv3x3/08."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from cuda_conv import Layer, Size, check_backward, check_forward, run_backward, run_forward
from cuda_devices import unwritten
from cuda_sanitized import run_sanitized

from nstcore.engines.cuda import conv, gpu, source, tiles
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

ENTRY = {"architecture": 90, "precision": "tf32", "inputs": 64, "outputs": 128, "positions": 1024}
MEASURED = {"layers": [ENTRY | {"tile": [128, 64], "parts": 2, "microseconds": 9.5}]}


@pytest.fixture
def table(tmp_path, monkeypatch):
    """Writes kernels/tiles.json, elsewhere."""
    path = tmp_path / "tiles.json"
    monkeypatch.setattr(tiles, "file", lambda: path)

    def write(content) -> str:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        tiles.measured.cache_clear()
        return str(path)

    yield write
    tiles.measured.cache_clear()


def test_a_measured_layer_gets_what_was_fastest_and_any_other_what_the_rule_says(table):
    table(MEASURED)
    found = tiles.chosen(Pass(64, 128, 32, 32, TF32))
    assert found == Choice((128, 64), 2) != tiles.predicted(Pass(64, 128, 32, 32, TF32))
    assert tiles.chosen(Pass(64, 128, 30, 40, TF32)) == found  # about as many positions
    others = (
        Pass(64, 128, 64, 64, TF32),
        Pass(64, 64, 32, 32, TF32),
        Pass(64, 128, 32, 32, FLOAT16),
        Pass(64, 128, 32, 32, TF32, 80),
    )
    for other in others:
        assert tiles.chosen(other) == tiles.predicted(other)


def test_without_the_file_the_rule_decides(table):
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
        {"layers": [ENTRY | {"tile": [128, 128], "parts": 1, "inputs": -1}]},
        {"layers": [ENTRY | {"tile": [128, 128], "parts": 1, "precision": "float32"}]},
    ],
    ids=range(11),
)
def test_a_file_that_is_something_else_is_refused_in_one_line(table, content):
    path = table(content)
    with pytest.raises(DeviceError) as error:
        tiles.chosen(Pass(64, 128, 32, 32, TF32))
    assert str(error.value).startswith(f"{path}: expected what tools/tune_tiles.py writes, got ")
    assert "\n" not in str(error.value)


def test_every_form_that_a_table_can_ask_for_is_among_the_variants_that_are_checked():
    checked = {(v.rung, v.precision.name, *v.defines.items()) for v in conv.variants() if v.production}
    for tile, parts, name in itertools.product(tiles.TILES, tiles.PARTS, ("tf32", "float16", "bfloat16")):
        launch = Choice(tile, parts).launch(Pass(512, 512, 8, 8, PRECISIONS[name]))
        rung = tiles.SPLIT_SUM if launch.parts else RUNGS[PRODUCTION[name]].name
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
    real, read = source.read(tiles.SPLIT_SUM), source.read
    files = {"planted.cu": real.text, **real.headers}
    assert sum(text.count(there) for text in files.values()) == 1 or not there
    for name, text in files.items():
        (tmp_path / name).write_text(text.replace(there, gone) if there else text)
    broken = source.parse(tmp_path / "planted.cu", tiles.SPLIT_SUM)
    monkeypatch.setattr(source, "read", lambda name: broken if name == tiles.SPLIT_SUM else read(name))
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


# ---- the tool -------------------------------------------------------------------------------------------------------


@pytest.fixture
def tool():
    """Not where a sanitizer imports this file: its process knows no tools."""
    import tune_tiles

    return tune_tiles


def test_the_tool_measures_every_choice_and_writes_what_the_engine_reads(tool, stand_in, table, monkeypatch):
    monkeypatch.setattr(tool.gpu_bench, "shapes", lambda size: [("conv2_1", 64, 128, size)])
    monkeypatch.setattr(tiles, "TILES", {(64, 64): 8, (128, 64): 11})
    device = stand_in.devices[0]
    found = tool.tune(device, [3], ["tf32"], 1)
    assert [(f["inputs"], f["outputs"]) for f in found["layers"]] == [(64, 128), (128, 64)]
    for layer in found["layers"]:
        p = Pass(layer["inputs"], layer["outputs"], 3, 3, TF32)
        assert len(layer["tried"]) == len(list(tool.candidates(p, device.processors)))
        assert layer["microseconds"] == min(layer["tried"].values())
    path = table(found)
    assert len(tiles.measured(tiles.file())) == 2, path


def test_a_choice_that_computes_something_else_is_not_timed(tool, stand_in, monkeypatch, capsys):
    monkeypatch.setattr(tool, "agree", lambda *_: False)
    p = Pass(64, 8, 2, 2, TF32)
    assert tool.measure(stand_in.devices[0], p, 1) is None
    assert "left out" in capsys.readouterr().err


def test_without_a_gpu_the_tool_says_so_in_one_line(tool, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(gpu, "problem", lambda: "CuPy is not installed; take one")
    assert tool.main(["--write", str(tmp_path / "tiles.json")]) == 2
    assert capsys.readouterr().err == "tune_tiles: device cuda: CuPy is not installed; take one\n"
    assert list(tmp_path.iterdir()) == []
