"""The files in kernels/cuda: their text, their heads, and the signatures of their kernels.

One file is one rung of the ladder of an operation: `conv3x3/03_register_tile`. Its head says what it computes and what
it requires; the signatures are what every launch is checked against.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2]

_INCLUDE = re.compile(r'^#include "([\w.]+)"', re.M)
_KERNEL = re.compile(r'extern "C" __global__ void(?:\s+__launch_bounds__\([^)]*\))?\s+(\w+)\s*\(([^)]*)\)')
_HEAD = re.compile(r"^// ([\w ]+?):\s+(.*)$")
SCALARS = {"int": "i4", "unsigned": "u4", "int64_t": "i8", "float": "f4", "double": "f8"}
POINTERS = {**SCALARS, "uint8_t": "u1", "uint16_t": "u2"}
BOXES = "tensor_map"  # a structure, see boxes.py


@dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel.

    `type` is the C type without const and pointer: "element", "float", "int", BOXES ...; `array` tells whether it is a
    pointer, `written` whether the kernel may write through it.
    """

    name: str
    type: str
    array: bool
    written: bool


@dataclass(frozen=True)
class Rung:
    """One file of kernels/cuda.

    Attributes
    ----------
    name : str
        "conv3x3/03_register_tile".
    path : Path
    text : str
    headers : dict
        Text of every file that it includes, directly or not, by name.
    head : dict
        What its first comment says: "op", "rung", "over 01", "math", "reference", "requires", "napkin" ...
    kernels : dict
        Parameters of every kernel, by the kernel's name.
    """

    name: str
    path: Path
    text: str
    headers: dict[str, str]
    head: dict[str, str]
    kernels: dict[str, tuple[Parameter, ...]]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the text and of all that it includes."""
        found = hashlib.sha256(self.text.encode())
        for name, text in sorted(self.headers.items()):
            found.update(b"\0" + name.encode() + b"\0" + text.encode())
        return found.hexdigest()

    @property
    def architecture(self) -> int:
        """The oldest GPUs that it runs on, in any precision: 80 where the head requires sm_80; else 75."""
        found = re.search(r"\bsm_(\d+)", self.head.get("requires", ""))
        return int(found[1]) if found else 75


def folder() -> Path:
    """Where a wheel puts kernels/cuda, or kernels/cuda of a checkout."""
    inside = PACKAGE / "_kernels" / "cuda"
    return inside if inside.is_dir() else PACKAGE.parent / "kernels" / "cuda"


@cache
def rungs() -> tuple[str, ...]:
    """Names of all rungs, in the order of the ladders."""
    return tuple(str(p.relative_to(folder()).with_suffix("")) for p in sorted(folder().glob("*/*.cu")))


@cache
def read(name: str) -> Rung:
    """The rung of that name."""
    return parse(folder() / f"{name}.cu", name)


def parse(path: Path, name: str) -> Rung:
    """A .cu file from anywhere; what it includes lies beside it, or in kernels/cuda."""
    text = path.read_text()
    headers: dict[str, str] = {}
    waiting = _INCLUDE.findall(text)
    while waiting:
        header = waiting.pop()
        if header not in headers:
            beside = path.parent / header
            headers[header] = (beside if beside.is_file() else folder() / header).read_text()
            waiting += _INCLUDE.findall(headers[header])
    return Rung(name, path, text, headers, _head(text), dict(_kernels(text)))


def _head(text: str) -> dict[str, str]:
    """`// name: what` lines of the first comment's first paragraph; one that begins further in goes on with the last.

    Two entries may share a line, as `op` and `rung` do.
    """
    found: dict[str, str] = {}
    last = ""
    for line in text.splitlines():
        if not line.startswith("//") or (found and line.strip() == "//"):
            break
        if match := _HEAD.match(line):
            last, value = match[1], match[2]
            if pair := re.match(r"(.+?)\s{2,}rung:\s+(\S+)$", value):
                value, found["rung"] = pair[1], pair[2]
            found[last] = value.strip()
        elif last:
            found[last] += " " + line[2:].strip()
    return found


def _kernels(text: str) -> list[tuple[str, tuple[Parameter, ...]]]:
    code = re.sub(r"//.*", "", text)
    return [(m[1], tuple(_parameter(p) for p in m[2].split(",") if p.strip())) for m in _KERNEL.finditer(code)]


def _parameter(declaration: str) -> Parameter:
    """`const element* __restrict__ x`, `int C`."""
    words = declaration.replace("*", " * ").replace("__restrict__", " ").split()
    constant = "const" in words
    words = [w for w in words if w not in ("const", "__grid_constant__")]
    array = "*" in words
    kind, name = words[0], words[-1]
    if kind not in ((*POINTERS, "element") if array else (*SCALARS, BOXES)) or len(words) != 2 + array:
        raise ValueError(
            f"kernel parameter {declaration.strip()!r}: expected a type that launches can be checked against"
        )
    return Parameter(name, kind, array, array and not constant)
