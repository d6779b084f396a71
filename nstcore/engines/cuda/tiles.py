"""How a convolution on tensor cores is cut up: the tile of a block, and the parts into which a tile's sum is split.

`predicted` is a rule made from counting. Where somebody has measured (tools/tune_tiles.py), kernels/tiles.json says
what was fastest on GPUs of an architecture, layer by layer, and `chosen` follows it. 09_halo_tile and 12_halo_pooled,
and 07_wgmma and 11_tma_wgmma, which sm_90 alone has, are chosen only so: they were never run on a GPU, and what they
should gain (09: `with_halo`) is a prediction. Tiles change no bit of the result. The number of parts does, and so do
07, 09 (and 12, which adds as 09) and 11, which add in other orders, by the rounding of a float32 sum: all depend on the
layer, the precision, the architecture and that file alone, so that a picture can be made again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from ...errors import DeviceError
from . import source
from .tile_launches import (
    BOX_TILES,
    BOXES,
    HALO_POOLED,
    HALO_TILE,
    HALO_TILES,
    OF_RUNG,
    OF_SM_90,
    POOLED,
    ROW_BYTES,
    SIXTEEN_BITS,
    TILES,
    TILES_OF,
    WARPGROUP_TILES,
    WGMMA,
    Launch,
    Pass,
    Tile,
    blocks,
    box_rectangles,
    boxes_with,
    halo_rectangles,
    wgmma_with,
    whole_with,
    with_border,
)

PARTS = (1, 2, 4, 8, 16)  # of a sum
PROCESSORS = 132  # of a large GPU: what the rule is for
# What splitting costs, in the same unit, 26 cycles at the usual 62 % of the tensor cores' peak (a prediction): another
# launch, 3 us; and 8 bytes of the second-level cache for every float of a part, 5000 in a cycle
LAUNCH, FLOATS = 200, 16000
CACHE = 740  # bytes that the second-level cache hands a multiprocessor in one unit, at 6.5 TB/s for all (a guess)


@dataclass(frozen=True)
class Choice:
    """A tile of a rung, by name in TILES_OF, and into how many parts its sum is split: 1 for not at all.

    Without a name the rung is the one in use, 05 or 06, or 08 for several parts; only those have them.
    """

    tile: Tile
    parts: int = 1
    rung: str | None = None

    def blocks(self, p: Pass) -> int:
        """How many tiles of 05, 06 or 09 a pass has."""
        m, n = self.tile
        places = halo_rectangles(p, m) if self.rung == HALO_TILE else blocks(p.positions, m)
        return places * blocks(p.outputs, n)

    def launch(self, p: Pass, always_split: bool = False) -> Launch:
        """By its rung; without a name of 05 or 06; of 08, if there are parts, or if told so."""
        if self.rung is not None:
            return replace(OF_RUNG[self.rung](p, self.tile), rung=self.rung)
        whole = whole_with(p, self.tile)
        split = self.parts > 1 or always_split
        return replace(whole, grid=(*whole.grid, self.parts), parts=self.parts) if split else whole

    def unit(self, cache: bool) -> float:
        """How long a chunk takes, see TILES; with `cache`, no less than its operands are on their way."""
        m, n = self.tile
        halo = self.rung == HALO_TILE
        products = (HALO_TILES if halo else TILES)[self.tile]
        positions = with_border(m) / 9 if halo else m  # 09 copies them once for nine taps
        return max(products, (positions + n) * ROW_BYTES / CACHE) if cache else products

    def time(self, p: Pass, cache: bool = False) -> float:
        """What the busiest multiprocessor has to do, in units of TILES; `cache` as in `unit`."""
        whole = 9 * blocks(p.inputs * p.precision.dtype.itemsize, ROW_BYTES)
        chunks = whole if self.rung == HALO_TILE else _chunks(p)
        turns = blocks(self.blocks(p) * self.parts, PROCESSORS)
        busy = turns * self.unit(cache) * blocks(chunks, self.parts)
        return busy if self.parts == 1 else busy + LAUNCH + p.positions * p.outputs * self.parts / FLOATS


UNALIGNED = Choice((64, 64))  # more to keep in registers
POOLING = (POOLED, HALO_POOLED)  # rungs that pool on the way
Key = tuple[int, str, int, int, bool, bool]
Table = Mapping[Key, Mapping[int, Choice]]  # by `_key` and `bucket`


# -- the rule ----------------------------------------------------------------------------------------------------------


def choices(p: Pass) -> Iterator[Choice]:
    """All that the rule chooses from: a sum is split only where half of the multiprocessors would be idle."""
    if not p.aligned:
        yield UNALIGNED
        return
    for tile in TILES:
        whole = Choice(tile)
        yield whole
        if whole.blocks(p) < PROCESSORS / 2:
            yield from (Choice(tile, parts) for parts in PARTS[1:] if parts <= _chunks(p))


def _chunks(p: Pass) -> int:
    """Of a whole sum over nine taps."""
    return blocks(9 * p.inputs * p.precision.dtype.itemsize, ROW_BYTES)


def predicted(p: Pass) -> Choice:
    """The one with which the busiest multiprocessor should be done first."""
    return min(choices(p), key=lambda choice: choice.time(p))


def halo(p: Pass) -> Choice:
    """The same of the tiles of 09."""
    if not p.aligned:
        return Choice((256, 64), rung=HALO_TILE)
    return min((Choice(tile, rung=HALO_TILE) for tile in HALO_TILES), key=lambda choice: choice.time(p, cache=True))


def with_halo(p: Pass) -> Choice:
    """What the rule would choose if 09 were among the choices: where it has enough blocks, and whole chunks."""
    usual, other = predicted(p), halo(p)
    return other if p.aligned and other.time(p, cache=True) < usual.time(p, cache=True) else usual


def chosen(p: Pass) -> Choice:
    """What was measured to be fastest for such a pass, if it can compute this one, else what the rule predicts."""
    return _fastest(p) or predicted(p)


def _fastest(p: Pass) -> Choice | None:
    """What was measured to be fastest for a layer of about as many positions, or of those fewer that come next.

    A tile that pays for few positions pays for more of them; not so parts. TMA copies no repeated border.
    """
    found, mine = measured(file()).get(_key(p), {}), bucket(p.positions)
    near = max((b for b in found if b <= mine), default=mine)
    choice = found.get(near)
    if choice is None or not p.aligned or (choice.parts > 1 and near < mine) or (choice.rung == BOXES and p.replicate):
        return None
    return choice


def _of_05_or_06(p: Pass) -> Choice:
    """What is chosen, if that is one of theirs, else what the rule predicts: for what is made in the same way."""
    choice = chosen(p)
    return choice if choice.rung is None else predicted(p)


# -- what was measured -------------------------------------------------------------------------------------------------


def file() -> Path:
    """kernels/tiles.json; it need not be there."""
    return source.folder().parent / "tiles.json"


def bucket(positions: int) -> int:
    """Layers of about as many positions are taken to be alike: those nearest to the same power of two."""
    return round(math.log2(positions))


def _key(p: Pass) -> Key:
    return p.architecture, p.precision.name, p.inputs, p.outputs, p.pooled, p.unpools


@cache
def measured(path: Path) -> Table:
    """The table in a file that tools/tune_tiles.py wrote; an empty one if there is no file.

    Raises
    ------
    DeviceError
        If the file is anything else.
    """
    found: dict[Key, dict[int, Choice]] = {}
    try:
        for layer in json.loads(path.read_bytes())["layers"]:
            key, positions, choice = _entry(layer)
            found.setdefault(key, {})[bucket(positions)] = choice
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise DeviceError(
            f"{path}: expected what tools/tune_tiles.py writes, got {reason}; run it again with --write, or delete it"
        ) from None
    return found


def _entry(layer: Mapping[str, Any]) -> tuple[Key, int, Choice]:
    numbers = [layer[name] for name in ("architecture", "inputs", "outputs", "positions", "parts")]
    if not all(type(n) is int and n > 0 for n in numbers):
        raise ValueError(f"numbers {numbers}")
    architecture, inputs, outputs, positions, parts = numbers
    precision, pooled, rung, (m, n) = (layer[name] for name in ("precision", "pooled", "rung", "tile"))
    unpools = layer.get("unpools", False)  # older files have no such lines
    choice = Choice((m, n), parts, rung)
    fits = choice.tile in TILES_OF.get(rung, ()) and parts in (PARTS if rung is None else (1,))
    fits = fits and precision in ("tf32", *SIXTEEN_BITS)
    fits = fits and (rung not in OF_SM_90 or architecture == 90) and (rung != POOLED or pooled is True)
    fits = fits and (rung != HALO_POOLED or pooled is True or unpools is True)
    if not fits or (type(pooled), type(unpools)) != (bool, bool) or (pooled and unpools):
        what = f"{precision} on sm_{architecture}, pooled {pooled}, unpools {unpools}"
        raise ValueError(f"a tile of {choice.tile} in {parts} parts of {rung} for {what}")
    return (architecture, precision, inputs, outputs, pooled, unpools), positions, choice


# -- launches ----------------------------------------------------------------------------------------------------------


def tensor_core(p: Pass) -> Launch:
    """A block: the tile that is chosen for the layer; several, where its sum is split."""
    return chosen(p).launch(p)


def split_sum(p: Pass) -> Launch:
    """The same, but always split, as far as there is anything to split."""
    choice = _of_05_or_06(p)
    return Choice(choice.tile, max(choice.parts, min(2, _chunks(p)))).launch(p, always_split=True)


def halo_tile(p: Pass) -> Launch:
    """A block: a rectangle of positions."""
    return halo(p).launch(p)


def pools(p: Pass) -> Launch | None:
    """What takes the place of what is chosen for a layer, and of the pooling above it: the rung that was measured to be
    faster than both; where nobody has measured, 10, if 05 or 06 is chosen, its sum not split. None where nothing does.
    """
    found, choice = _fastest(replace(p, pooled=True)), chosen(p)
    if found:
        return found.launch(p) if found.rung in (*POOLING, BOXES) else None
    return pooled(p) if choice.rung is None and choice.parts == 1 else None


def pooled(p: Pass) -> Launch:
    """Of 10, a block: the tile that was measured to be fastest, or that is chosen for the layer."""
    found = _fastest(replace(p, pooled=True))
    tile = found.tile if found and found.rung == POOLED else _of_05_or_06(p).tile
    return Choice(tile, rung=POOLED).launch(p)


def unpools(p: Pass) -> Launch | None:
    """The same of a backward pass and that of the pooling before it: 12, where that was measured to be faster."""
    found = _fastest(replace(p, unpools=True))
    return found.launch(p) if found and found.rung == HALO_POOLED else None


def halo_pooled(p: Pass) -> Launch:
    """Of 12, a block: as of 09."""
    return replace(halo(p), rung=HALO_POOLED).launch(p)


def wgmma(p: Pass) -> Launch:
    """Of 07, a block: the tile with which the busiest multiprocessor is done first."""
    tile = _first_done(p, WARPGROUP_TILES, lambda p, m: blocks(p.positions, m)) if p.aligned else (128, 64)
    return wgmma_with(p, tile)


def boxes(p: Pass) -> Launch:
    """Of 11, a block: likewise. Of 07, where TMA cannot copy: channels that begin anywhere, or a repeated border."""
    if not p.aligned or p.replicate:
        return replace(wgmma(p), rung=WGMMA)
    return boxes_with(p, _first_done(p, BOX_TILES, box_rectangles))


def boxes_pooled(p: Pass) -> Launch | None:
    """The same with the pooling above the layer, which 07 leaves to others."""
    found = boxes(p)
    return replace(found, rung=BOXES) if found.rung is None else None


def _first_done(p: Pass, tiles: Mapping[Tile, int], places: Callable[[Pass, int], int]) -> Tile:
    """The tile with which the busiest multiprocessor is done first; `places` holds so many positions each."""

    def time(tile: Tile) -> int:
        return blocks(places(p, tile[0]) * blocks(p.outputs, tile[1]), PROCESSORS) * tiles[tile]

    return min(tiles, key=time)
