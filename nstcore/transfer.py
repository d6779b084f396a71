"""From two pictures to a third: sizes, initialisation, the loop, and what is kept of it."""

from __future__ import annotations

import hashlib
import math
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from . import engines, images
from .engines import Engine
from .errors import OptionError, RunError
from .images import Picture
from .objective import Objective, Terms
from .optim import minimize_adam, minimize_lbfgs
from .pretrained import Weights, load_weights
from .version import __version__

OPTIMIZERS = ("adam", "lbfgs")
INITS = ("content", "noise", "style", "gray")
BOUNDS = (0.0, 1.0)


@dataclass(frozen=True)
class Step:
    """What a caller sees after every evaluation of loss and gradient.

    Attributes
    ----------
    iteration : int
        Evaluations after the one of the starting picture (0), up to `iterations`.
    iterations : int
        How many there will be at most.
    terms : Terms
        The loss at this evaluation.
    seconds : float
        Since the loop began.
    pixels : callable () -> ndarray (3, H, W)
        The best picture so far; copied only when asked for.
    """

    iteration: int
    iterations: int
    terms: Terms
    seconds: float
    pixels: Callable[[], np.ndarray]


@dataclass(frozen=True)
class Result:
    """What came of a run.

    Attributes
    ----------
    pixels : ndarray of shape (3, H, W)
        RGB in [0, 1]: the picture with the lowest loss that was evaluated.
    terms : Terms
        Its loss.
    losses : list of Terms
        One per evaluation, the starting picture's first.
    metadata : dict
        How the picture was made: everything that is needed to make it again.
    status : str
        Why the loop ended.
    interrupted : bool
        Whether Ctrl-C ended it.
    seconds : float
        Time in the loop.
    """

    pixels: np.ndarray
    terms: Terms
    losses: list[Terms] = field(repr=False)
    metadata: dict[str, Any] = field(repr=False)
    status: str
    interrupted: bool
    seconds: float

    @property
    def image(self) -> np.ndarray:
        """The picture as (H, W, 3) uint8."""
        return images.to_uint8(self.pixels)

    def save(self, path: str | Path) -> None:
        """Write it, atomically; the format follows the name's ending. See `nstcore.images.write_picture`."""
        images.write_picture(path, self.pixels, self.metadata)


class FailedRun(RunError):
    """The loop broke off; `result` is the best picture before, or None if there was none."""

    def __init__(self, message: str, result: Result | None) -> None:
        super().__init__(message)
        self.result = result


def stylize(
    content: Picture,
    style: Picture | Sequence[Picture],
    *,
    weights: str | Path | Weights = "auto",
    size: int | str = 512,
    iterations: int = 300,
    optimizer: str = "adam",
    learning_rate: float = 0.02,
    history: int = 20,
    init: str | Path = "content",
    seed: int = 0,
    device: str = "auto",
    dtype: str | None = None,
    threads: int | None = None,
    engine: Engine | None = None,
    on_start: Callable[[Objective], object] | None = None,
    on_step: Callable[[Step], object] | None = None,
    **options: Any,
) -> Result:
    """Paint the content in the manner of the style.

    Parameters
    ----------
    content : path, PIL image or array (H, W, 3)
    style : the same, or a list of them, whose Gram matrices are averaged
    weights : str, path or Weights
        "auto", "builtin", "vgg19", "vgg16", a file, or loaded ones.
    size : int or "content"
        Long side of the result in pixels; "content" keeps the content's. The styles get the same long side.
    iterations : int
        Evaluations of loss and gradient after the starting picture's. An iteration of Adam is one; one of L-BFGS takes
        one or, when the line search has to look further, a few.
    optimizer : {"adam", "lbfgs"}
    learning_rate : float
        Of Adam: about how far a pixel in [0, 1] moves in one iteration.
    history : int
        Of L-BFGS: pairs that it remembers; each takes two pictures' memory.
    init : {"content", "noise", "style", "gray"} or path
        The starting picture.
    seed : int
        Of the noise. With the same seed, options, machine and thread count, the result is the same bit for bit.
    device, dtype, threads
        See `nstcore.engines.create`; or `engine`, one that exists already.
    on_start : callable, optional
        Called with the `Objective` before the first evaluation.
    on_step : callable, optional
        Called with a `Step` after every evaluation.
    **options
        See `Objective`: layers, weights, convention, pooling.

    Returns
    -------
    Result
        Ctrl-C ends the loop, not the program: the result is then the best so far and says `interrupted`.

    Raises
    ------
    UsageError
        If something that was given cannot be used; nothing was computed.
    FailedRun
        If the loop broke off; its `result` holds the best picture before.
    """
    if optimizer not in OPTIMIZERS:
        raise OptionError(f"optimizer: expected one of {', '.join(OPTIMIZERS)}, got {optimizer!r}")
    if iterations < 1:
        raise OptionError(f"iterations: expected 1 or more, got {iterations}")
    if seed < 0:
        raise OptionError(f"seed: expected 0 or more, got {seed}")
    loaded = weights if isinstance(weights, Weights) else load_weights(weights)
    styles = images.as_list(style)
    content_pixels = images.as_pixels(content)
    shape = content_pixels.shape[1:]
    if size != "content":
        if not isinstance(size, int):
            raise OptionError(f"size: expected a number of pixels or 'content', got {size!r}")
        shape = images.fit(shape, size)
        content_pixels = images.resize_pixels(content_pixels, shape)
    style_pixels = [_with_long_side(images.as_pixels(s), max(shape)) for s in styles]
    engine = engine or engines.create(device, dtype, threads)
    objective = Objective(
        loaded,
        content_pixels.transpose(1, 2, 0),
        [s.transpose(1, 2, 0) for s in style_pixels],
        engine=engine,
        **options,
    )
    start = _start(init, content_pixels, style_pixels[0], seed)
    metadata = {
        "content": _named(content),
        "style": [_named(s) for s in styles],
        "settings": {
            "size": size,
            "iterations": iterations,
            "optimizer": optimizer,
            "init": str(init),
            "seed": seed,
            "device": engine.name,
            "precision": engine.precision,
            "threads": engine.threads,
            **({"learning_rate": learning_rate} if optimizer == "adam" else {"history": history}),
            **objective.settings(),
        },
        "weights": {"name": loaded.name, "architecture": loaded.architecture, "sha256": loaded.sha256}
        | {"source": loaded.provenance["source"]},
        "versions": {
            "nstcore": __version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "pillow": PIL.__version__,
        },
        "engine": engine.describe(),
    }
    if on_start is not None:
        on_start(objective)
    loop = _Loop(objective, iterations, on_step, metadata)
    common: dict[str, Any] = {"max_evaluations": iterations + 1, "bounds": BOUNDS, "vectors": engine.vectors}
    try:
        if optimizer == "adam":
            end = minimize_adam(loop, engine.array(start), learning_rate=learning_rate, **common)
        else:
            end = minimize_lbfgs(loop, engine.array(start), history=history, **common)
    except KeyboardInterrupt:
        if loop.best is None:
            raise
        return loop.result("interrupted", interrupted=True)
    except (RunError, MemoryError) as error:
        reason = "not enough memory; take a smaller size" if isinstance(error, MemoryError) else str(error)
        raise FailedRun(reason, None if loop.best is None else loop.result(reason)) from error
    return loop.result(end.status)


class _Loop:
    """f(x) for the optimizers, and the memory of what they did."""

    def __init__(
        self,
        objective: Objective,
        iterations: int,
        on_step: Callable[[Step], object] | None,
        metadata: dict[str, Any],
    ) -> None:
        self.objective, self.iterations, self.on_step, self.metadata = objective, iterations, on_step, metadata
        self.losses: list[Terms] = []
        self.best: Any = None
        self.best_terms: Terms | None = None
        self._spare: Any = None
        self.began = time.perf_counter()

    def __call__(self, x: Any) -> tuple[float, Any]:
        terms, gradient = self.objective(x)
        self.losses.append(terms)
        if self.best_terms is None or terms.total < self.best_terms.total:
            self._remember(x, terms)
        if self.on_step is not None:
            self.on_step(Step(len(self.losses) - 1, self.iterations, terms, self._seconds(), self._pixels))
        return terms.total, gradient

    def _remember(self, x: Any, terms: Terms) -> None:
        if not math.isfinite(terms.total):
            return
        if self._spare is None:
            self._spare = self.objective.engine.vectors.empty_like(x)
        self.objective.engine.vectors.copy(x, out=self._spare)
        # An interrupt may fall anywhere: `best` is a whole picture before this line and after it
        self.best, self._spare, self.best_terms = self._spare, self.best, terms

    def _pixels(self) -> np.ndarray:
        return self.objective.engine.numpy(self.best)

    def _seconds(self) -> float:
        return time.perf_counter() - self.began

    def result(self, status: str, interrupted: bool = False) -> Result:
        assert self.best_terms is not None
        metadata = self.metadata | {
            "losses": {"start": asdict(self.losses[0]), "end": asdict(self.best_terms)},
            "evaluations": len(self.losses),
            "status": status,
        }
        seconds = self._seconds()
        return Result(self._pixels(), self.best_terms, self.losses, metadata, status, interrupted, seconds)


def _with_long_side(pixels: np.ndarray, long_side: int) -> np.ndarray:
    return images.resize_pixels(pixels, images.fit(pixels.shape[1:], long_side))


def _start(init: str | Path, content: np.ndarray, style: np.ndarray, seed: int) -> np.ndarray:
    """The starting picture (3, H, W)."""
    if init == "content":
        return content
    if init == "noise":
        return np.random.default_rng(seed).random(content.shape, np.float32)
    if init == "gray":
        return np.full(content.shape, 0.5, np.float32)
    if init == "style":
        return images.resize_pixels(style, content.shape[1:])
    if isinstance(init, str) and "." not in init and "/" not in init and not Path(init).exists():
        raise OptionError(f"init: expected one of {', '.join(INITS)} or a picture file, got {init!r}")
    return images.resize_pixels(images.as_pixels(init), content.shape[1:])


def _named(picture: Picture) -> dict[str, str]:
    """What a picture was: a file by name and hash, anything else by the hash of its pixels."""
    if isinstance(picture, str | Path):
        return {"file": Path(picture).name, "sha256": hashlib.sha256(Path(picture).read_bytes()).hexdigest()}
    return {"pixels_sha256": hashlib.sha256(images.as_pixels(picture).tobytes()).hexdigest()}
