"""Every form in which the kernels are compiled: what the engine launches, and what the checks without a GPU compile.

A variant is a rung, a precision and the options that the host passes for it. Each module that launches kernels yields
its own from `variants()`, out of the same tables from which it launches, so that nothing can be compiled for a GPU that
no check has seen.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module

from . import source
from .precision import Precision

MODULES = (
    *("conv", "gram", "pool", "pixels", "features", "gates", "block_mean", "losses", "moments", "vectors"),
    *("general_conv", "instance_norm", "resize"),
)


@dataclass(frozen=True)
class Variant:
    """One way to compile one rung.

    Attributes
    ----------
    rung : str
        "conv3x3/03_register_tile".
    precision : Precision
    defines : dict of int
        The host's options, as `Device.kernel` takes them; PRECISION is not among them.
    shared : int
        Most dynamic shared memory, in bytes, that a launch of any of its kernels asks for.
    production : bool
        Whether the engine launches it unless told otherwise.
    """

    rung: str
    precision: Precision
    defines: Mapping[str, int] = field(default_factory=dict, hash=False)
    shared: int = 0
    production: bool = False

    @property
    def architecture(self) -> int:
        """The oldest GPUs that it can be compiled for: 80 for sm_80."""
        return max(source.read(self.rung).architecture, self.precision.architecture)

    def runs_on(self, architecture: int) -> bool:
        """Whether GPUs of that architecture run it."""
        only = own_architecture(source.read(self.rung))
        return architecture >= self.architecture if only is None else architecture == only

    @property
    def options(self) -> dict[str, str]:
        """All of its defines, as `Device.kernel` passes them on."""
        return options(self.precision, self.defines)

    def __str__(self) -> str:
        words = [self.precision.name, *(f"{name}={value}" for name, value in sorted(self.defines.items()))]
        return f"{self.rung} {' '.join(words)}"


def own_architecture(rung: source.Rung) -> int | None:
    """90 for a rung whose head requires sm_90a: instructions that no other GPU has, an older or a later one."""
    found = re.search(r"\bsm_(\d+)a\b", rung.head.get("requires", ""))
    return int(found[1]) if found else None


def options(precision: Precision, defines: Mapping[str, int]) -> dict[str, str]:
    """-D options of a precision and of what a host asks for, in an order that does not depend on the caller's."""
    return {"PRECISION": precision.macro, **{name: str(int(value)) for name, value in sorted(defines.items())}}


def all_variants() -> Iterator[Variant]:
    """Those of all modules, in the order of the ladders."""
    found = [v for name in MODULES for v in import_module(f".{name}", __package__).variants()]
    return iter(sorted(found, key=lambda v: (v.rung, not v.production)))
