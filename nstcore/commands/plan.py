"""`run --plan`: what a picture would take, in memory and time; nothing is painted, written or downloaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import OptionError
from .job import Job
from .studio import Studio

if TYPE_CHECKING:
    from ..pretrained import Weights
    from ..transfer.plan import Phase
    from ..transfer.preview import Estimate

_SHOWN = 0.005  # of a phase: smaller buffers are added up


def print_plan(job: Job, studio: Studio) -> int:
    """Print what a job would take; returns the exit code.

    Raises
    ------
    OptionError
        If it does not fit the memory: with what would, after the table.
    """
    from ..transfer.preview import estimate

    settings = job.settings
    found = estimate(
        str(job.content),
        [str(style) for style in job.styles],
        weights=_weights(job, studio),
        engine=studio.engine(settings),
        tile=settings["tile"],
        memory=settings["memory"],
        **settings.keywords(),
    )
    print("\n".join(_lines(found)), flush=True)
    if found.refusal is not None:
        raise OptionError(found.refusal)
    return 0


def _weights(job: Job, studio: Studio) -> Weights:
    """Those that the job names; where they would have to be downloaded, some of the same shapes."""
    from ..pretrained.download import offline
    from ..pretrained.places import AUTO, DEFAULT_NETWORK, cached_path, is_published
    from ..pretrained.registry import default_registry

    given = job.settings["weights"]
    name = DEFAULT_NETWORK if given == AUTO else given
    if job.settings["offline"] or offline() or not is_published(name) or cached_path(name).is_file():
        return studio.weights(given, job.settings["offline"])
    entries = default_registry().entries
    print(f"weights: {name} is not in the cache: a run downloads it first; planned by the shapes of its filters")
    return _same_shapes(name, entries[name].architecture if name in entries else name)


def _same_shapes(name: str, architecture: str) -> Weights:
    """Random filters of an architecture, scaled as He et al. initialise: its features neither vanish nor explode."""
    import numpy as np

    from .. import vgg
    from ..pretrained import Preprocessing, Weights

    rng = np.random.default_rng(0)
    filters = {}
    for conv, shape in vgg.convolutions(architecture).items():
        w = rng.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / np.prod(shape[1:])))
        filters[conv] = w, np.zeros(shape[0], np.float32)
    preprocessing = Preprocessing("rgb", 1.0, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    return Weights(name, architecture, filters, preprocessing, "zero", "max", {"source": "the shapes alone"})


def _lines(found: Estimate) -> list[str]:
    plan = found.plan
    height, width = plan.size
    optimizer = f"{found.optimizer}, history {plan.history}" if found.optimizer == "lbfgs" else found.optimizer
    steps = next(phase for phase in plan.phases if phase.name == "steps" and phase.size == plan.size)
    lines = [f"{width}x{height} pixels, {optimizer}, {found.engine.describe()}", ""]
    lines += _table(f"buffers at {width}x{height}, MB", {**steps.engine, **({} if plan.apart else steps.host)})
    if plan.apart:
        lines += ["", *_table("on the host, MB", steps.host)]
    lines += ["", "phases, MB"]
    lines += [_row(_phase_name(phase), plan.bytes_of(phase)) for phase in plan.phases if phase.size == plan.size]
    smaller = [phase for phase in plan.phases if phase.size != plan.size]
    if smaller:
        lines.append(_row("smaller sizes, at most", max(map(plan.bytes_of, smaller))))
    where = "of the engine's memory" if plan.apart else "of memory"
    lines += [
        "",
        f"held already (interpreter, libraries, weights, pictures as loaded): {_megabytes(plan.held)} MB",
        f"peak of the process: {_megabytes(plan.peak)} MB",
        f"to be taken {where}: {_megabytes(plan.needed)} MB, free: "
        + ("unknown" if plan.free is None else f"{_megabytes(plan.free)} MB"),
        *_tiles(found),
        "long sides in pixels (iterations): " + ", ".join(f"{max(r.size)} ({r.iterations})" for r in plan.rungs),
    ]
    if found.pace is not None and found.seconds is not None:
        at = f"{found.pace.step:.3g} s a step at {found.pace.size[1]}x{found.pace.size[0]}"
        lines.append(f"time: {_duration(found.seconds)}, by the pixels of every size from {at}; an estimate")
    elif found.refusal is None:
        lines.append("time: unknown: the masks leave nothing of a picture that is small enough to be timed")
    return lines


def _tiles(found: Estimate) -> list[str]:
    """What tiles or bands cost, and what lies on disk."""
    from ..disk import scratch_folder
    from ..engines.tiled import LowEngine

    lost = f"{found.work:.2f} times the convolutions of the whole, for halos and features that are computed again"
    if isinstance(found.engine, LowEngine):
        return [f"the first block in bands: {lost}"]
    tiling = getattr(found.engine, "tiling", None)
    if tiling is None:
        return []
    return [
        f"tiles of {tiling.side} pixels: {lost}",
        f"on disk, in {scratch_folder()}: {_megabytes(found.plan.disk)} MB",
    ]


def _phase_name(phase: Phase) -> str:
    words = {
        "content": "content targets",
        "styles": "measuring the styles",
        "start": "the starting picture",
        "steps": "steps",
        "output": "writing the picture",
    }
    return words[phase.name]


def _table(title: str, buffers: dict[str, int]) -> list[str]:
    """The largest first, the small ones together."""
    total = sum(buffers.values())
    large = {name: n for name, n in buffers.items() if n >= _SHOWN * total}
    rows = [_row(name, n) for name, n in sorted(large.items(), key=lambda item: -item[1])]
    if len(large) < len(buffers):
        rows.append(_row(f"{len(buffers) - len(large)} smaller ones", total - sum(large.values())))
    return [title, *rows, _row("together", total)]


def _row(name: str, count: int) -> str:
    return f"  {name:<28}{_megabytes(count):>10}"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"about {max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"about {minutes} min" if minutes < 90 else f"about {minutes / 60:.1f} h"
