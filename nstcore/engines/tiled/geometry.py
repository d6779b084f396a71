"""Where tiles and their windows lie.

A position p of a layer with stride s sees the input's rows p s - reach to p s + s - 1 + reach, and columns likewise
(`nstcore.vgg`). So the features that belong to the rows [y0, y1) of a tile are those of the whole picture if the window
that they are computed from holds

        [y0 - reach, y1 + reach)                                   or ends where the picture does,

and begins at a multiple of the grid, the largest stride, so that poolings take the same 2x2 squares. What lies nearer
to the window's edge than that is wrong, and is not looked at.

The gradient with respect to those rows comes from all the positions that see one of them. The outermost of these begins
up to reach + grid - 1 rows beyond the tile; where its features are computed again, they ask for another reach rows:

        [y0 - (grid - 1) - max(reach, 2 again), y1 + (grid - 1) + max(reach, 2 again))

with the reach of the deepest layer that is computed again. For VGG19 down to relu5_1 in one piece, all of it computed
again, reach is 70 and the grid 16: halos of 80 and 160 pixels on the side where the grid counts. Of its third block
alone, of which conv3_1 is computed again, they are 4 and 6 positions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...vgg import Part, Step

Window = tuple[slice, slice]  # rows, columns
ENDLESS = 1 << 30  # the side of a picture that no window ends with


@dataclass(frozen=True)
class Stretch:
    """Rows (or columns) of one tile, counted in the input of a part.

    Attributes
    ----------
    begin, end : int
        The tile's own; stretches cover the picture, each position once.
    start, length : int
        The window's, which holds them.
    """

    begin: int
    end: int
    start: int
    length: int

    @property
    def window(self) -> slice:
        """The window's positions in the whole."""
        return slice(self.start, self.start + self.length)

    def window_at(self, stride: int) -> slice:
        """The same at a layer with that stride."""
        return slice(self.start // stride, self.start // stride + self.length // stride)

    def own_at(self, stride: int) -> slice:
        """The tile's own positions at a layer with that stride, counted from the window's first one."""
        return slice((self.begin - self.start) // stride, (self.end - self.start) // stride)

    def own_of_all(self, stride: int) -> slice:
        """The same, counted from the picture's first one."""
        return slice(self.begin // stride, self.end // stride)


@dataclass(frozen=True)
class Reach:
    """How far a part of a network sees, in positions of its input.

    Attributes
    ----------
    stride : int
        Pixels that one of these positions stands for.
    grid : int
        The largest stride of its layers: tiles begin at its multiples.
    reach : int
        Of its deepest layer.
    again : int
        Of the deepest layer that is computed again on the way back.
    """

    stride: int
    grid: int
    reach: int
    again: int

    @classmethod
    def of(cls, part: Part, steps: Sequence[Step], again: int | None = None) -> Reach:
        """Of a part of which so many steps are computed again; all of them, if not given."""
        stride = part.stride
        first, last = steps[0], steps[-1]
        before = first.reach - (first.stride if first.kind == "conv" else 0)  # of what the part's input saw already
        found = [0, *((step.reach - before) // stride for step in steps)]
        return cls(stride, last.stride // stride, found[-1], found[-1 if again is None else again])

    @property
    def features(self) -> int:
        """Halo of the features."""
        return self.reach

    @property
    def gradient(self) -> int:
        """Halo of the gradient."""
        return max(self.reach, 2 * self.again) + self.grid - 1


def stretches(size: int, tile: int, halo: int, grid: int) -> list[Stretch]:
    """Tiles of about equal size along one side, and windows that all have the same length.

    Parameters
    ----------
    size : int
        Of the side.
    tile : int
        Of a tile at most, rounded up to the grid.
    halo : int
    grid : int
    """
    tile, left, length = _lengths(size, tile, halo, grid)
    found = []
    for begin in range(0, size, tile):
        start = min(max(0, begin - left), size - length)
        found.append(Stretch(begin, min(begin + tile, size), start, length))
    return found


def _lengths(size: int, tile: int, halo: int, grid: int) -> tuple[int, int, int]:
    """Of a tile, of the halo before it, of a window."""
    tile = _up(min(tile, size), grid)
    count = -(-size // tile)
    tile = _up(-(-size // count), grid)
    left = _up(halo, grid)
    length = tile + left + halo
    length += (size - length) % grid  # a window that ends where the picture does begins on the grid, too
    return tile, left, min(length, size)


@dataclass(frozen=True)
class Tile:
    """Rows and columns of one tile."""

    rows: Stretch
    columns: Stretch

    @property
    def window(self) -> tuple[slice, slice]:
        return self.rows.window, self.columns.window

    @property
    def shape(self) -> tuple[int, int]:
        """Of the window."""
        return self.rows.length, self.columns.length

    @property
    def area(self) -> int:
        """Positions of the window."""
        return self.rows.length * self.columns.length

    def window_at(self, stride: int) -> tuple[slice, slice]:
        return self.rows.window_at(stride), self.columns.window_at(stride)

    def own_at(self, stride: int) -> tuple[slice, slice]:
        return self.rows.own_at(stride), self.columns.own_at(stride)

    def own_of_all(self, stride: int) -> tuple[slice, slice]:
        return self.rows.own_of_all(stride), self.columns.own_of_all(stride)


def tiles(height: int, width: int, tile: int, halo: int, grid: int) -> list[Tile]:
    """Squares, as far as the picture goes; row by row."""
    return _tiles((height, width), (tile, tile), halo, grid)


def bands(height: int, width: int, tile: int, halo: int, grid: int) -> list[Tile]:
    """Rectangles whose windows hold no more positions than such a square's, and all together fewest: with a halo on two
    sides alone, where few tiles cover the picture."""
    size, sides = (height, width), (tile, tile)
    most = math.prod(_lengths(ENDLESS, tile, halo, grid)[2:] * 2)

    def positions(sides: tuple[int, int]) -> tuple[int, int]:
        """Of one window, of all of them."""
        found = [_lengths(n, side, halo, grid) for n, side in zip(size, sides, strict=True)]
        one = math.prod(length for _, _, length in found)
        return one, one * math.prod(-(-n // own) for n, (own, _, _) in zip(size, found, strict=True))

    least = positions(sides)[1]
    for rows in range(1, 2 * -(-height // tile) + 1):
        high = -(-height // rows)
        across = min(width, most // _lengths(height, high, halo, grid)[2])  # columns of a window
        wide = width if across == width else (across - 2 * _up(halo, grid)) // grid * grid - grid
        if wide >= grid:
            one, every = positions((high, wide))
            if one <= most and every < least:
                least, sides = every, (high, wide)
    return _tiles(size, sides, halo, grid)


def _tiles(size: tuple[int, int], sides: tuple[int, int], halo: int, grid: int) -> list[Tile]:
    rows, columns = (stretches(n, side, halo, grid) for n, side in zip(size, sides, strict=True))
    return [Tile(r, c) for r in rows for c in columns]


def framed(window: Window, size: tuple[int, int]) -> Window:
    """One position more on each side, where a picture of that size has one."""
    return _window(slice(max(0, s.start - 1), min(n, s.stop + 1)) for s, n in zip(window, size, strict=True))


def blocks(window: Window, k: int, size: tuple[int, int]) -> Window:
    """What a window of blocks of k x k covers of a picture of that size."""
    return _window(slice(s.start * k, min(s.stop * k, n)) for s, n in zip(window, size, strict=True))


def within(window: Window, other: Window) -> Window:
    """A window, counted in another one that holds it."""
    return _window(slice(s.start - o.start, s.stop - o.start) for s, o in zip(window, other, strict=True))


def _window(sides: Iterable[slice]) -> Window:
    rows, columns = sides
    return rows, columns


def _up(n: int, grid: int) -> int:
    """The next multiple."""
    return -(-n // grid) * grid
