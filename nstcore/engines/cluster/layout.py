"""Which worker has which piece of an array of a picture's size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..tiled.geometry import Tile, tiles
from ..tiled.tiling import GRID
from ..tiled.windows import Window

Part = tuple[int, Window, Window]  # of a window: the piece, where in the piece, where in the window


class Layout:
    """Pieces of an array (C, H, W): the tiles' own pixels, row by row, and the owner of each.

    Parameters
    ----------
    height, width : int
    side : int
        Of a tile, in pixels.

    Attributes
    ----------
    owners : dict of int to str
        The address of each piece's worker.
    """

    def __init__(self, height: int, width: int, side: int) -> None:
        self.height, self.width, self.side = height, width, side
        self.tiles: list[Tile] = tiles(height, width, side, 0, GRID)
        self.owners: dict[int, str] = {}
        self._rows, self._columns = self.tiles[0].rows.end, self.tiles[0].columns.end  # of every piece but the last
        self._across = -(-width // self._columns)

    def window(self, n: int) -> Window:
        """Rows and columns of a piece."""
        return self.tiles[n].own_of_all(1)

    def shape(self, n: int) -> tuple[int, int]:
        return extent(self.window(n))

    def parts(self, window: Window) -> list[Part]:
        """The pieces that a window is put together from."""
        rows, columns = (_overlaps(side, step) for side, step in zip(window, (self._rows, self._columns), strict=True))
        return [
            (i * self._across + j, (of_piece, also), (place, beside))
            for i, of_piece, place in rows
            for j, also, beside in columns
        ]

    def assign(self, workers: Sequence[str]) -> Counter[str]:
        """An owner for every piece: neighbours together at first; then no more than must be moves, from owners that
        have gone, whose pieces are counted, and to those that have two pieces less than another."""
        count = len(self.tiles)
        if not self.owners:
            self.owners = {n: workers[n * min(len(workers), count) // count] for n in range(count)}
        load = Counter(dict.fromkeys(workers, 0))
        load.update(owner for owner in self.owners.values() if owner in load)
        gone = Counter(owner for owner in self.owners.values() if owner not in load)
        for n, owner in self.owners.items():
            least = min(load, key=lambda a: (load[a], a))
            if owner in load:
                if load[owner] < load[least] + 2:
                    continue
                load[owner] -= 1
            self.owners[n] = least
            load[least] += 1
        return gone

    def by_owner(self) -> dict[str, list[int]]:
        """The pieces of each worker."""
        found: dict[str, list[int]] = {}
        for n, owner in self.owners.items():
            found.setdefault(owner, []).append(n)
        return found


def extent(window: Window) -> tuple[int, int]:
    """How many rows and columns a window has."""
    rows, columns = window
    return rows.stop - rows.start, columns.stop - columns.start


def _overlaps(side: slice, step: int) -> list[tuple[int, slice, slice]]:
    """Along one side: number of each piece that a window meets, where in the piece, where in the window."""
    found = []
    for i in range(side.start // step, (side.stop - 1) // step + 1):
        begin, end = max(side.start, i * step), min(side.stop, (i + 1) * step)
        found.append((i, slice(begin - i * step, end - i * step), slice(begin - side.start, end - side.start)))
    return found
