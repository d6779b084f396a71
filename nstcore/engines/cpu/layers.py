"""The other layers of the NumPy form, on features (H, W, C), each split over the team by rows.

Beside each function stands the name of the one in the book that it computes.
"""

from __future__ import annotations

import numpy as np

from .team import Team

BLOCK = 1 << 15  # numbers per piece of an element-by-element pass: a few of them fit the second-level cache


def first_conv_forward(
    x: np.ndarray, w: np.ndarray, b: np.ndarray, y: np.ndarray, columns: np.ndarray, team: Team, padding: str
) -> None:
    """conv1_1 by im2col: `ops.conv_forward`. Three channels are too few for Winograd's products.

    x (H+2, W+2, 3) with its border still to be filled, w (27, K) with rows (r, s, c), y (H, W, K),
    columns (H, W, 27) work space.
    """
    fill_border(x, padding)
    height, width, channels = y.shape
    row, column, one = x.strides
    # The three pixels of a window's row are neighbours in memory: (H, W, 3 rows, 9 numbers)
    windows = np.lib.stride_tricks.as_strided(x, (height, width, 3, 9), (row, column, row, one), writeable=False)

    def rows(_: int, a: int, c: int) -> None:
        np.copyto(columns[a:c].reshape(c - a, width, 3, 9), windows[a:c])
        out = y[a:c].reshape(-1, channels)
        np.matmul(columns[a:c].reshape(-1, 27), w, out=out)
        np.add(out, b, out=out)

    team.split(rows, height)


def first_conv_backward(
    dy: np.ndarray, w: np.ndarray, dx: np.ndarray, columns: np.ndarray, team: Team, padding: str
) -> None:
    """Backward of conv1_1: `ops.conv_backward`.

    dy (H, W, K), w (27, K), dx (H+2, W+2, 3): the gradient is in its inner part, columns (H, W, 27) work space.
    """
    height, width, filters = dy.shape

    def products(_: int, a: int, c: int) -> None:
        np.matmul(dy[a:c].reshape(-1, filters), w.T, out=columns[a:c].reshape(-1, 27))

    def sums(_: int, a: int, c: int) -> None:
        # Rows a..c of dx, border included; row i collects from the windows of rows i-2 .. i
        dx[a:c] = 0
        for r in range(3):
            low, high = max(a - r, 0), min(c - r, height)
            if low < high:
                for s in range(3):
                    part = columns[low:high, :, 9 * r + 3 * s : 9 * r + 3 * s + 3]
                    dx[low + r : high + r, s : s + width] += part

    team.split(products, height)
    team.split(sums, height + 2)
    if padding == "replicate":
        dx[1] += dx[0]
        dx[-2] += dx[-1]
        dx[:, 1] += dx[:, 0]
        dx[:, -2] += dx[:, -1]


def fill_border(x: np.ndarray, padding: str) -> None:
    """Border of x (H+2, W+2, C): 0 or the nearest value."""
    zero = padding == "zero"
    x[0] = 0 if zero else x[1]
    x[-1] = 0 if zero else x[-2]
    x[:, 0] = 0 if zero else x[:, 1]
    x[:, -1] = 0 if zero else x[:, -2]


def add_replicated_border(dx: np.ndarray, dy: np.ndarray, w: np.ndarray) -> None:
    """What a replicated border adds to a backward pass that took it for zero: the rest of `ops.conv.unpad`.

    dx (H, W, C), dy (H, W, K), w (K, C, 3, 3). Each edge of the border is a convolution in one dimension; the corners
    belong to the rows.
    """
    height, width, channels = dx.shape
    for edge, r in ((0, 0), (height - 1, 2)):
        ring = np.zeros((width + 2, channels), dx.dtype)
        for s in range(3):
            ring[s : s + width] += dy[edge] @ w[:, :, r, s]
        ring[1] += ring[0]
        ring[-2] += ring[-1]
        dx[edge] += ring[1:-1]
    for edge, s in ((0, 0), (width - 1, 2)):
        ring = np.zeros((height + 2, channels), dx.dtype)
        for r in range(3):
            ring[r : r + height] += dy[:, edge] @ w[:, :, r, s]
        dx[:, edge] += ring[1:-1]


def relu_forward(x: np.ndarray, y: np.ndarray, team: Team) -> None:
    """y = max(x, 0), in place where x is y: `ops.relu_forward`."""
    xs, ys = x.reshape(-1), y.reshape(-1)

    def piece(_: int, a: int, b: int) -> None:
        for i in range(a, b, BLOCK):
            j = min(i + BLOCK, b)
            np.maximum(xs[i:j], 0, out=ys[i:j])

    team.split(piece, xs.size)


def relu_backward(dy: np.ndarray, y: np.ndarray, mask: np.ndarray, team: Team) -> None:
    """dy = 0 where y <= 0, in place: `ops.relu_backward`. mask: flat bool work space."""
    d, v = dy.reshape(-1), y.reshape(-1)

    def piece(_: int, a: int, b: int) -> None:
        for i in range(a, b, BLOCK):
            j = min(i + BLOCK, b)
            np.greater(v[i:j], 0, out=mask[i:j])
            np.multiply(d[i:j], mask[i:j], out=d[i:j])

    team.split(piece, d.size)


def windows(x: np.ndarray) -> list[np.ndarray]:
    """Views (H//2, W//2, C) of the four values of each 2x2 window, row by row."""
    height, width = x.shape[0] // 2 * 2, x.shape[1] // 2 * 2
    return [x[r:height:2, s:width:2] for r in (0, 1) for s in (0, 1)]


def pool_forward(
    x: np.ndarray, y: np.ndarray, kind: str, choice: np.ndarray | None, work: np.ndarray, mask: np.ndarray, team: Team
) -> None:
    """x (H, W, C) -> y (H//2, W//2, C): `ops.pool_forward`. choice: uint8, y's shape, for max; work, mask: flat."""
    values = windows(x)

    def rows(_: int, a: int, b: int) -> None:
        out = y[a:b]
        first, *others = (v[a:b] for v in values)
        if kind == "max":
            assert choice is not None
            larger = mask[: y.size].reshape(y.shape)[a:b]
            chosen = choice[a:b]
            np.copyto(out, first)
            chosen[...] = 0
            for i, value in enumerate(others, 1):
                np.greater(value, out, out=larger)
                # i grows: the maximum of the two keeps the latest winner
                index = np.multiply(larger.view(np.uint8), np.uint8(i), out=larger.view(np.uint8))
                np.maximum(chosen, index, out=chosen)
                np.maximum(value, out, out=out)
        elif kind == "average":
            np.add(first, others[0], out=out)
            np.add(out, others[1], out=out)
            np.add(out, others[2], out=out)
            np.multiply(out, 0.25, out=out)
        else:
            square = work[: y.size].reshape(y.shape)[a:b]
            np.multiply(first, first, out=out)
            for value in others:
                np.multiply(value, value, out=square)
                np.add(out, square, out=out)
            np.sqrt(out, out=out)

    team.split(rows, y.shape[0])


def pool_backward(
    dy: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    dx: np.ndarray,
    kind: str,
    choice: np.ndarray | None,
    mask: np.ndarray,
    team: Team,
) -> None:
    """dy (H//2, W//2, C) -> dx (H, W, C): `ops.pool_backward`. dy is used up (L2 pooling divides it in place)."""
    height, width = y.shape[0] * 2, y.shape[1] * 2
    dx[height:] = 0
    dx[:, width:] = 0
    values, gradients = windows(x), windows(dx)

    def rows(_: int, a: int, b: int) -> None:
        d = dy[a:b]
        flags = mask[: y.size].reshape(y.shape)[a:b]
        if kind == "l2":
            np.greater(y[a:b], 0, out=flags)
            np.divide(d, y[a:b], out=d, where=flags)
            np.multiply(d, flags, out=d)
        for i in range(4):
            out = gradients[i][a:b]
            if kind == "max":
                assert choice is not None
                np.equal(choice[a:b], i, out=flags)
                np.multiply(d, flags, out=out)
            elif kind == "average":
                np.multiply(d, 0.25, out=out)
            else:
                np.multiply(d, values[i][a:b], out=out)

    team.split(rows, y.shape[0])
