"""What torch checkpoints have in common: a pickle that describes tensors, read without unpickling.

A pickle is a program. Python's own `Unpickler` runs it, and even one whose `find_class` is restricted hashes and
compares whatever the program builds, which a nested tuple can make last for ever. So the few operations that torch's
`save` uses are carried out here. Only names of tensors are used as keys, a call is recognised by its name and answered
with a description, and nothing that a file names is ever imported, looked up or called. Everything else is refused by
its name.

No number is read here: a `Tensor` says where its numbers lie. Which network the tensors are is told from their names
and shapes by `state_dict.assemble`, for torch and safetensors alike.

References
----------
.. [1] Python, Lib/pickletools.py: the operations of a pickle.
.. [2] PyTorch, torch/serialization.py (persistent_id) and torch/_utils.py (_rebuild_tensor_v2).
"""

from __future__ import annotations

import math
import pickletools
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np

from ...errors import WeightsError
from ..weights import shown
from .state_dict import ITEM_SIZES, ByteOrder, read_floats

LARGEST_PICKLE = 1 << 20  # bytes; that of a VGG19 has 4 thousand
_MOST_STEPS = 100_000  # about a thousand for a VGG19
_LARGEST_KEY = 1 << 31
_MOST_SIDES = 8

# Where training programs put the network's own state dict.
_NESTED = ("state_dict", "model_state_dict", "model", "net")
_DEEPEST = 3

# Type of the numbers in a storage.
STORAGES = {
    "torch.FloatStorage": "float32",
    "torch.HalfStorage": "float16",
    "torch.DoubleStorage": "float64",
    "torch.BFloat16Storage": "bfloat16",
    "torch.LongStorage": "int64",
    "torch.IntStorage": "int32",
    "torch.ShortStorage": "int16",
    "torch.CharStorage": "int8",
    "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool",
}
_OPERATIONS = {operation.code: operation.name for operation in pickletools.opcodes}

_ORDERED_DICT = "collections.OrderedDict"
_TENSORS = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2")
_PARAMETERS = ("torch._utils._rebuild_parameter", "torch.nn.parameter.Parameter")
_ADMITTED = frozenset((*STORAGES, _ORDERED_DICT, *_TENSORS, *_PARAMETERS))


@dataclass(frozen=True)
class Storage:
    """A run of numbers somewhere in the file: `key` says where, in the container's own way."""

    key: str
    dtype: str
    numel: int


@dataclass(frozen=True)
class Tensor:
    """A window on a storage; `offset` and `stride` count numbers, not bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def dtype(self) -> str:
        return self.storage.dtype


@dataclass
class Parameter:
    """A tensor that was trained. The first files of torch (2017) give it its tensor last, as state."""

    tensor: Tensor | None = None


@dataclass(frozen=True)
class Global:
    """A class or function that the pickle names: its name, nothing more."""

    name: str


@dataclass
class Machine:
    """One pickle after the other from `stream`; `storages` are those that were mentioned so far."""

    stream: BytesIO
    storages: dict[str, Storage] = field(default_factory=dict)
    steps: int = 0
    _stack: list[Any] = field(default_factory=list)
    _marks: list[int] = field(default_factory=list)
    _memo: dict[int, Any] = field(default_factory=dict)

    def load(self) -> Any:
        """The next object: plain values, lists, tuples, dictionaries, `Tensor` and `Storage`.

        Raises
        ------
        WeightsError
            If the pickle is damaged, needs too much work, or names anything but tensors and ordered dictionaries.
        """
        self._stack, self._marks, self._memo = [], [], {}
        while (code := self.take(1)) != b".":
            self.work(1)
            handler = _HANDLERS.get(code)
            if handler is None:
                what = _OPERATIONS.get(code.decode("latin-1"), f"operation {code.hex()}")
                raise WeightsError(f"pickle: refused {what}, which no tensor or dictionary needs")
            handler(self)
        return self.pop()

    def work(self, amount: int) -> None:
        """Count what is done, so that a small pickle cannot ask for much."""
        self.steps += amount
        if self.steps > _MOST_STEPS:
            raise WeightsError(f"pickle: expected at most {_MOST_STEPS} steps; save the tensors alone, as a state dict")

    def take(self, count: int) -> bytes:
        taken = self.stream.read(count)
        if len(taken) != count:
            raise WeightsError(f"pickle: cut short, damaged, or longer than {LARGEST_PICKLE} bytes")
        return taken

    def number(self, size: int, signed: bool = False) -> int:
        return int.from_bytes(self.take(size), "little", signed=signed)

    def text(self, size: int) -> str:
        """`size` bytes of UTF-8; a pickle made by Python 2 may hold other bytes, which stay recognisable."""
        return self.take(size).decode("utf-8", "backslashreplace")

    def line(self) -> str:
        line = self.stream.readline()
        if not line.endswith(b"\n"):
            raise WeightsError("pickle: cut short or damaged")
        return line[:-1].decode("ascii", "backslashreplace")

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def pop(self, *kinds: type) -> Any:
        """The topmost value since the last mark, which must be of one of these kinds if any are given."""
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise WeightsError("pickle: damaged: nothing left to take")
        value = self._stack.pop()
        if kinds and not isinstance(value, kinds):
            expected = " or ".join(kind.__name__ for kind in kinds)
            raise WeightsError(f"pickle: damaged: expected {expected}, found {type(value).__name__}")
        return value

    def top(self, *kinds: type) -> Any:
        value = self.pop(*kinds)
        self.push(value)
        return value

    def since_mark(self) -> list[Any]:
        if not self._marks:
            raise WeightsError("pickle: damaged: a mark is missing")
        start = self._marks.pop()
        values = self._stack[start:]
        del self._stack[start:]
        return values

    def mark(self) -> None:
        self._marks.append(len(self._stack))

    def put(self, index: int | None = None) -> None:
        self._memo[len(self._memo) if index is None else index] = self.top()

    def get(self, index: int) -> None:
        if index not in self._memo:
            raise WeightsError(f"pickle: damaged: nothing was remembered as {index}")
        self.push(self._memo[index])

    def frame(self) -> None:
        self.take(8)  # how far to read ahead; everything is in memory already

    def protocol(self) -> None:
        if (version := self.number(1)) > 5:
            raise WeightsError(f"pickle: expected protocol 2 to 5, found {version}")

    def name(self, module: str, name: str) -> None:
        """Push what `module.name` stands for, or refuse it."""
        full = f"{module}.{name}"
        if full not in _ADMITTED:
            raise WeightsError(
                f"pickle: refused {shown(full)[:120]}: a file of weights needs only tensors and ordered dictionaries, "
                "and nothing else is run; save a state dict"
            )
        self.push(Global(full))

    def name_from_stack(self) -> None:
        name, module = self.pop(str), self.pop(str)
        self.name(module, name)

    def instance(self) -> None:
        self.name(self.line(), self.line())
        raise WeightsError("pickle: refused INST, which no tensor or dictionary needs")

    def call(self) -> None:
        arguments, function = self.pop(tuple), self.pop(Global)
        if function.name == _ORDERED_DICT:
            made: dict[Any, Any] = {}
            for pair in _items(arguments):
                self.work(1)  # one list may be used by many calls
                if not isinstance(pair, list | tuple) or len(pair) != 2:
                    raise WeightsError("pickle: damaged: expected pairs in an ordered dictionary")
                _set(made, pair[0], pair[1])
            self.push(made)
        elif function.name in _TENSORS:
            self.push(_tensor(arguments))
        elif function.name in _PARAMETERS:
            if not arguments or not isinstance(arguments[0], Tensor):
                raise WeightsError("pickle: damaged: expected a parameter to hold a tensor")
            self.push(Parameter(arguments[0]))
        else:
            raise WeightsError(f"pickle: refused to call {function.name}")

    def new(self) -> None:
        arguments, kind = self.pop(tuple), self.pop(Global)
        if kind.name != _PARAMETERS[1] or arguments:
            raise WeightsError(f"pickle: refused NEWOBJ of {kind.name}, which no tensor or dictionary needs")
        self.push(Parameter())

    def build(self) -> None:
        """State for an object: `_metadata` or hooks, which nobody needs, or first of all a parameter's tensor."""
        state = self.pop(dict, tuple)
        target = self.top(dict if isinstance(state, dict) else Parameter)
        if isinstance(target, Parameter) and state and isinstance(state[0], Tensor):
            target.tensor = state[0]

    def append(self, values: list[Any]) -> None:
        self.top(list).extend(values)

    def set_items(self, values: list[Any]) -> None:
        if len(values) % 2:
            raise WeightsError("pickle: damaged: a key without a value")
        target = self.top(dict)
        for key, value in zip(values[::2], values[1::2], strict=True):
            _set(target, key, value)

    def storage(self) -> None:
        """A persistent id: ("storage", type, key, device, numel) and, in the legacy stream, a view or None."""
        found = self.pop(tuple)
        match found[:5]:
            case ("storage", Global(kind), str(key), _, int(numel)) if kind in STORAGES and 0 <= numel < 1 << 62:
                storage = Storage(key, STORAGES[kind], numel)
            case _:
                raise WeightsError("pickle: damaged: expected a storage of numbers behind a persistent id")
        if found[5:] not in ((), (None,)):
            raise WeightsError(f"storage {shown(key)[:40]}: a view of another one; save it again with a newer torch")
        if self.storages.setdefault(key, storage) != storage:
            raise WeightsError(f"storage {shown(key)[:40]}: described twice, differently")
        self.push(storage)


# Operation: what it does. The rest of the pickle language is refused.
_HANDLERS: dict[bytes, Callable[[Machine], None]] = {
    b"\x80": Machine.protocol,
    b"\x95": Machine.frame,
    b"(": Machine.mark,
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"K": lambda m: m.push(m.number(1)),
    b"M": lambda m: m.push(m.number(2)),
    b"J": lambda m: m.push(m.number(4, signed=True)),
    b"\x8a": lambda m: m.push(m.number(m.number(1), signed=True)),
    b"G": lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
    b"X": lambda m: m.push(m.text(m.number(4))),
    b"\x8c": lambda m: m.push(m.text(m.number(1))),
    b"U": lambda m: m.push(m.text(m.number(1))),
    b"T": lambda m: m.push(m.text(m.number(4))),
    b"}": lambda m: m.push({}),
    b"]": lambda m: m.push([]),
    b")": lambda m: m.push(()),
    b"\x85": lambda m: m.push((m.pop(),)),
    b"\x86": lambda m: m.push((m.pop(), m.pop())[::-1]),
    b"\x87": lambda m: m.push((m.pop(), m.pop(), m.pop())[::-1]),
    b"t": lambda m: m.push(tuple(m.since_mark())),
    b"a": lambda m: m.append([m.pop()]),
    b"e": lambda m: m.append(m.since_mark()),
    b"s": lambda m: m.set_items([m.pop(), m.pop()][::-1]),
    b"u": lambda m: m.set_items(m.since_mark()),
    b"q": lambda m: m.put(m.number(1)),
    b"r": lambda m: m.put(m.number(4)),
    b"\x94": Machine.put,
    b"h": lambda m: m.get(m.number(1)),
    b"j": lambda m: m.get(m.number(4)),
    b"c": lambda m: m.name(m.line(), m.line()),
    b"\x93": Machine.name_from_stack,
    b"i": Machine.instance,
    b"R": Machine.call,
    b"\x81": Machine.new,
    b"b": Machine.build,
    b"Q": Machine.storage,
}


def _set(target: dict[Any, Any], key: Any, value: Any) -> None:
    # Text hashes differently in every process and small numbers spread by themselves: no keys can be made to collide.
    if not isinstance(key, str) and not (isinstance(key, int) and abs(key) < _LARGEST_KEY):
        raise WeightsError(f"pickle: expected names as keys, found {type(key).__name__}")
    target[key] = value


def _items(arguments: tuple[Any, ...]) -> list[Any]:
    """The pairs that an ordered dictionary is made of: none, or a list (Python 2)."""
    if arguments and (len(arguments) > 1 or not isinstance(arguments[0], list)):
        raise WeightsError("pickle: damaged: expected an ordered dictionary of a list of pairs")
    return arguments[0] if arguments else []


def _tensor(arguments: tuple[Any, ...]) -> Tensor:
    match arguments:
        case (Storage() as storage, int(offset), tuple(shape), tuple(stride), *_):
            sides = (offset, *shape, *stride)
            plain = all(isinstance(n, int) and 0 <= n < 1 << 62 for n in sides)
            if plain and len(shape) == len(stride) <= _MOST_SIDES:
                return Tensor(storage, offset, shape, stride)
    raise WeightsError("pickle: damaged: expected a tensor's storage, offset, shape and strides")


def state_dict(root: Any, depth: int = 0) -> dict[str, Tensor]:
    """The tensors of a network by name, wherever a training program put them in its checkpoint.

    Raises
    ------
    WeightsError
        If there are none, or several places where they could be.
    """
    if not isinstance(root, dict):
        raise WeightsError(f"expected a state dict, found a {type(root).__name__}")
    inner = [key for key in _NESTED if isinstance(root.get(key), dict)]
    if len(inner) > 1:
        raise WeightsError(f"expected one state dict, found {' and '.join(inner)}; save one of them alone")
    if inner and depth < _DEEPEST:
        return state_dict(root[inner[0]], depth + 1)
    plain = {key: value.tensor if isinstance(value, Parameter) else value for key, value in root.items()}
    tensors = {key: value for key, value in plain.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if not tensors:
        keys = ", ".join(shown(str(key))[:40] for key in list(root)[:4]) or "nothing"
        raise WeightsError(f"expected a state dict of tensors, or one under {' or '.join(_NESTED)}; found {keys}")
    return tensors


def read_tensor(file: BinaryIO, tensor: Tensor, start: int, order: ByteOrder) -> np.ndarray:
    """The numbers of a tensor whose storage begins at byte `start`, as float32, C-contiguous.

    Its shape must have been checked: that much memory is taken. The axes may lie in any order, but without gaps.
    """
    last = tensor.offset + sum((side - 1) * step for side, step in zip(tensor.shape, tensor.stride, strict=True))
    if last >= tensor.storage.numel:
        raise WeightsError(f"expected numbers up to {last} in its storage, which has {tensor.storage.numel}")
    count = last + 1 - tensor.offset
    if count != math.prod(tensor.shape):
        raise WeightsError(f"expected numbers side by side, found strides {tensor.stride}; save a contiguous copy")
    first = start + tensor.offset * ITEM_SIZES[tensor.dtype]
    flat = read_floats(file, first, count, tensor.dtype, order)
    strides = tuple(step * flat.itemsize for step in tensor.stride)
    return np.ascontiguousarray(np.ndarray(tensor.shape, flat.dtype, flat, strides=strides))
