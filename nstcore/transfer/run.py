"""The whole of a transfer: what is asked for is checked, then painted size by size."""

from __future__ import annotations

import hashlib
import math
import platform
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from .. import engines, images, vgg
from ..engines import Engine, Network
from ..errors import OptionError, RunError
from ..images import Picture
from ..objective import CONTENT_LAYERS, EVERYWHERE, NOWHERE, STYLE_LAYERS, Objective
from ..pretrained import Weights, load_weights
from ..version import __version__
from . import fit as memory
from .ladder import Rung, climb
from .pictures import Pictures
from .result import FailedRun, Result, Step
from .rung import Optimizer, Painting, Progress, carried
from .start import INITS, parts_of, start

OPTIMIZERS = ("adam", "lbfgs")


def stylize(
    content: Picture,
    style: Picture | Sequence[Picture],
    *,
    weights: str | Path | Weights = "auto",
    size: int | str = 512,
    fit: bool = False,
    style_scale: float | Sequence[float] = 1.0,
    style_size: int | Sequence[int | None] | None = None,
    colors: str = "style",
    iterations: int = 300,
    ladder: str | int = "auto",
    optimizer: str = "adam",
    learning_rate: float = 0.02,
    average: float = 0.9,
    history: int = 20,
    init: str | Path = "content",
    seed: int = 0,
    device: str = "auto",
    dtype: str | None = None,
    threads: int | None = None,
    engine: Engine | None = None,
    on_start: Callable[[Objective, list[Rung]], object] | None = None,
    on_step: Callable[[Step], object] | None = None,
    **options: Any,
) -> Result:
    """Paint the content in the manner of the style.

    Parameters
    ----------
    content : path, PIL image or array (H, W, 3) or (H, W, 4)
        What is transparent is left out of the losses, and transparent again in the result.
    style : the same, or a list of them
    weights : str, path or Weights
        "auto", "builtin", "vgg19", "vgg16", a file, or loaded ones.
    size : int or str
        Of the result: its long side in pixels, "short=PIXELS", "area=MEGAPIXELS", or "content" for the content's own.
    fit : bool
        Take a smaller size where that one does not fit the memory at hand.
    style_scale : float, or one per style
        The style's long side as a multiple of the result's: below 1, its strokes come out smaller.
    style_size : int, or one per style
        The style's long side in pixels, whatever the result's.
    colors : {"style", "luminance", "cholesky", "symmetric", "histogram"}
        Whose colours: the style's, or the content's in one of four ways; see `nstcore.transfer.pictures`.
    iterations : int
        Evaluations of loss and gradient at the full size, or as many at all sizes together as cost the same. An
        iteration of Adam is one; one of L-BFGS takes one or, when the line search has to look further, a few.
    ladder : {"auto", "off"} or int
        From coarse to fine: "auto" begins with 128 pixels if the long side is 512 or more; an int is the long side to
        begin with.
    optimizer : {"adam", "lbfgs"}
    learning_rate : float
        Of Adam: about how far a pixel in [0, 1] moves in one iteration.
    average : float
        Of Adam: decay of the average of the iterates, which is the result unless one of them has a lower loss. 0: off.
    history : int
        Of L-BFGS: pairs that it remembers; each takes two pictures' memory.
    init : str or path
        The starting picture: "content", "noise", "style", "gray", "statistics" (noise with the mean and covariance of
        the style's colours), a file, or a mixture, "content=0.8,noise=0.2".
    seed : int
        Of the noise. With the same seed, options, machine and thread count, the result is the same bit for bit.
    device, dtype, threads
        See `nstcore.engines.create`; or `engine`, one that exists already.
    on_start : callable, optional
        Called with the first size's `Objective` and all sizes (`Rung`) before the first evaluation.
    on_step : callable, optional
        Called with a `Step` after every evaluation.
    **options
        See `Objective`: layers, weights, convention, style loss, blend, masks, pooling, statistics.

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
    if not 0 <= average < 1:
        raise OptionError(f"average: expected a decay in [0, 1), got {average}; the usual one is 0.9, and 0 is none")
    parts = parts_of(init)
    styles = images.as_list(style)
    masks = _named_masks(options)
    _load_masks(options)
    pictures = Pictures(content, styles, colors, style_scale, style_size)
    loaded = weights if isinstance(weights, Weights) else load_weights(weights)
    engine = engine or engines.create(device, dtype, threads)
    options.setdefault("statistics", {})
    wanted = images.target_size(pictures.size, size)
    if fit:
        wanted = _fitting(wanted, loaded, engine, pictures, optimizer, history, options)
    rungs = climb(wanted, ladder, iterations, _stride(loaded, options))
    transfer = _Transfer(
        pictures, loaded, engine, options, Optimizer(optimizer, learning_rate, history, average), parts, seed
    )
    settings = {
        "size": size,
        "fit": fit,
        "style_scale": pictures.scales,
        "style_size": pictures.sizes,
        "colors": colors,
        "iterations": iterations,
        "ladder": ladder,
        "optimizer": optimizer,
        "init": str(init),
        "seed": seed,
        "device": engine.name,
        "precision": engine.precision,
        "threads": engine.threads,
        **({"learning_rate": learning_rate, "average": average} if optimizer == "adam" else {"history": history}),
    }
    metadata = {
        "content": _named(content),
        "style": [_named(s) for s in styles],
        **masks,
        "init": [_named(name) for name in parts if name not in INITS],
        "settings": settings,
        "sizes": [{"height": r.height, "width": r.width, "iterations": r.iterations} for r in rungs],
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
    return transfer.run(Progress(rungs, on_step), metadata, on_start)


class _Transfer:
    """The sizes, one after the other."""

    def __init__(
        self,
        pictures: Pictures,
        weights: Weights,
        engine: Engine,
        options: dict[str, Any],
        optimizer: Optimizer,
        parts: dict[str, float],
        seed: int,
    ) -> None:
        self.pictures, self.weights, self.engine, self.options = pictures, weights, engine, options
        self.optimizer, self.parts, self.seed = optimizer, parts, seed
        self._painting: Painting | None = None  # the last one that has something to show

    def run(
        self,
        progress: Progress,
        metadata: dict[str, Any],
        on_start: Callable[[Objective, list[Rung]], object] | None,
    ) -> Result:
        """Paint; see `stylize`."""
        pixels: np.ndarray | None = None
        objective: Objective | None = None
        state: Any = None
        status = ""
        try:
            for number, rung in enumerate(progress.rungs):
                if objective is not None:
                    state = carried(state, objective, rung.size)
                objective = self._objective(rung, None if objective is None else objective.network)
                if number == 0:
                    metadata["settings"] |= objective.settings()
                    if on_start is not None:
                        on_start(objective, progress.rungs)
                painting = Painting(objective, self.optimizer, progress, number, self.pictures.finished)
                begin = self._start(rung, objective) if pixels is None else self._enlarged(pixels, rung)
                end = painting.paint(begin, state, on_first=self._has_begun)
                painting.settle()
                pixels, state, status = painting.picture(), end.state, end.status
            return self._result(progress, metadata, status)
        except KeyboardInterrupt:
            if self._painting is None:
                raise
            with suppress(KeyboardInterrupt):
                self._painting.settle()
            return self._result(progress, metadata, "interrupted", interrupted=True)
        except (RunError, MemoryError) as error:
            reason = "not enough memory; take a smaller size" if isinstance(error, MemoryError) else str(error)
            kept = None if self._painting is None else self._result(progress, metadata, reason)
            raise FailedRun(reason, kept) from error

    def _has_begun(self, painting: Painting) -> None:
        self._painting = painting

    def _objective(self, rung: Rung, network: Network | None) -> Objective:
        return Objective(
            self.weights,
            self.pictures.content(rung.size),
            self.pictures.styles(max(rung.size)),
            engine=self.engine,
            network=network,
            **self.options,
        )

    def _start(self, rung: Rung, objective: Objective) -> np.ndarray:
        content, *styles = (
            images.as_pixels(np.ascontiguousarray(image[..., :3]))
            for image in (self.pictures.content(rung.size), *self.pictures.styles(max(rung.size)))
        )
        return start(self.parts, content, styles, objective.style_blend, self.seed)

    def _enlarged(self, pixels: np.ndarray, rung: Rung) -> np.ndarray:
        """What a smaller size has made, at the next one. Where the start was the content, its detail is there again."""
        enlarged = images.resize_pixels(pixels, rung.size)
        share = self.parts.get("content", 0.0)
        if not share:
            return enlarged
        smaller, larger = (images.as_pixels(self.pictures.content(s)[..., :3]) for s in (pixels.shape[1:], rung.size))
        detail = larger - images.resize_pixels(smaller, rung.size)
        return np.clip(enlarged + enlarged.dtype.type(share) * detail, 0, 1)

    def _result(self, progress: Progress, metadata: dict[str, Any], status: str, interrupted: bool = False) -> Result:
        painting = self._painting
        assert painting is not None
        assert painting.terms is not None
        height, width = painting.objective.shape[1:]
        metadata = metadata | {
            "losses": {"start": asdict(progress.losses[0]), "end": asdict(painting.terms)},
            "evaluations": len(progress.losses),
            "status": status,
        }
        alpha, pixels = self.pictures.alpha((height, width)), painting.pixels()
        return Result(pixels, alpha, painting.terms, progress.losses, metadata, status, interrupted, progress.seconds)


def _stride(weights: Weights, options: dict[str, Any]) -> int:
    """Pixels that one position of the deepest layer stands for: no picture may be smaller."""
    layers = [
        *(options.get("content_layers") or CONTENT_LAYERS),
        *(options.get("style_layers") or STYLE_LAYERS),
    ]
    return max(vgg.find(weights.architecture, layer).stride for layer in layers)


def _fitting(
    wanted: tuple[int, int],
    weights: Weights,
    engine: Engine,
    pictures: Pictures,
    optimizer: str,
    history: int,
    options: dict[str, Any],
) -> tuple[int, int]:
    """The largest size up to `wanted` that the memory holds."""
    smallest = images.fit(wanted, math.ceil(vgg.SMALLEST_SIDE * max(wanted) / min(wanted)) * 2)
    probe = Objective(weights, pictures.content(smallest), pictures.styles(max(smallest)), engine=engine, **options)
    needs = memory.Needs(probe.network, tuple(probe.content_layers), 3 if optimizer == "adam" else 2 * history + 7)
    return memory.largest(needs, engine, pictures, wanted)


def _load_masks(options: dict[str, Any]) -> None:
    """Masks are read once, not at every size."""
    if options.get("protect") is not None:
        options["protect"] = images.read_mask(options["protect"])
    if options.get("regions"):
        options["regions"] = [
            (
                images.read_mask(content),
                [mask if _is_word(mask) else images.read_mask(mask) for mask in styles],
            )
            for content, styles in options["regions"]
        ]


def _named_masks(options: dict[str, Any]) -> dict[str, Any]:
    """What the masks were, for the record."""
    named: dict[str, Any] = {}
    if options.get("protect") is not None:
        named["protect"] = _named(options["protect"])
    if options.get("regions"):
        named["regions"] = [
            [_named(content), [mask if _is_word(mask) else _named(mask) for mask in styles]]
            for content, styles in options["regions"]
        ]
    return named


def _is_word(mask: Any) -> bool:
    return isinstance(mask, str) and mask in (EVERYWHERE, NOWHERE)


def _named(picture: Picture) -> dict[str, str]:
    """What a picture was: a file by name and hash, anything else by the hash of its pixels."""
    if isinstance(picture, str | Path):
        try:
            content = Path(picture).read_bytes()
        except OSError:
            images.read_picture(picture)  # says why it cannot be read
            raise
        return {"file": str(picture), "sha256": hashlib.sha256(content).hexdigest()}
    return {"pixels_sha256": hashlib.sha256(images.as_pixels(picture).tobytes()).hexdigest()}
