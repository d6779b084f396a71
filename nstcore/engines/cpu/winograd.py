"""3x3 convolution by Winograd's minimal filtering F(4x4, 3x3), in NumPy: `ops.conv_forward`, `ops.conv_backward`.

The picture is cut into tiles of 4x4 outputs, each of which sees d, 6x6 inputs. For one channel pair

        Y = A^T [ (G g G^T) * (B^T d B) ] A              g a 3x3 filter, * element by element

takes 36 multiplications instead of 144, and summed over channels the products in the middle become 36 independent
matrix products, one per frequency f:

        V[f] = B^T d B            (tiles, C)      input transform
        U[f] = G g G^T            (C, K)          filter transform, once
        M[f] = V[f] U[f]          (tiles, K)      36 products
        Y    = A^T M A            (tiles, K)      output transform

Flattened row by row, B^T d B is (B^T kron B^T) d: a product with a 36x36 matrix. So transforms, too, are left to BLAS,
and all that remains for NumPy is to gather and scatter tiles. Features are (H, W, C): a pixel is a run of C numbers.

The backward pass is the same function with the filters turned by 180 degrees and C, K exchanged.

References
----------
.. [1] Lavin, Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, section 4.3.
"""

from __future__ import annotations

import numpy as np

from .arena import Arena
from .team import Team

BT = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
    np.float64,
)
G = np.array(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
    np.float64,
)
AT = np.array(
    [
        [1, 1, 1, 1, 1, 0],
        [0, 1, -1, 2, -2, 0],
        [0, 1, 1, 4, 4, 0],
        [0, 1, -1, 8, -8, 1],
    ],
    np.float64,
)
FREQUENCIES = 36
BAND_BYTES = 12 << 20  # of transformed input (or output) that exists at once: a share of the last-level cache


def transform_filters(w: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """U (36, C, K) of filters w (K, C, 3, 3), computed in float64: G g G^T is (G kron G) g."""
    K, C = w.shape[:2]
    taps = np.ascontiguousarray(w.transpose(2, 3, 1, 0), np.float64).reshape(9, C * K)
    return (np.kron(G, G) @ taps).astype(dtype).reshape(FREQUENCIES, C, K)


def rotate_filters(w: np.ndarray) -> np.ndarray:
    """Filters (C, K, 3, 3) of the backward pass: turned by 180 degrees, in and out exchanged."""
    return w[:, :, ::-1, ::-1].swapaxes(0, 1)


class WinogradConv:
    """One convolution for one size: (H, W, C) -> (H, W, K), zero or replicated border.

    Work goes in bands of tile rows. Each band takes three phases, each split over the team: gather and transform (by
    tile rows), multiply (by frequencies, so that each U[f] is read once a band), transform back and scatter (by tile
    rows).
    """

    def __init__(self, channels: int, filters: int, height: int, width: int, dtype: np.dtype, team: Team) -> None:
        self.C, self.K, self.H, self.W = channels, filters, height, width
        self.dtype, self.team = dtype, team
        self.tile_rows, self.tile_columns = -(-height // 4), -(-width // 4)
        row_bytes = FREQUENCIES * self.tile_columns * max(channels, filters) * dtype.itemsize
        self.band = min(self.tile_rows, max(team.threads, BAND_BYTES // row_bytes))
        self.input_transform = np.kron(BT, BT).astype(dtype)  # (36, 36)
        self.output_transform = np.kron(AT, AT).astype(dtype)  # (16, 36)

    def scratch(self) -> dict[str, int]:
        """Numbers that a band needs in each of three work spaces, which all convolutions share."""
        tiles = self.band * self.tile_columns
        share = -(-self.band // self.team.threads)
        strip = (4 * share + 2) * (4 * self.tile_columns + 2) * self.C
        return {
            "strips": strip * self.team.threads,
            "gathered": tiles * max(FREQUENCIES * self.C, 16 * self.K),
            "V": FREQUENCIES * tiles * self.C,
            "M": FREQUENCIES * tiles * self.K,
        }

    def __call__(
        self,
        x: np.ndarray,
        U: np.ndarray,
        y: np.ndarray,
        work: dict[str, np.ndarray],
        bias: np.ndarray | None = None,
        padding: str = "zero",
    ) -> None:
        """y = conv(x) + bias, for x (H, W, C), U (36, C, K), y (H, W, K); `work` as `scratch` asks, flat."""
        for top in range(0, self.tile_rows, self.band):
            rows = min(self.band, self.tile_rows - top)
            tiles = rows * self.tile_columns
            V = work["V"][: FREQUENCIES * tiles * self.C].reshape(FREQUENCIES, tiles, self.C)
            M = work["M"][: FREQUENCIES * tiles * self.K].reshape(FREQUENCIES, tiles, self.K)

            def transform(worker: int, a: int, b: int, top: int = top, V: np.ndarray = V) -> None:
                self._transform(x, V, work, worker, top, a, b, padding)

            def multiply(_: int, f: int, g: int, V: np.ndarray = V, M: np.ndarray = M) -> None:
                np.matmul(V[f:g], U[f:g], out=M[f:g])

            def transform_back(_: int, a: int, b: int, top: int = top, M: np.ndarray = M) -> None:
                self._transform_back(M, y, work, top, a, b, bias)

            self.team.split(transform, rows)
            self.team.split(multiply, FREQUENCIES)
            self.team.split(transform_back, rows)

    def _transform(
        self,
        x: np.ndarray,
        V: np.ndarray,
        work: dict[str, np.ndarray],
        worker: int,
        top: int,
        a: int,
        b: int,
        padding: str,
    ) -> None:
        """V for tile rows top+a .. top+b."""
        n, columns, C = b - a, self.tile_columns, self.C
        # Rows of x that the tiles see, with their border, in a strip of this worker's own
        size = (4 * n + 2) * (4 * columns + 2) * C
        at = worker * (work["strips"].size // self.team.threads)
        strip = work["strips"][at : at + size].reshape(4 * n + 2, 4 * columns + 2, C)
        first = 4 * (top + a) - 1
        low, high = max(first, 0), min(first + 4 * n + 2, self.H)
        inside = slice(low - first, high - first)
        strip[inside, 1 : self.W + 1] = x[low:high]
        strip[: low - first] = strip[low - first] if padding == "replicate" else 0
        strip[high - first :] = strip[high - first - 1] if padding == "replicate" else 0
        strip[:, 0] = strip[:, 1] if padding == "replicate" else 0
        strip[:, self.W + 1 :] = strip[:, self.W : self.W + 1] if padding == "replicate" else 0

        # d: (6, 6, n, columns, C), tiles overlap by two
        row, column, one = strip.strides
        tiles = np.lib.stride_tricks.as_strided(
            strip, (6, 6, n, columns, C), (row, column, 4 * row, 4 * column, one), writeable=False
        )
        start, stop = a * columns * C, b * columns * C
        gathered = work["gathered"][FREQUENCIES * start : FREQUENCIES * stop]
        np.copyto(gathered.reshape(tiles.shape), tiles)
        np.matmul(
            self.input_transform,
            gathered.reshape(FREQUENCIES, stop - start),
            out=V.reshape(FREQUENCIES, -1)[:, start:stop],
        )

    def _transform_back(
        self,
        M: np.ndarray,
        y: np.ndarray,
        work: dict[str, np.ndarray],
        top: int,
        a: int,
        b: int,
        bias: np.ndarray | None,
    ) -> None:
        """Rows of y under tile rows top+a .. top+b."""
        columns, K = self.tile_columns, self.K
        start, stop = a * columns * K, b * columns * K
        Y = work["gathered"][16 * start : 16 * stop].reshape(16, stop - start)
        np.matmul(self.output_transform, M.reshape(FREQUENCIES, -1)[:, start:stop], out=Y)
        Y = Y.reshape(4, 4, b - a, columns, K)
        out = y[4 * (top + a) : 4 * (top + b)]
        for i in range(4):
            for j in range(4):
                part = out[i::4, j::4]  # the last tiles may hang over the edge
                values = Y[i, j, : part.shape[0], : part.shape[1]]
                if bias is None:
                    part[...] = values
                else:
                    np.add(values, bias, out=part)


def plan_scratch(convolutions: list[WinogradConv], arena: Arena, dtype: np.dtype) -> None:
    """Work spaces large enough for any of them."""
    sizes: dict[str, int] = {}
    for convolution in convolutions:
        for name, size in convolution.scratch().items():
            sizes[name] = max(size, sizes.get(name, 0))
    for name, size in sizes.items():
        arena.add(name, (size,), dtype)
