"""How long a launch should take on a GPU, from what it must do and what its block takes of a processor. No measurement.

        time  = max(bytes / bandwidth, cached / cache bandwidth, issued / (peak x rate)) x tail + launch
        tail  = ceil(blocks / processors) / (blocks / processors)
        floor = max(bytes / bandwidth, operations / peak)

`bytes` are what memory moves if each array is read and written once; `cached` what the second-level cache hands to the
blocks, which read the same rows for every tile beside and every tap; `operations` those of the equation, `issued` those
of whole tiles. The tail says by how much the busiest processor has more than its share; it supposes that a block that
has a processor to itself gets all of it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from predict_launches import Launch
from predict_work import Work, up, work_of

from nstcore.engines.cuda import source
from nstcore.engines.cuda.compile import compile_rung
from nstcore.engines.cuda.nvrtc import Resources
from nstcore.errors import OptionError

WARP, SCHEDULERS = 32, 4  # threads; parts of a processor, each with a quarter of its registers
REGISTER_UNIT, SHARED_UNIT, RESERVED = (
    256,
    128,
    1024,
)  # registers of a warp, bytes of a block; bytes kept for the system


@dataclass(frozen=True)
class Gpu:
    """A GPU, and what is assumed of it; the defaults are an H200.

    Attributes
    ----------
    name : str
    architecture, processors : int
        90 for sm_90; multiprocessors.
    bandwidth, cache_bandwidth : float
        Bytes per second that a copy reaches in memory, and reads of the second-level cache.
    peaks : dict of float
        Operations per second by unit: "ffma"; "tf32", "16bit"; the same by the instruction of sm_90a, "wgmma tf32",
        "wgmma".
    rates : dict of float
        The share of each peak that our kernels are assumed to reach.
    launch : float
        Seconds from one kernel to the next within a graph.
    registers, shared_bytes, threads, blocks : int
        Of a processor.
    """

    name: str = "NVIDIA H200"
    architecture: int = 90
    processors: int = 132
    bandwidth: float = 4.3e12
    cache_bandwidth: float = 6.5e12
    peaks: Mapping[str, float] = field(
        default_factory=lambda: {
            "ffma": 67e12,
            **dict.fromkeys(("tf32", "wgmma tf32"), 495e12),
            **dict.fromkeys(("16bit", "wgmma"), 990e12),
        }
    )
    rates: Mapping[str, float] = field(
        default_factory=lambda: {
            "ffma": 0.6,
            **dict.fromkeys(("tf32", "16bit"), 0.62),
            **dict.fromkeys(("wgmma tf32", "wgmma"), 0.75),
        }
    )
    launch: float = 2e-6
    registers: int = 65536
    shared_bytes: int = 233472
    threads: int = 2048
    blocks: int = 32

    @classmethod
    def read(cls, path: Path) -> Gpu:
        """From a JSON object with some of the attributes; the others are an H200's.

        Raises
        ------
        OptionError
            If it holds anything else.
        """
        standard = asdict(cls())
        try:
            given = json.loads(path.read_text(encoding="utf-8"))
            if unknown := set(given) - {f.name for f in fields(cls)}:
                raise ValueError(f"{', '.join(sorted(unknown))}, which nobody knows")
            for name, value in given.items():
                _check(name, value, standard[name])
            merged = {n: {**standard[n], **v} if isinstance(v, dict) else v for n, v in given.items()}
            return cls(**{**standard, **merged})
        except (OSError, UnicodeDecodeError, ValueError, TypeError) as error:
            known = ", ".join(standard)
            raise OptionError(f"{path}: expected a JSON object with some of {known}, got {error}") from None


def _check(name: str, value: Any, standard: Any) -> None:
    """Refuse a value of another kind than the standard one, or one that is not above 0."""
    if isinstance(standard, dict):
        if not isinstance(value, dict) or not set(value) <= set(standard):
            raise ValueError(f"{name}: {value!r}, not an object with some of {', '.join(standard)}")
        for unit, one in value.items():
            _check(f"{name} {unit}", one, 1.0)
    elif isinstance(standard, str):
        if not isinstance(value, str):
            raise ValueError(f"{name}: {value!r}, no text")
    elif isinstance(value, bool) or not isinstance(value, (int, type(standard))) or not 0 < value < math.inf:
        raise ValueError(f"{name}: {value!r}, no {'whole ' if isinstance(standard, int) else ''}number above 0")


@dataclass(frozen=True)
class Prediction:
    """One launch on one GPU.

    Attributes
    ----------
    launch : Launch
    work : Work
    resources : Resources or None
        Of the compiled kernel; None for a copy or a fill.
    resident : int
        Blocks that a processor holds at the same time; 0 for a copy or a fill.
    limit : str
        "memory", "cache" or "arithmetic": which of the three takes longest.
    seconds, floor : float
    parts : dict of float
        Seconds above the floor: "cache" while operands come from there; then "rate", below the peak; "tail", until the
        busiest processor is done; "padding", by products of zeros; "launch".
    waves, tail : float
        Blocks relative to all that fit the GPU at once; see above.
    """

    launch: Launch
    work: Work
    resources: Resources | None
    resident: int
    limit: str
    seconds: float
    floor: float
    parts: Mapping[str, float]
    waves: float
    tail: float

    @property
    def lone(self) -> float:
        """Seconds if a block that has a processor to itself were no faster than one that shares it."""
        if not self.resident:
            return self.seconds
        worst = math.ceil(self.waves) / self.waves
        return (self.seconds - self.parts["launch"]) / self.tail * max(worst, self.tail) + self.parts["launch"]


def predict(launch: Launch, gpu: Gpu) -> Prediction:
    """What is expected of a launch.

    Raises
    ------
    DeviceError
        Without NVRTC.
    """
    work = work_of(launch)
    resources = resources_of(launch, gpu) if launch.rung else None
    resident = blocks_per_processor(launch, resources, gpu) if resources else 0
    waves = launch.blocks / (resident * gpu.processors) if resident else 0.0
    tail = math.ceil(launch.blocks / gpu.processors) * gpu.processors / launch.blocks if launch.blocks else 1.0
    peak, rate = gpu.peaks[work.unit], gpu.rates[work.unit]
    times = {
        "memory": work.bytes / gpu.bandwidth,
        "cache": work.cached / gpu.cache_bandwidth,
        "arithmetic": work.issued / (peak * rate),
    }
    limit = max(times, key=lambda name: times[name])

    seconds = times[limit] * tail + gpu.launch
    floor = max(times["memory"], work.operations / peak)
    # One limit after the other is lifted, in this order, until the floor is left
    computed, at_peak = max(times["memory"], times["arithmetic"]), max(times["memory"], work.issued / peak)
    parts = {
        "cache": (times[limit] - computed) * tail,
        "rate": (computed - at_peak) * tail,
        "tail": at_peak * (tail - 1),
        "padding": at_peak - floor,
        "launch": gpu.launch,
    }
    return Prediction(launch, work, resources, resident, limit, seconds, floor, parts, waves, tail)


# ---- what a block takes of a processor ------------------------------------------------------------------------------


def resources_of(launch: Launch, gpu: Gpu) -> Resources:
    """Of the kernel, compiled for the GPU as the engine compiles it."""
    compiled = compile_rung(source.read(launch.rung), gpu.architecture, launch.defines)
    return compiled.resources[launch.kernel]


def blocks_per_processor(launch: Launch, resources: Resources, gpu: Gpu) -> int:
    """How many blocks registers, shared memory and threads leave room for, at least one."""
    warps = math.ceil(launch.threads / WARP)
    of_a_warp = up(max(1, resources.registers) * WARP, REGISTER_UNIT)
    by_registers = gpu.registers // SCHEDULERS // of_a_warp * SCHEDULERS // warps
    by_shared = gpu.shared_bytes // up(resources.shared + launch.shared + RESERVED, SHARED_UNIT)
    return max(1, min(by_registers, by_shared, gpu.threads // (warps * WARP), gpu.blocks))
