"""Checkpoints as torch and safetensors write them, byte for byte, without either: see `test_weights_torch.py`."""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nstcore import vgg
from nstcore.pretrained import Weights
from nstcore.pretrained.readers import Source, safetensors, torch_legacy, torch_zip

READERS = {"legacy": torch_legacy, "zip": torch_zip, "safetensors": safetensors}
TORCH = ("legacy", "zip")
CLASSIFIER = {"classifier.0": (4096, 25088), "classifier.3": (4096, 4096), "classifier.6": (1000, 4096)}

# numpy's type, and what torch and safetensors call it; an array of uint16 stands for bfloat16
_STORAGES = {"f4": "Float", "f2": "Half", "f8": "Double", "i8": "Long", "u2": "BFloat16"}
_CODES = {"f4": "F32", "f2": "F16", "f8": "F64", "i8": "I64", "u2": "BF16"}


@dataclass
class Zeros:
    """A tensor of zeros that takes no memory, and in a sparse file no disk."""

    shape: tuple[int, ...]
    dtype: np.dtype = field(default_factory=lambda: np.dtype("f4"))

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape)) * self.dtype.itemsize


@dataclass(frozen=True)
class Name:
    """A class or function, by name."""

    module: str
    name: str


@dataclass(frozen=True)
class Call:
    """A call of one."""

    function: Any
    arguments: tuple


@dataclass(frozen=True)
class Persistent:
    """What torch keeps outside the pickle."""

    content: tuple


@dataclass
class Built:
    """An ordered dictionary (or a class, or what a call gives), perhaps with a state."""

    items: dict | Name | Call
    state: dict | tuple | None = None


@dataclass(frozen=True)
class Raw:
    """Operations as they are."""

    code: bytes


def pickled(value: Any) -> bytes:
    """What Python's pickler makes of it with protocol 2, names not being looked up."""
    out, memo = bytearray(b"\x80\x02"), {}

    def remember(key: Any = None) -> None:
        index = len(memo)
        memo[object() if key is None else key] = index
        out.extend(b"q" + bytes([index]) if index < 256 else b"r" + struct.pack("<I", index))

    def once(key: Any, code: bytes) -> None:
        if key in memo:
            index = memo[key]
            out.extend(b"h" + bytes([index]) if index < 256 else b"j" + struct.pack("<I", index))
        else:
            out.extend(code)
            remember(key)

    def save_items(items: dict) -> None:
        pairs = [part for pair in items.items() for part in pair]
        if len(pairs) > 2:
            out.extend(b"(")
        for part in pairs:
            save(part)
        out.extend({0: b"", 2: b"s"}.get(len(pairs), b"u"))

    def save(value: Any) -> None:
        match value:
            case None | True | False:
                out.extend({None: b"N", True: b"\x88", False: b"\x89"}[value])
            case int() if 0 <= value < 1 << 31:
                code, size = (b"K", 1) if value < 256 else (b"M", 2) if value < 1 << 16 else (b"J", 4)
                out.extend(code + value.to_bytes(size, "little"))
            case int():
                size = value.bit_length() // 8 + 1
                out.extend(b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True))
            case str():
                once(value, b"X" + struct.pack("<I", len(value.encode())) + value.encode())
            case tuple() if not value:
                out.extend(b")")
            case tuple():
                out.extend(b"(" if len(value) > 3 else b"")
                for part in value:
                    save(part)
                out.extend({1: b"\x85", 2: b"\x86", 3: b"\x87"}.get(len(value), b"t"))
                remember()
            case list():
                out.extend(b"]")
                remember()
                out.extend(b"(" if len(value) > 1 else b"")
                for part in value:
                    save(part)
                out.extend({0: b"", 1: b"a"}.get(len(value), b"e"))
            case dict():
                out.extend(b"}")
                remember()
                save_items(value)
            case Name(module, name):
                once(value, f"c{module}\n{name}\n".encode())
            case Call(function, arguments):
                save(function)
                save(arguments)
                out.extend(b"R")
                remember()
            case Built(items, state):
                save(Call(Name("collections", "OrderedDict"), ()) if isinstance(items, dict) else items)
                if isinstance(items, dict):
                    save_items(items)
                elif isinstance(items, Name):
                    out.extend(b")\x81")
                    remember()
                if state is not None:
                    save(state)
                    out.extend(b"b")
            case Persistent(content):
                save(content)
                out.extend(b"Q")
            case Raw(code):
                out.extend(code)
            case _:
                raise TypeError(type(value))

    save(value)
    return bytes(out + b".")


def described(array: Any, key: str, legacy: bool) -> Call:
    """A tensor as torch describes it."""
    storage = Name("torch", f"{_STORAGES[array.dtype.str[1:]]}Storage")
    content = ("storage", storage, key, "cpu", int(np.prod(array.shape)), *((None,) if legacy else ()))
    strides = tuple(int(np.prod(array.shape[i + 1 :])) for i in range(len(array.shape)))
    hooks = Call(Name("collections", "OrderedDict"), ())
    arguments = (Persistent(content), 0, array.shape, strides, False, hooks)
    return Call(Name("torch._utils", "_rebuild_tensor_v2"), arguments)


def write(
    container: str, path: Path, tensors: Mapping[str, Any], wrap=lambda described: described, change=None, **options
) -> Path:
    """A state dict in any container.

    `wrap` changes what is pickled (torch only), `change(name, Call) -> Call` the description of one tensor.
    """
    if container == "safetensors":
        return write_safetensors(path, tensors)
    legacy = container == "legacy"
    keys = options.pop("keys", [str(94000000000000 + 16 * i) if legacy else str(i) for i in range(len(tensors))])
    calls = {name: described(a, key, legacy) for key, (name, a) in zip(keys, tensors.items(), strict=True)}
    if change:
        calls = {name: change(name, call) for name, call in calls.items()}
    storages = dict(zip(keys, tensors.values(), strict=True))
    return (write_legacy if legacy else write_zip)(path, pickled(wrap(calls)), storages, **options)


def write_legacy(path: Path, description: bytes, storages: Mapping[str, Any], head: bytes | None = None) -> Path:
    """As `torch.save(..., _use_new_zipfile_serialization=False)` does."""
    sizes = {"short": 2, "int": 4, "long": 4}
    machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": sizes}
    keys = sorted(storages)
    with path.open("wb") as file:
        file.write(head or b"".join(map(pickled, (0x1950A86A20F9469CFC6C, 1001, machine))))
        file.write(description + pickled(keys))
        for key in keys:
            file.write(struct.pack("<q", int(np.prod(storages[key].shape))))
            _write_numbers(file, storages[key])
    return path


def write_zip(
    path: Path,
    description: bytes,
    storages: Mapping[str, Any],
    folder: str = "archive",
    identity: bytes = b"0" * 40,
    order: str | None = "little",
) -> Path:
    """As `torch.save` does since 2.6: stored, aligned to 64 bytes, sizes behind the data, always with zip64."""
    entries: dict[str, Any] = {"data.pkl": description, ".format_version": b"1", ".storage_alignment": b"64"}
    entries |= {"byteorder": order.encode()} if order else {}
    entries |= {f"data/{key}": array for key, array in storages.items()}
    entries |= {"version": b"3\n", ".data/serialization_id": identity}
    directory = b""
    with path.open("wb") as file:
        for short, content in entries.items():
            name = f"{folder}/{short}".encode()
            at, size = file.tell(), len(content) if isinstance(content, bytes) else content.nbytes
            padding = -(at + 30 + len(name) + 4) % 64
            extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
            file.write(struct.pack("<4s3H4xIIIHH", b"PK\3\4", 0, 0x808, 0, 0, 0, 0, len(name), len(extra)))
            file.write(name + extra)
            if isinstance(content, Zeros):
                checksum = 0  # as torch does when it is told to leave it out
                _write_numbers(file, content)
            else:
                data = content if isinstance(content, bytes) else content.tobytes()
                checksum = zlib.crc32(data)
                file.write(data)
            file.write(struct.pack("<4sIII", b"PK\7\x08", checksum, size, size))
            directory += struct.pack("<4s4H4xIIIHHHHHII", b"PK\1\2", 0, 0, 0x808, 0, checksum, size, size, len(name), *(
                0, 0, 0, 0, 0, at
            )) + name  # fmt: skip
        at, count = file.tell(), len(entries)
        file.write(directory)
        file.write(struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 0x31E, 45, 0, 0, count, count, len(directory), at))
        file.write(struct.pack("<4sIQI", b"PK\6\7", 0, at + len(directory), 1))
        file.write(struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, count, count, len(directory), at, 0))
    return path


def write_safetensors(path: Path, tensors: Mapping[str, Any], metadata: dict[str, str] | None = None) -> Path:
    """As `safetensors.numpy.save_file` does: wider types first, then by name."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    ordered = sorted(tensors.items(), key=lambda item: ("i8 f8 f4 u2 f2".index(item[1].dtype.str[1:]), item[0]))
    at = 0
    for name, array in ordered:
        code, ends = _CODES[array.dtype.str[1:]], [at, at + array.nbytes]
        header[name] = {"dtype": code, "shape": list(array.shape), "data_offsets": ends}
        at += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, array in ordered:
            _write_numbers(file, array)
    return path


def _write_numbers(file: Any, array: Any) -> None:
    if isinstance(array, Zeros):
        file.truncate(file.seek(array.nbytes, 1))
    else:
        file.write(array.tobytes())


# ---- names


def numbers(architecture: str, first: int = 0, apart: int = 2) -> dict[str, int]:
    """Place of every convolution in a Sequential."""
    places, number = {}, first
    for step in vgg.steps(architecture):
        if step.kind == "conv":
            places[step.name] = number
            number += apart
        else:
            number += 1
    return places


def state_dict(
    weights: Weights, style: str = "features", dtype: str = "f4", classifier: bool = False
) -> dict[str, Any]:
    """Arrays by the names that one of the published files has."""
    if style == "named":
        names = {conv: conv for conv in weights.filters}
    elif style == "padded":  # AdaIN's: a 1x1 convolution, and a padding layer before every other one
        names = {conv: str(n) for conv, n in numbers(weights.architecture, 2, 3).items()}
    else:
        prefix = {"features": "features.", "bare": ""}[style]
        names = {conv: f"{prefix}{n}" for conv, n in numbers(weights.architecture).items()}
    arrays: dict[str, Any] = {}
    if style == "padded":
        weight = np.fliplr(np.eye(3)) * 255
        arrays |= {"0.weight": weight.reshape(3, 3, 1, 1).astype("f4")}
        arrays |= {"0.bias": np.array([-103.939, -116.779, -123.68], "f4")}
    for conv, (w, b) in weights.filters.items():
        arrays |= {f"{names[conv]}.weight": w.astype(dtype), f"{names[conv]}.bias": b.astype(dtype)}
    if classifier:
        for name, shape in CLASSIFIER.items():
            arrays |= {f"{name}.weight": Zeros(shape), f"{name}.bias": Zeros(shape[:1])}
    return arrays


def same_filters(source: Source, weights: Weights) -> bool:
    return list(source.filters) == list(weights.filters) and all(
        np.array_equal(x, y) and x.dtype == np.float32 and x.flags.c_contiguous
        for conv in weights.filters
        for x, y in zip(source.filters[conv], weights.filters[conv], strict=True)
    )


# ---- hostile files


class Evil:
    """Unpickling it runs a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def attacks(command: str) -> dict[str, tuple[bytes, str]]:
    """Object pickles without head and end, and what their refusal must name."""
    system = f"{os.name}.system"  # posix.system
    call = b"cos\nsystem\n" + text(command) + b"\x85R"
    pickles = {
        f"protocol {n}": (pickle.dumps(Evil(command), n)[2 if n > 1 else 0 : -1], system) for n in (0, 1, 2, 3, 4, 5)
    }
    return pickles | {
        "eval": (b"cbuiltins\neval\n" + text("__import__('os').system('x')") + b"\x85R", "builtins.eval"),
        "getattr": (b"cbuiltins\ngetattr\n" + call + b"\x86R", "builtins.getattr"),
        "python 2": (b"c__builtin__\nexec\n" + text("1") + b"\x85R", "__builtin__.exec"),
        "INST": (b"(" + text(command) + b"ios\nsystem\n", "os.system"),
        "admitted INST": (b"(icollections\nOrderedDict\n", "INST"),
        "OBJ": (b"(cos\nsystem\n" + text(command) + b"o", "os.system"),
        "admitted OBJ": (b"(ccollections\nOrderedDict\no", "OBJ"),
        "NEWOBJ": (b"csubprocess\nPopen\n" + text(command) + b"\x85\x81", "subprocess.Popen"),
        "admitted NEWOBJ": (b"ccollections\nOrderedDict\n)\x81", "NEWOBJ"),
        "NEWOBJ_EX": (b"csubprocess\nPopen\n" + text(command) + b"\x85}\x92", "subprocess.Popen"),
        "STACK_GLOBAL": (text("os") + text("system") + b"\x93" + text(command) + b"\x85R", "os.system"),
        "dotted": (text("collections") + text("OrderedDict.fromkeys") + b"\x93)R", "collections.OrderedDict.fromkeys"),
        "dotted torch": (b"ctorch._utils\nos.system\n" + text(command) + b"\x85R", "torch._utils.os.system"),
        "BUILD": (b"ccollections\nOrderedDict\n)R}" + text("x") + call + b"sb", "os.system"),
        "BUILD of a class": (b"ccollections\nOrderedDict\n}b", "expected dict, found Global"),
        "slots": (
            b"ccollections\nOrderedDict\n)RN}" + text("__class__") + b"K\x01s\x86b",
            "expected Parameter, found dict",
        ),
        "EXT1": (b"\x82\xf0" + text(command) + b"\x85R", "EXT1"),
        "EXT2": (b"\x83\xf0\x00" + text(command) + b"\x85R", "EXT2"),
        "EXT4": (b"\x84\xf0\x00\x00\x00" + text(command) + b"\x85R", "EXT4"),
        "copyreg": (b"ccopyreg\n_reconstructor\n" + call + b"\x85R", "copyreg._reconstructor"),
        "PERSID": (b"Pos.system\n", "PERSID"),
        "in a persistent id": (text("storage") + call + b"\x86Q", "os.system"),
        "in arguments": (b"ctorch._utils\n_rebuild_tensor_v2\n(" + call + b"tR", "os.system"),
        "torch's own": (b"ctorch.hub\nload\n)R", "torch.hub.load"),
        "deserialiser": (b"ctorch.storage\n_load_from_bytes\nC\x00\x85R", "torch.storage._load_from_bytes"),
        "lines": (b"\x8c\x04a\nb\t\x8c\x06system\x93", r"a\nb\t.system"),
    }


# Where in a checkpoint an attack stands: code and the tensors' calls -> what is pickled.
PLACES = {
    "alone": lambda code, calls: Raw(code),
    "as a value": lambda code, calls: {**calls, "x": Raw(code)},
    "as a key": lambda code, calls: {**calls, Raw(code): 1},
    "in a list": lambda code, calls: {"epoch": [1, Raw(code)], "state_dict": calls},
    "in a tuple": lambda code, calls: {**calls, "x": (1, Raw(code), 3, 4)},
    "as metadata": lambda code, calls: Built(calls, {"_metadata": Raw(code)}),
    "as a parameter": lambda code, calls: Call(Name("torch._utils", "_rebuild_parameter"), (Raw(code), True)),
}


def rewritten(source, path, change):
    """The archive again, each entry as `change(name, data)` has it: a list of (name, data, compression)."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for info in old.infolist():
            for name, data, compression in change(info.filename, old.read(info)):
                new.writestr(zipfile.ZipInfo(name), data, compression)
    return path


def patched(path, name: str, at: int, value: bytes):
    """Overwrite bytes of the central directory's entry of `name`."""
    content = bytearray(path.read_bytes())
    entry = content.rindex(name.encode()) - 46
    assert content[entry : entry + 4] == b"PK\1\2"
    content[entry + at : entry + at + len(value)] = value
    path.write_bytes(content)
    return path
