"""What the benchmarks share: weights and pictures to measure with, turns, tables, and the name of the machine."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import numpy as np

from nstcore import Weights, load_weights, vgg
from nstcore.engines.cpu import CpuEngine
from nstcore.engines.cpu.team import available_cores
from nstcore.errors import OptionError, RunError
from nstcore.pretrained import Preprocessing
from nstcore.pretrained.places import cached_path

ROOT = Path(__file__).resolve().parents[1]
PAUSE = 0.1  # seconds: OpenBLAS keeps its idle threads spinning for some 30 ms
CHEAP = 1.0  # seconds: a candidate that takes less has an untimed step before the timed one
# Of PyTorch: name, channels_last, compiled
FORMS = (
    ("eager, NCHW", False, False),
    ("eager, channels_last", True, False),
    ("torch.compile, NCHW", False, True),
    ("torch.compile, channels_last", True, True),
)
AGREE = 1e-3  # relative; all candidates are given the same problem


@dataclass
class Report:
    """A table, and what a reader must know about it.

    Attributes
    ----------
    header : sequence of str
    rows : list of sequences of str
    notes : list of str
        One sentence or more each, without a final full stop.
    """

    header: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def markdown(self) -> str:
        """The table; columns that begin with a figure are set to the right."""
        right = [all(row[i][:1].isdigit() or row[i] in ("", "-") for row in self.rows) for i in range(len(self.header))]
        rule = ["---:" if r else "---" for r in right]
        return "\n".join(f"| {' | '.join(row)} |" for row in (self.header, rule, *self.rows))


# -- the problem ------------------------------------------------------------------------------------------------------


def weights_for(name: str | None) -> Weights:
    """Weights by name or file; without one, VGG19 if it is in the cache, else random filters of its shapes.

    The built-in filters replicate the border, for which PyTorch has no convolution: it would pay for a padded copy.
    """
    if name is None and cached_path("vgg19").is_file():
        name = "vgg19"
    return random_vgg19() if name is None else load_weights(name)


def random_vgg19() -> Weights:
    """VGG19 down to conv5_1 with He-initialised filters, biases 0, border 0."""
    rng = np.random.default_rng(0)
    filters = {}
    for conv, shape in vgg.convolutions("vgg19").items():
        w = rng.standard_normal(shape, np.float32)
        w *= np.float32(np.sqrt(2 / (9 * shape[1])))
        filters[conv] = (w, np.zeros(shape[0], np.float32))
        if conv == "conv5_1":
            break
    preprocessing = Preprocessing("rgb", 1.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    return Weights("random VGG19 (He, seed 0)", "vgg19", filters, preprocessing, "zero", "max", {})


def pictures(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Content, style and a starting point, (size, size, 3): smooth noise, so that ReLUs behave as on a picture."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[0:size, 0:size] / size
    found = []
    for _ in range(3):
        picture = np.full((size, size, 3), 0.5)
        for _ in range(12):
            u, v = rng.normal(size=2) * 40
            picture += 0.06 * np.sin(rows * u + columns * v + rng.uniform(0, 6))[..., None] * rng.normal(size=3)
        found.append(np.clip(picture + 0.05 * rng.random((size, size, 3)), 0, 1).astype(np.float32))
    return found[0], found[1], found[2]


def planes(picture: np.ndarray) -> np.ndarray:
    """(3, H, W) of (H, W, 3)."""
    return np.ascontiguousarray(picture.transpose(2, 0, 1))


# -- turns ------------------------------------------------------------------------------------------------------------


def interleaved(candidates: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each candidate in every round; they take turns, so that a noisy machine disturbs all of them alike.

    A turn begins with a pause, in which the threads of the candidate before go to sleep, and where that is cheap with
    an untimed step: in a run, too, a step finds its own data in the caches.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    lasted = {name: timed(candidate) for name, candidate in candidates.items()}  # first calls: not among the results
    for _ in range(rounds):
        for name, candidate in candidates.items():
            time.sleep(PAUSE)
            if lasted[name] < CHEAP:
                candidate()
            lasted[name] = timed(candidate)
            seconds[name].append(lasted[name])
    return seconds


def timed(step: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def check_agreement(steps: Mapping[str, Callable[[], float]]) -> None:
    """Refuse to compare programs that do not compute the same loss; the first is the measure.

    Raises
    ------
    RunError
        If one differs.
    """
    losses = {name: step() for name, step in steps.items()}
    first, expected = next(iter(losses.items()))
    for name, loss in losses.items():
        if not abs(loss - expected) <= AGREE * abs(expected):
            raise RunError(f"{name}: expected the loss {expected:.6g} of {first} within {AGREE:g}, got {loss:.6g}")


# -- words ------------------------------------------------------------------------------------------------------------


def milliseconds(seconds: float) -> str:
    """Three digits."""
    return f"{1e3 * seconds:.{0 if seconds >= 0.1 else 1 if seconds >= 0.01 else 2}f}"


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def torch_or_none() -> ModuleType | None:
    """PyTorch, where it is installed."""
    try:
        import torch
    except ImportError:
        return None
    return torch


def torch_for(weights: Weights, threads: int) -> ModuleType | None:
    """PyTorch, where it is installed, set to that many threads.

    Raises
    ------
    OptionError
        If the peer (torch_peer.py) cannot compute what the weights ask for.
    """
    torch = torch_or_none()
    if torch is not None:
        from torch_peer import POOLINGS

        if weights.pooling not in POOLINGS:
            raise OptionError(f"weights {weights.name}: PyTorch has no {weights.pooling} pooling; take other weights")
        torch.set_num_threads(threads)
    return torch


def first_call(step: Callable[[], object], form: str, compiled: bool) -> str | None:
    """Call a form of PyTorch once; why it is not among the candidates, or None if it is."""
    try:
        step()
    except Exception as error:  # torch.compile raises whatever its parts and the compiler do
        if not compiled:
            raise
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        return f"PyTorch {form}: not measured, it failed ({reason[:200]})"
    return None


def about(weights: Weights) -> list[str]:
    """Notes on the weights and on what is missing."""
    notes = [f"Weights: {weights.name}, {weights.padding} border"]
    if weights.padding == "replicate":
        notes[0] += ", for which PyTorch has to make a padded copy before each convolution"
    if torch_or_none() is None:
        notes.append("PyTorch is not installed: nstcore alone")
    return notes


def machine(threads: int) -> str:
    """What was measured on."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    torch = torch_or_none()
    facts = [
        model,
        f"{threads} of {available_cores()} cores",
        CpuEngine(threads=threads).describe().partition(",")[0].removeprefix("cpu (") + " kernels",
        f"NumPy {np.__version__}",
        *([f"PyTorch {torch.__version__} ({torch.backends.cpu.get_cpu_capability()})"] if torch else []),
        f"Python {platform.python_version()}",
    ]
    return ", ".join(facts)


def commit() -> str | None:
    """The commit that is checked out, "with changes" if files differ from it.

    kernels/README.md does not count: a table that was written a moment ago changes nothing that is measured.
    """

    def git(*arguments: str) -> str:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, env=environment)
        return done.stdout.rstrip() if not done.returncode else ""

    try:
        name = git("rev-parse", "--short", "HEAD")
        changed = git("status", "--porcelain", "--", ".", ":(exclude)kernels/README.md")
    except OSError:  # no git
        return None
    return f"{name} with changes" if name and changed else name or None
