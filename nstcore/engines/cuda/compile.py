"""From a .cu file to a cubin: the one function by which the engine runs its kernels and the checks look into them.

A cubin is kept in the cache folder, beside the converted weights, under a name that holds everything it was made from:
the source and what it includes, all options, the GPU's architecture and the compiler's version. So a kernel is compiled
once per machine, and never taken for another.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from ...errors import DeviceError, OutputError
from ...files import replacing
from . import cache, nvrtc, source
from .nvrtc import Resources
from .variants import own_architecture

# The arithmetic is IEEE's, but for a*b + c, which may be rounded once: numbers below 2^-126 are kept and divisions and
# square roots are exact to the last bit, as on the CPU that stands in for the GPU.
OPTIONS = (
    "--std=c++17",
    "--ftz=false",
    "--prec-div=true",
    "--prec-sqrt=true",
    "--fmad=true",
    "--generate-line-info",
    "--ptxas-options=-v",
)


@dataclass(frozen=True)
class Compiled:
    """One rung, compiled.

    Attributes
    ----------
    cubin : bytes
    path : Path
        A file that holds it.
    resources : dict of Resources
        By the kernel's name.
    """

    cubin: bytes
    path: Path
    resources: dict[str, Resources]


def compile_rung(
    rung: source.Rung, architecture: int, defines: Mapping[str, str], *, cuda: int | None = None
) -> Compiled:
    """Compile a rung, or take it from the cache.

    Parameters
    ----------
    rung : source.Rung
    architecture : int
        90 for sm_90.
    defines : mapping of str
        -DNAME=value each; see `variants.options`.
    cuda : int, optional
        Major version of CUDA that the driver has; without one, the latest compiler that there is.

    Raises
    ------
    DeviceError
        If there is no NVRTC, or the rung is for another architecture alone.
    nvrtc.CompileError
        If the source does not compile, with its line.
    """
    compiler = nvrtc.find(cuda)
    options = [*OPTIONS, *(f"--define-macro={name}={value}" for name, value in sorted(defines.items()))]
    target = _target(rung, architecture)
    parts = [rung.name, rung.digest, *options, f"sm_{target}", str(compiler)]
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    name = f"{rung.name.replace('/', '-')}-sm_{target}-{key[:24]}"
    if (kept := _read(cache.folder() / name)) is not None:
        return kept
    cubin, log = compiler.compile(rung.text, f"{rung.name}.cu", rung.headers, target, options)
    resources = nvrtc.resources(log)
    try:
        return _write(cache.folder() / name, cubin, resources)
    except (OSError, OutputError):  # a home that cannot be written, a full disk: compiled again by the next process
        return _write(cache.own_folder() / name, cubin, resources)


def _target(rung: source.Rung, architecture: int) -> str:
    """What follows sm_: the number, with an "a" for a rung that needs what only that architecture has."""
    only = own_architecture(rung)
    if only not in (None, architecture):
        raise DeviceError(f"{rung.name}: expected a GPU of sm_{only}, got sm_{architecture}; take another rung")
    return f"{architecture}a" if only else str(architecture)


def _read(stem: Path) -> Compiled | None:
    """What the cache holds under that name; None if it holds nothing whole."""
    try:
        cubin = _cubin_path(stem).read_bytes()
        facts = json.loads(_facts_path(stem).read_bytes())
        if facts["sha256"] != hashlib.sha256(cubin).hexdigest():
            return None
        cache.use(_cubin_path(stem), _facts_path(stem))
        return Compiled(cubin, _cubin_path(stem), {k: Resources(**v) for k, v in facts["resources"].items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _write(stem: Path, cubin: bytes, resources: dict[str, Resources]) -> Compiled:
    stem.parent.mkdir(parents=True, exist_ok=True)
    facts = {"sha256": hashlib.sha256(cubin).hexdigest(), "resources": {k: asdict(r) for k, r in resources.items()}}
    with replacing(_cubin_path(stem)) as part:
        part.write_bytes(cubin)
    with replacing(_facts_path(stem)) as part:
        part.write_text(json.dumps(facts))
    cache.prune()
    return Compiled(cubin, _cubin_path(stem), resources)


def _cubin_path(stem: Path) -> Path:
    return stem.with_name(f"{stem.name}.cubin")


def _facts_path(stem: Path) -> Path:
    return stem.with_name(f"{stem.name}.json")
