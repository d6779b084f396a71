"""Files written by torch.save: read without torch, exactly, and without running anything that they say."""

from __future__ import annotations

import copyreg
import io
import pickle
import struct
import time
import tracemalloc
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
from conftest import SHARED, random_weights
from weights_files import refused
from weights_torch_files import (
    PLACES,
    READERS,
    TORCH,
    Built,
    Call,
    Evil,
    Name,
    Persistent,
    Raw,
    attacks,
    patched,
    pickled,
    rewritten,
    same_filters,
    state_dict,
    write,
    write_legacy,
    write_zip,
)

from nstcore import vgg
from nstcore.pretrained import Preprocessing, Weights
from nstcore.pretrained.readers import torch_legacy, torch_zip

OXFORD = Preprocessing("bgr", 255.0, (103.939, 116.779, 123.68), (1.0, 1.0, 1.0))


@pytest.fixture
def small(monkeypatch) -> Weights:
    """A network of a few kilobytes under the name of vgg19, and a smaller one under that of vgg16."""
    monkeypatch.setitem(vgg.ARCHITECTURES, "vgg16", ((1, 4), (2, 6)))
    monkeypatch.setitem(vgg.ARCHITECTURES, "vgg19", ((1, 4), (3, 6)))
    return random_weights(deepest="conv2_3")


def saved(torch, container, path, content):
    torch.save(content, path, _use_new_zipfile_serialization=container == "zip")
    return path


# ---- what torch writes


@pytest.mark.parametrize("container", TORCH)
def test_torch_itself_writes_what_these_tests_write(tmp_path, container):
    torch = pytest.importorskip("torch")
    arrays = {"features.0.weight": np.arange(6, dtype="f4").reshape(2, 3), "features.0.bias": np.ones(3, "f2")}
    arrays |= {"x": np.full((4, 1, 2, 2), 2.5, "f8"), "steps": np.array(7)}
    content = OrderedDict((name, torch.from_numpy(array)) for name, array in arrays.items())
    content._metadata = OrderedDict({"": {"version": 1}, "features": {"version": 1}})
    theirs = saved(torch, container, tmp_path / "archive.pth", content).read_bytes()

    options = {}
    if container == "legacy":  # its keys are addresses
        options["keys"] = [str(tensor.untyped_storage()._cdata) for tensor in content.values()]
    else:
        options["identity"] = zipfile.ZipFile(io.BytesIO(theirs)).read("archive/.data/serialization_id")

    def wrap(calls):
        return Built(calls, {"_metadata": Built({"": {"version": 1}, "features": {"version": 1}})})

    assert write(container, tmp_path / "ours.pth", arrays, wrap, **options).read_bytes() == theirs


@pytest.mark.parametrize("container", TORCH)
@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "bfloat16"])
def test_what_torch_saves_is_read_exactly(tmp_path, small, container, dtype):
    torch = pytest.importorskip("torch")
    content = OrderedDict(
        (name, torch.nn.Parameter(torch.from_numpy(array).to(getattr(torch, dtype))))
        for name, array in state_dict(small).items()
    )
    found = READERS[container].read(saved(torch, container, tmp_path / "w.pth", {"state_dict": content, "epoch": 3}))
    for (weight, bias), (name, tensor) in zip(found.filters.values(), list(content.items())[::2], strict=True):
        assert np.array_equal(weight, tensor.detach().float().numpy())
        assert np.array_equal(bias, content[name.replace("weight", "bias")].detach().float().numpy())


@pytest.mark.parametrize("container", TORCH)
def test_tensors_that_share_a_storage_or_lie_transposed_are_read(tmp_path, small, container):
    torch = pytest.importorskip("torch")
    flat = torch.from_numpy(np.concatenate([a.ravel() for a in state_dict(small).values()]))
    content, at = {}, 0
    for name, array in state_dict(small).items():
        tensor = flat[at : at + array.size].view(array.shape)
        content[name] = tensor.to(memory_format=torch.channels_last) if array.ndim == 4 else tensor
        at += array.size
    assert same_filters(READERS[container].read(saved(torch, container, tmp_path / "w.pth", content)), small)


@pytest.mark.parametrize("container", TORCH)
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_of_pickle_is_read(tmp_path, small, container, protocol):
    torch = pytest.importorskip("torch")
    content = OrderedDict((name, torch.from_numpy(array)) for name, array in state_dict(small).items())
    path = tmp_path / "w.pth"
    torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=container == "zip")
    assert READERS[container].recognise(path)
    assert same_filters(READERS[container].read(path), small)


@pytest.mark.parametrize("container", TORCH)
def test_a_saved_module_is_refused_by_its_class(tmp_path, container):
    torch = pytest.importorskip("torch")
    path = saved(torch, container, tmp_path / "w.pth", torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3)))
    assert "refused torch.nn.modules.container.Sequential" in refused(READERS[container].read, path)


def test_a_file_of_torch_without_checksums_is_read(tmp_path, small):
    torch = pytest.importorskip("torch")
    config = pytest.importorskip("torch.utils.serialization").config
    content = {name: torch.from_numpy(array) for name, array in state_dict(small).items()}
    with config.patch("save.compute_crc32", False):
        torch.save(content, tmp_path / "w.pth")
    assert same_filters(torch_zip.read(tmp_path / "w.pth"), small)


# ---- networks and names


@pytest.mark.parametrize(("n", "last"), [(1, "conv1_1"), (3, "conv3_1")])
def test_the_published_normalised_networks_are_read(n, last):
    path = SHARED / "torch_legacy" / f"vgg_normalised_conv{n}_1.pth"
    if not path.is_file():
        pytest.skip(f"the published file is not at {path}")
    assert torch_legacy.recognise(path)
    source = torch_legacy.read(path)
    assert list(source.filters)[-1] == last
    assert source.preprocessing == OXFORD
    # Oxford's filter 0: first row of its first channel, and bias; normalising scales all of a filter alike
    weight, bias = source.filters["conv1_1"]
    scale = np.array([*weight[0, 0, 0], bias[0]]) / [0.341195, 0.339992, -0.044844, 0.7301776]
    assert np.allclose(scale, scale[0], rtol=1e-4)
    assert 0 < scale[0] < 1


@pytest.mark.parametrize("container", TORCH)
def test_python_2_and_wrapped_checkpoints_are_read(tmp_path, small, container):
    def python2(calls):  # an ordered dictionary as a list of pairs, short byte strings, the first tensor function
        def old(call):
            return Call(Name("torch._utils", "_rebuild_tensor"), call.arguments[:4])

        pairs = [[Raw(b"U" + bytes([len(name)]) + name.encode()), old(call)] for name, call in calls.items()]
        return Call(Name("collections", "OrderedDict"), (pairs,))

    def parameters(calls):  # torch 0.1, 0.4 and before both
        kind = Name("torch.nn.parameter", "Parameter")
        called = {k: Built(Call(kind, (call,)), (True, False, None)) for k, call in calls.items()}
        called["features.0.weight"] = Call(kind, (calls["features.0.weight"], True))
        built = {k: Built(kind, (call, None, None, True, False)) for k, call in calls.items() if "bias" in k}
        return called | built

    def trained(calls):
        return {
            "model": {"state_dict": {f"module.model.{k}": v for k, v in calls.items()}},
            "optimizer": {"state": {0: {"momentum": None}, 1: {}}, "lr": Raw(b"G" + struct.pack(">d", 0.1))},
        }

    for wrap in (python2, parameters, trained):
        path = write(container, tmp_path / "w.pth", state_dict(small), wrap)
        assert same_filters(READERS[container].read(path), small)


def test_numbers_in_the_other_byte_order_are_read(tmp_path, small):
    swapped = {name: array.byteswap() for name, array in state_dict(small).items()}
    assert same_filters(torch_zip.read(write("zip", tmp_path / "big.pth", swapped, order="big")), small)
    assert same_filters(torch_zip.read(write("zip", tmp_path / "old.pth", state_dict(small), order=None)), small)
    assert "byteorder: expected little or big" in refused(
        torch_zip.read, write("zip", tmp_path / "odd.pth", state_dict(small), order="middle")
    )


def first(change):
    """Change the arguments of the first convolution's tensor."""
    return lambda name, call: (
        Call(call.function, change(*call.arguments)) if name == "features.0.weight" else call
    )  # fmt: skip


@pytest.mark.parametrize("container", TORCH)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s, o, shape, stride, *x: (s, 1, shape, stride, *x), "expected numbers up to 108 in its storage, whi"),
        (lambda s, o, shape, stride, *x: (s, 0, shape, (27, 9, 3, 2), *x), "expected numbers up to 109"),
        (lambda s, o, shape, stride, *x: (s, 0, shape, (9, 9, 3, 1), *x), "expected numbers side by side"),
        (lambda s, o, shape, stride, *x: (s, 0, shape, (0, 0, 0, 0), *x), "expected numbers side by side"),
        (lambda s, o, shape, stride, *x: (s, 0, (1 << 40, 3, 3, 3), stride, *x), "features.0.weight: expected float32"),
        (lambda s, o, shape, stride, *x: (s, 0, shape, stride[1:], *x), "expected a tensor's storage, offset, shape"),
        (lambda s, o, shape, stride, *x: (s, -1, shape, stride, *x), "expected a tensor's storage, offset, shape"),
        (lambda s, o, shape, stride, *x: (s, 1 << 70, shape, stride, *x), "expected a tensor's storage, offset, shape"),
        (lambda s, *x: (None, *x), "expected a tensor's storage, offset, shape"),
        (lambda s, *x: (Persistent(s.content[:4]), *x), "expected a storage of numbers"),
        (lambda s, *x: (Persistent((*s.content[:4], 1 << 63)), *x), "expected a storage of numbers"),
        (lambda s, *x: (Persistent((*s.content[:5], ("k", 0, 5))), *x), "a view of another one"),
        (lambda s, *x: (Persistent(("module", *s.content[1:])), *x), "expected a storage of numbers"),
        (lambda s, *x: (Persistent((*s.content[:4], 1 << 61)), *x), "expected"),
        (lambda s, *x: (Persistent((*s.content[:2], "no", *s.content[3:])), *x), "expected the 8 storages|no: missing"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(tmp_path, small, container, change, words):
    path = write(container, tmp_path / "w.pth", state_dict(small), change=first(change))
    message = refused(READERS[container].read, path)
    assert any(alternative in message for alternative in words.split("|"))


@pytest.mark.parametrize("container", TORCH)
@pytest.mark.parametrize(
    ("wrap", "words"),
    [
        (lambda calls: [*calls.values()], "expected a state dict, found a list"),
        (
            lambda calls: {"weights": calls},
            "or one under state_dict or model_state_dict or model or net; found weights",
        ),
        (lambda calls: {"model": calls, "net": calls}, "expected one state dict, found model and net"),
        (lambda calls: {}, "found nothing"),
        (lambda calls: {(1, 2): 3}, "expected names as keys, found tuple"),
        (lambda calls: Call(Name("collections", "OrderedDict"), (3,)), "expected an ordered dictionary of a list"),
        (lambda calls: Call(Name("collections", "OrderedDict"), ([3],)), "expected pairs"),
        (lambda calls: Call(Name("torch", "FloatStorage"), (3,)), "refused to call torch.FloatStorage"),
        (lambda calls: Call(Name("torch._utils", "_rebuild_parameter"), (3,)), "expected a parameter to hold a tensor"),
        (lambda calls: Call({}, ()), "expected Global, found dict"),
    ],
)
def test_objects_that_are_no_state_dict_are_refused(tmp_path, small, container, wrap, words):
    path = write(container, tmp_path / "w.pth", state_dict(small), wrap)
    assert words in refused(READERS[container].read, path)


# ---- pickles that would run code


@pytest.mark.parametrize("container", TORCH)
@pytest.mark.parametrize("attack", attacks(""))
def test_a_pickle_that_would_run_code_is_refused_by_name_and_nothing_runs(tmp_path, small, container, attack):
    marker = tmp_path / "ran"
    code, words = attacks(f"echo > {marker}")[attack]
    copyreg.add_extension("os", "system", 0xF0)
    try:
        for place in PLACES.values():
            path = write(container, tmp_path / "w.pth", state_dict(small), lambda calls, p=place: p(code, calls))
            assert words in refused(READERS[container].read, path)
            assert not marker.exists()
    finally:
        copyreg.remove_extension("os", "system", 0xF0)


def test_these_attacks_do_run_where_a_file_is_plainly_unpickled(tmp_path):
    """Else the test above would show nothing."""
    marker = tmp_path / "ran"
    for attack in ("protocol 0", "protocol 4", "INST", "OBJ", "STACK_GLOBAL", "BUILD", "EXT1"):
        copyreg.add_extension("os", "system", 0xF0)
        try:
            pickle.loads(attacks(f"echo > {marker}")[attack][0] + b".")
        finally:
            copyreg.remove_extension("os", "system", 0xF0)
        assert marker.exists(), attack
        marker.unlink()


def test_the_other_pickles_of_a_legacy_stream_are_as_restricted(tmp_path, small):
    marker = tmp_path / "ran"
    evil = pickle.dumps(Evil(f"echo > {marker}"), 2)
    magic, protocol, machine = pickled(0x1950A86A20F9469CFC6C), pickled(1001), pickled({})
    for head in (evil, magic + evil, magic + protocol + evil):
        path = write("legacy", tmp_path / "w.pth", state_dict(small), head=head)
        assert "refused posix.system" in refused(torch_legacy.read, path).replace("nt.system", "posix.system")
    (tmp_path / "w.pth").write_bytes(magic + protocol + machine + pickled({"a": 1}) + evil)
    assert "expected a state dict" in refused(torch_legacy.read, tmp_path / "w.pth")
    (tmp_path / "w.pth").write_bytes(pickle.dumps({"a": 1}, 4))
    assert torch_legacy.recognise(tmp_path / "w.pth")
    assert "expected a file written by torch.save, found another pickle" in refused(
        torch_legacy.read, tmp_path / "w.pth"
    )
    assert not marker.exists()


BOMBS = {
    "a memo of four thousand million": b"Nr\xff\xff\xff\xff" * 3 + b"N",
    "text of four thousand million": b"X\xff\xff\xff\xffabc",
    "a frame of all memory": b"\x95" + b"\xff" * 8 + b"N",
    "bytes of all memory": b"\x96" + b"\xff" * 7 + b"\x7f",
    "an integer of two thousand million bytes": b"\x8b\xff\xff\xff\x7f1",
    "a tuple that takes for ever to hash": b"}N" + b"q\x00h\x00\x86" * 90 + b"Ns",
    "a tuple too deep to hash": b"}N" + b"\x85" * 90_000 + b"Ns",
    "a list in itself": b"]q\x00h\x00a",
    "dictionaries without end": b"}" * 900_000,
    "marks without end": b"(" * 900_000,
    "a list copied a million times": b"](" + b"]NaNa" * 1000 + b"eq\x00" + b"ccollections\nOrderedDict\nq\x01h\x00\x85R"
    + b"0h\x01h\x00\x85R" * 40_000,
    "pairs copied a million times": b"](" + b"](K\x01Ne" * 9000 + b"eq\x000ccollections\nOrderedDict\nq\x01"
    + b"h\x01h\x00\x85R" * 15_000,
    "a line of a megabyte": b"c" + b"a" * (1 << 20),
    "nothing to take": b"\x86",
    "a missing mark": b"Nt",
    "half a dictionary": b"}(Nu",
    "nothing remembered": b"h\x07",
}  # fmt: skip


@pytest.mark.parametrize("container", TORCH)
@pytest.mark.parametrize("bomb", BOMBS)
def test_a_pickle_that_asks_for_too_much_is_refused_quickly(tmp_path, container, bomb):
    writer = write_legacy if container == "legacy" else write_zip
    path = writer(tmp_path / "w.pth", b"\x80\x02" + BOMBS[bomb] + b".", {})
    tracemalloc.start()
    started = time.perf_counter()
    try:
        refused(READERS[container].read, path)
        assert tracemalloc.get_traced_memory()[1] < 40 << 20
    finally:
        tracemalloc.stop()
    assert time.perf_counter() - started < 10


# ---- archives that are hostile


STORED, DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda n, d: [(n, d, DEFLATED)], "expected plain storage as torch writes it, found it compressed"),
        (lambda n, d: [(n, bytes(1 << 24), DEFLATED)] if n.endswith("data/0") else [(n, d, STORED)], "compressed"),
        (lambda n, d: [(n, d, STORED)] * (1 + n.endswith("data/0")), "data/0: found twice"),
        (lambda n, d: [(n, d, STORED)] * (1 + n.endswith(".pkl")), "expected a file written by torch.save"),
        (lambda n, d: [(n.replace("version", "../../x"), d, STORED)], "expected only names inside archive/"),
        (lambda n, d: [(n.replace("archive/version", "/etc/x"), d, STORED)], "/etc/x: expected only names inside"),
        (lambda n, d: [(n.replace("version", "..\\x"), d, STORED)], "expected only names inside archive/"),
        (lambda n, d: [] if n.endswith("data/3") else [(n, d, STORED)], "data/3: missing in the archive"),
        (lambda n, d: [] if n.endswith("pkl") else [(n, d, STORED)], "expected a file written by torch.save, found a"),
        (lambda n, d: [(n, d + b"x" * n.endswith("data/0"), STORED)], "data/0: expected 432 bytes, found 433"),
        (lambda n, d: [(n, d[n.endswith("data/0") :], STORED)], "data/0: expected 432 bytes, found 431"),
        (lambda n, d: [(n, d + bytes(1 << 20) * n.endswith("pkl"), STORED)], "data.pkl: expected at most 1048576 byte"),
        (lambda n, d: [(f"{n}{i}", b"", STORED) for i in range(2000)], "expected a directory of at most 1048576 bytes"),
    ],
)
def test_a_hostile_archive_is_refused(tmp_path, small, change, words):
    plain = write("zip", tmp_path / "w.pth", state_dict(small))
    path = rewritten(plain, tmp_path / "hostile.pth", change)
    assert torch_zip.recognise(path)
    assert words in refused(torch_zip.read, path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["hostile.pth", "w.pth"]


@pytest.mark.parametrize(
    ("at", "value", "words"),
    [
        (16, b"\1\2\3\4", "data/0: its data does not fit its checksum"),
        (20, struct.pack("<II", 500, 500), "data/0: expected 432 bytes, found 500"),
        (20, struct.pack("<II", 1 << 30, 1 << 30), "expected to end within"),
        (24, struct.pack("<I", 1 << 30), "data/0: expected plain storage"),
        (8, struct.pack("<H", 1), "found it compressed or encrypted"),
        (42, struct.pack("<I", 0), "lies over another entry"),
        (42, struct.pack("<I", 1 << 31), "expected to end within"),
        (42, struct.pack("<I", 448), "lies over another entry"),
    ],
)
def test_a_directory_that_lies_is_refused(tmp_path, small, at, value, words):
    path = write("zip", tmp_path / "w.pth", state_dict(small))
    assert words in refused(torch_zip.read, patched(path, "archive/data/0", at, value))


def test_a_changed_number_in_an_archive_is_noticed(tmp_path, small):
    path = write("zip", tmp_path / "w.pth", state_dict(small))
    content = path.read_bytes()
    numbers = small.filters["conv2_1"][0].tobytes()
    path.write_bytes(content.replace(numbers, numbers[:-1] + bytes([numbers[-1] ^ 1])))
    assert "features.3.weight: data/2: its data does not fit its checksum" in refused(torch_zip.read, path)


def test_storages_that_do_not_fit_the_pickle_are_refused(tmp_path, small):
    arrays = list(state_dict(small).values())
    path = write("legacy", tmp_path / "w.pth", state_dict(small))
    content = path.read_bytes()
    at = content.index(arrays[0].tobytes()) - 8  # of the first storage
    path.write_bytes(content[:at] + struct.pack("<q", 1 << 60) + content[at + 8 :])
    assert f"expected 108 numbers, found {1 << 60}" in refused(torch_legacy.read, path)
    head = content[: content.rindex(b"\x80\x02]", 0, at)]
    for keys, words in ((3, "expected a list"), ([3], "expected a list"), (["no"], "found 1 others"), ([], "found 0")):
        path.write_bytes(head + pickled(keys))
        assert words in refused(torch_legacy.read, path)
