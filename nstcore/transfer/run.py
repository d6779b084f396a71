"""The whole of a transfer: what is asked for is checked, then painted size by size."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from .. import fast, images
from ..disk import check_room
from ..engines import Engine
from ..errors import OptionError
from ..images import Picture
from ..objective import Objective
from ..optim import checked_count
from ..pretrained import Weights, load_fast_weights
from .ladder import Rung
from .loop import Loop
from .one_pass import check_memory
from .prepare import prepare
from .progress import Progress
from .record import made_with, named, named_masks
from .result import Result, Step
from .snapshot import Clock, open_snapshot
from .start import FAST, FAST_WEIGHTS, INITS, parts_of
from .tiles import NORMAL, Tile, memory_of, tiling_of, word_of


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
    pyramid: str = "auto",
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
    tile: Tile = "auto",
    memory: str = NORMAL,
    snapshot: str | Path | None = None,
    snapshot_every: float = 60.0,
    resume: bool = False,
    stop: Callable[[], bool] | None = None,
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
        Where it does not fit the memory at hand, let L-BFGS remember fewer pairs, down to 5, and where that is not
        enough, take a smaller size. Without, what does not fit is refused.
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
    pyramid : {"auto", "off"}
        Hold a large picture against content and styles in small sizes, too, so that the look does not depend on the
        size: "auto" does above 640 pixels, in the convention "relative".
    optimizer : {"adam", "lbfgs"}
    learning_rate : float
        Of Adam: about how far a pixel in [0, 1] moves in one iteration.
    average : float
        Of Adam: decay of the average of the iterates, which is the result unless one of them has a lower loss. 0: off.
    history : int
        Of L-BFGS: pairs that it remembers; each takes two pictures' memory.
    init : str or path
        The starting picture: "content", "noise", "style", "gray", "statistics" (noise with the mean and covariance of
        the style's colours), "fast" (as `stylize_fast` paints it, with Magenta's network from the cache), a file, or a
        mixture, "content=0.8,noise=0.2".
    seed : int
        Of the noise. With the same seed, options, machine and thread count, the result is the same bit for bit.
    device, dtype, threads
        See `nstcore.engines.create`; or `engine`, one that exists already, such as a cluster's:
        `with Cluster("local:3") as cluster: stylize(..., engine=ClusterEngine(cluster))`, both of
        `nstcore.engines.cluster`.
    tile : {"auto", "off"}, int, str or None
        Compute in tiles of that side in pixels: the same picture but for rounding, in memory that depends on the tile,
        not on the picture; arrays of a picture's size then lie on disk. "1024,1" (to 3): with the deepest of the four
        parts of the network (or two or three) in one piece, which takes more memory and less time. "auto" does it where
        the picture does not fit the memory otherwise, with the tiles that lose least. "off" or None: never.
    memory : {"normal", "low"}
        "low": compute the first block of the network in bands, twice, and keep nothing of it in between: the same
        picture but for rounding, in about three quarters of the memory, for 1 to 9 % more convolutions; nothing lies on
        disk. Not beside the side of a tile, nor on a cluster.
    snapshot : path, optional
        File that the state of the run is written to from time to time, and at its end where `stop` ends it. It is left
        there: remove it once the picture is saved.
    snapshot_every : float
        Seconds between two snapshots; 0 for none but the last. They are fewer where writing takes long.
    resume : bool
        Go on from `snapshot`: the result is the one that the run would have had, bit for bit on the same machine.
    stop : callable () -> bool, optional
        Asked between iterations; True ends the run, and the result says `interrupted`.
    on_start : callable, optional
        Called with the first size's `Objective` and all sizes (`Rung`) before the first evaluation.
    on_step : callable, optional
        Called with a `Step` after every evaluation.
    **options
        See `Objective`: layers, weights, convention, style loss, blend, masks, pooling, statistics.

    Returns
    -------
    Result
        KeyboardInterrupt ends the loop, not the program: the result is then the best so far and says `interrupted`.

    Raises
    ------
    TypeError
        For an option that neither this nor `Objective` has.
    UsageError
        If something that was given cannot be used; nothing was computed.
    FailedRun
        If the loop broke off; its `result` holds the best picture before.
    """
    check_names("stylize", options)
    checked_count("seed", seed, 0)
    if not 0 <= snapshot_every < math.inf:
        raise OptionError(f"snapshot_every: expected 0 or more seconds, got {snapshot_every}")
    if resume and snapshot is None:
        raise OptionError("resume: expected a snapshot to go on from, got none; name its file")
    parts = parts_of(init)
    styles = images.as_list(style)
    masks = named_masks(options)
    fast_weights = load_fast_weights(FAST_WEIGHTS) if FAST in parts else None
    # What fits now may not be what fitted when the run began
    then = _fitted(snapshot) if fit and resume and snapshot is not None else None
    if tile == "auto" and resume and snapshot is not None:
        tile = _tiled(snapshot)
        if tiling_of(tile) is not None:  # it did not fit otherwise
            memory = NORMAL
    prepared = prepare(
        content,
        styles,
        weights=weights,
        size=then["size"] if then else size,
        fit=fit and not then,
        style_scale=style_scale,
        style_size=style_size,
        colors=colors,
        iterations=iterations,
        ladder=ladder,
        pyramid=pyramid,
        optimizer=optimizer,
        learning_rate=learning_rate,
        average=average,
        history=then.get("history", history) if then else history,
        device=device,
        dtype=dtype,
        threads=threads,
        engine=engine,
        tile=tile,
        memory=memory,
        options=options,
    )
    prepared.needs.check(prepared.plan)
    if prepared.plan.disk:
        check_room(prepared.plan.disk)
    pictures, engine, rungs, history = prepared.pictures, prepared.engine, prepared.plan.rungs, prepared.plan.history
    settings = {
        "size": size,
        "fit": fit,
        "style_scale": pictures.scales,
        "style_size": pictures.sizes,
        "colors": colors,
        "iterations": iterations,
        "ladder": ladder,
        "pyramid": pyramid,
        "optimizer": optimizer,
        "init": str(init),
        "seed": seed,
        "device": engine.name,
        "precision": engine.precision,
        "threads": engine.threads,
        "tile": word_of(engine),
        "memory": memory_of(engine),
        **({"learning_rate": learning_rate, "average": average} if optimizer == "adam" else {"history": history}),
    }
    metadata = {
        "content": named(content),
        "style": [named(s) for s in styles],
        **masks,
        "init": [named(name) for name in parts if name not in INITS],
        "settings": settings,
        "sizes": [
            {"height": r.height, "width": r.width, "iterations": r.iterations, "blocks": list(r.blocks)} for r in rungs
        ],
        "resumed": 0,
        **made_with(prepared.weights, engine),
    }
    if fast_weights is not None:
        metadata["start"] = {"name": fast_weights.name, "sha256": fast_weights.sha256}
    network = None if fast_weights is None else fast.network(fast_weights, engine)
    if network is not None:
        check_memory(network, engine, rungs[-1].size)
    loop = Loop(
        pictures,
        prepared.weights,
        engine,
        options,
        prepared.optimizer,
        parts,
        seed,
        Progress(rungs, on_step),
        metadata,
        snapshot,
        Clock(snapshot_every),
        stop or (lambda: False),
        prepared.needs.network,
        network,
    )
    return loop.run(on_start, resume)


def _tiled(snapshot: str | Path) -> int | str:
    """The tiles of the run that a snapshot is of: other ones round otherwise."""
    with open_snapshot(snapshot) as (record, _):
        return record.get("tile", "auto")


def _fitted(snapshot: str | Path) -> dict[str, Any]:
    """What `fit` came to in the run that a snapshot is of."""
    with open_snapshot(snapshot) as (record, _):
        asked, made = record["request"], record["request"]["ladder or pyramid"][-1]
        history = {"history": asked["--history"]} if "--history" in asked else {}
        return {"size": max(made["height"], made["width"])} | history


def check_names(function: str, options: Iterable[str]) -> None:
    """Refuse options that neither `stylize` nor `Objective` has, as Python does, with the nearest one."""
    known = {**inspect.signature(stylize).parameters, **inspect.signature(Objective).parameters}
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else "see its docstring, and that of Objective"
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}; {hint}")
