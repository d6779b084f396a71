"""Whether a picture is painted in tiles or with little memory, and how large the tiles are."""

from __future__ import annotations

from collections.abc import Callable

from ..engines import Engine
from ..engines.tiled import LowEngine, TiledEngine, Tiling
from ..engines.tiled.tiling import CUTS
from ..errors import OptionError
from .needs import SMALLEST_TILE, TILE_STEP, Needs
from .plan import Plan

Tile = str | int | None

NORMAL, LOW = MEMORIES = ("normal", "low")
WHOLES = [str(n + 1) for n in range(len(CUTS))]  # parts that may be in one piece; the first never is


def tiling_of(tile: Tile) -> Tiling | None:
    """What a tile size stands for: None for "auto", "off" and None.

    Raises
    ------
    OptionError
        If it is none of these, nor a side in pixels, or "SIDE,N" with N parts in one piece.
    """
    if tile in (None, "auto", "off"):
        return None
    side, comma, whole = str(tile).partition(",")
    fits = side.isascii() and side.isdigit() and int(side) >= SMALLEST_TILE and (whole in WHOLES or not comma)
    if isinstance(tile, bool) or not fits:
        raise OptionError(f"tile: expected auto, off, or a side of {SMALLEST_TILE} pixels or more, got {tile!r}")
    return Tiling(int(side), whole=int(whole or 0))


def word_of(engine: Engine) -> int | str:
    """The tile size with which an engine paints, as an option."""
    if not isinstance(engine, TiledEngine):
        return "off"
    tiling = engine.tiling
    return f"{tiling.side},{tiling.whole}" if tiling.whole else tiling.side


def memory_of(engine: Engine) -> str:
    """The use of memory with which an engine paints, as an option."""
    return LOW if isinstance(engine, LowEngine) else NORMAL


def with_memory(memory: str, tile: Tile, engine: Engine) -> Engine:
    """The engine, or what paints with less memory on it.

    Raises
    ------
    OptionError
        For a use of memory that is none, or for one that tiles or a cluster leave no room for.
    """
    if memory not in MEMORIES:
        raise OptionError(f"memory: expected one of {', '.join(MEMORIES)}, got {memory!r}")
    if memory == NORMAL:
        return engine
    if tiling_of(tile) is not None:
        raise OptionError("memory: expected normal beside the side of a tile, got low; take tile auto or off")
    if engine.elsewhere:
        raise OptionError("memory: expected normal on a cluster, got low; its workers compute in tiles")
    return LowEngine(engine)


def planned(
    tile: Tile, fit: bool, wanted: tuple[int, int], engine: Engine, needs_of: Callable[[Engine], Needs]
) -> tuple[Engine, Needs, Plan]:
    """The engine that paints, what it needs, and the plan; whether the plan fits is for the caller to check.

    Parameters
    ----------
    tile
        See `stylize`. "auto": in tiles if the picture does not fit otherwise, as large ones as fit.
    fit : bool
        Take a smaller size where nothing else helps.
    wanted : (height, width)
    engine : Engine
    needs_of : callable (Engine) -> Needs
    """
    tiling = tiling_of(tile)
    if engine.elsewhere:
        return _on_a_cluster(None if tiling is None else tiling.side, fit, wanted, engine, needs_of)
    base = engine.base if isinstance(engine, LowEngine) else engine
    if tiling is not None:
        engine = TiledEngine(base, tiling)
    needs = needs_of(engine)
    plan = needs.plan(wanted)
    if fit and not plan.fits:  # a shorter memory of L-BFGS costs less than tiles, and these less than a smaller picture
        plan = needs.shortened(wanted) or plan
    if tile == "auto" and not plan.fits:
        del needs  # and the filters that it has packed
        tiled = TiledEngine(base, Tiling(SMALLEST_TILE))
        needs = needs_of(tiled)
        if (found := needs.in_tiles(wanted)) is not None:
            return tiled, needs, found
        plan = needs.plan(wanted)
        engine = tiled
    if fit and not plan.fits:
        plan = needs.largest(wanted)
    return engine, needs, plan


def _on_a_cluster(
    side: int | None, fit: bool, wanted: tuple[int, int], engine: Engine, needs_of: Callable[[Engine], Needs]
) -> tuple[Engine, Needs, Plan]:
    """The same where the workers of a cluster compute, always in tiles: of that side, or as are soonest done."""
    from ..engines.cluster import ClusterNetwork  # with what it imports, a tenth of a second of every start

    needs = needs_of(engine)
    assert isinstance(needs.network, ClusterNetwork)
    sides = [side] if side is not None else range(SMALLEST_TILE, max(SMALLEST_TILE, *wanted) + TILE_STEP, TILE_STEP)
    needs.network.fit(*wanted, sides, needs.plan(wanted).workers)
    plan = needs.plan(wanted)
    if fit and not plan.fits:
        plan = needs.largest(wanted)
    return engine, needs, plan
