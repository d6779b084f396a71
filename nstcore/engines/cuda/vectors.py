"""The optimizers' vector operations on a GPU: `nstcore.optim.Vectors` by kernels/cuda/vectors.

Each reads its arrays once, in one launch; what comes back as a number takes a second launch of one small block and a
copy of 32 bytes, or of the products of all pairs. How an array is cut into pieces depends on its size alone: the same
bits on every GPU.

A sum over n products is off by at most (VECTOR + 2) 2^-24 times the sum of their absolute values, whatever n, those of
all pairs by (LONGEST + 2) 2^-24 times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ...errors import OptionError, ShapeError
from ...optim import AdamState, Vectors
from ...optim.adam import Halves, Rule, Steps
from .device import Array, Device
from .precision import FLOAT32
from .repeated import Ahead
from .variants import Variant

ELEMENTWISE, FUSED, PAIRS = "vectors/01_elementwise", "vectors/02_fused", "vectors/03_pairs"
THREADS = 256  # of every block, -DTHREADS
VECTOR = 4  # floats that a thread deals with at a time, and adds in float32
PIECES = 1024  # at most; more would be more blocks than a large GPU has at a time
RESULTS = 3  # sums of one operation, at most

# Of the products of all pairs
SIDE = 4  # arrays a side of a tile
CHUNKS = (128, 64, 32, 16, 8)  # floats of every array in shared memory at a time, -DCHUNK: as many as there is room for
CHUNK_BYTES = 38 * 1024  # of the 48 KB of shared memory that every block has, 8 are taken by what a chunk leaves
LONGEST = 512  # products that are added in float32: 4 chunks of 128
PRODUCT_PIECES = 512  # at most, of at least SHORTEST floats
SHORTEST = 1024
MOST_PAIRS = 539  # for which the smallest chunk fits

# What Adam goes ahead with, at most: of larger pictures a step takes so long that the host's share is nothing, and the
# second set of x, m and v (12 bytes an element) is worth having.
AHEAD = 3 * 2048 * 2048


def variants() -> Iterator[Variant]:
    """Every form in which the rungs are compiled; all of them are production's."""
    for rung in (ELEMENTWISE, FUSED):
        yield Variant(rung, FLOAT32, {"THREADS": THREADS}, production=True)
    for chunk in CHUNKS:
        yield Variant(PAIRS, FLOAT32, {"THREADS": THREADS, "CHUNK": chunk}, CHUNK_BYTES, production=True)


class CudaVectors(Vectors):
    """`Vectors` for C-contiguous float32 arrays of a device; no others are taken.

    Scratch for partial results is allocated once, that of `pair_products` when there are more pairs than before.

    Parameters
    ----------
    device : Device

    Raises
    ------
    TypeError
        By every method, for an array of the host or of another device, of another dtype, strided, or one that begins
        at an address which no 16 bytes can be read from.
    ShapeError
        By every method, for arrays of different shapes.
    """

    def __init__(self, device: Device) -> None:
        super().__init__()
        self.device = device
        self._sums = device.empty(RESULTS * PIECES, np.float64)
        self._extremes = device.empty(PIECES, np.uint32)
        self._totals = device.empty(RESULTS + 1, np.float64)  # the sums, then the extreme: one copy to the host
        self._extreme = self._totals[RESULTS:].view(np.uint32)
        self._products = device.empty(0, np.float64)

    # -- memory ---------------------------------------------------------------------------------------------------

    def empty_like(self, x: Array) -> Array:
        self._size(x)
        return self.device.empty(x.shape, np.float32)

    def copy(self, x: Array, out: Array) -> None:
        self._size(x, out)
        if x is not out:
            self.device.copy(x, out)

    def fill(self, x: Array, a: float) -> None:
        n = self._size(x)
        self._elementwise("fill", n, x, a)

    def epsilon(self, x: Array) -> float:
        self._size(x)
        return float(np.finfo(np.float32).eps)

    # -- sums and extremes ----------------------------------------------------------------------------------------

    def dot(self, x: Array, y: Array) -> float:
        n = self._size(x, y)
        (total,), _ = self._fused("dot", n, 1, False, x, y, self._sums)
        return total

    def max_abs(self, x: Array) -> float:
        n = self._size(x)
        _, bits = self._fused("max_abs", n, 0, True, x, self._extremes)
        return _from_bits(bits)

    # -- bounds ---------------------------------------------------------------------------------------------------

    def clip(self, x: Array, lo: float, hi: float) -> None:
        n = self._size(x)
        self._elementwise("clip", n, x, lo, hi)

    def free_elements(self, x: Array, g: Array, lo: float, hi: float, out: Array) -> tuple[int, float]:
        n = self._size(x, g, out)
        scratch = self._sums, self._extremes
        (held,), bits = self._fused("free_elements", n, 1, True, x, g, lo, hi, out, *scratch)
        return int(held), _from_bits(bits)

    # -- steps of L-BFGS ------------------------------------------------------------------------------------------

    def step(self, x: Array, a: float, d: Array, lo: float, hi: float, out: Array) -> None:
        n = self._size(x, d, out)
        self._elementwise("step", n, x, a, d, lo, hi, out)

    def shorten(self, d: Array, x: Array, g: Array, lo: float, hi: float) -> tuple[float, float]:
        n = self._size(d, x, g)
        scratch = self._sums, self._extremes
        (slope,), bits = self._fused("shorten", n, 1, True, d, x, g, lo, hi, *scratch)
        return _from_bits(~bits), slope

    def pair(self, x: Array, g: Array, x_next: Array, g_next: Array, s: Array, y: Array) -> tuple[float, float, float]:
        arrays = x, g, x_next, g_next, s, y
        (sy, ss, yy), _ = self._fused("pair", self._size(*arrays), 3, False, *arrays, self._sums)
        return sy, ss, yy

    def pair_products(self, q: Array, free: Array | None, *arrays: Array) -> np.ndarray:
        n, m = self._size(q, *_given(free), *arrays), len(arrays) // 2
        chunk, shared = _chunk(m)
        rows, columns = _tiles(m)
        pieces, count = min(_ceil(n, SHORTEST), PRODUCT_PIECES), rows.size
        if self._products.size < (pieces + 1) * count:
            self._products = self.device.empty((pieces + 1) * count, np.float64)
        partial, totals = self._products[count:], self._products[:count]
        first = self.device.kernel(PAIRS, "pair_products", THREADS=THREADS, CHUNK=chunk)
        second = self.device.kernel(PAIRS, "sum_products", THREADS=THREADS, CHUNK=chunk)
        tiles = count // SIDE**2
        table = self.device.to_device(self._addresses(*arrays, q))
        first((_ceil(tiles, THREADS), pieces), THREADS, table, free, partial, m, tiles, n, shared=shared)
        second(_ceil(count, 32), THREADS, partial, totals, pieces, count)
        # Row m + i of y'y for j < i is its column i
        products = np.zeros((2 * m, m + 1))
        used = (columns <= m) & (rows % m <= columns) & (rows < 2 * m)
        products[rows[used], columns[used]] = self.device.to_host(totals)[used]
        yy = products[m:, :m]
        yy += np.triu(yy, 1).T
        return products

    def combine(
        self, a: float, q: Array, free: Array | None, coefficients: Sequence[float], *arrays: Array, out: Array
    ) -> None:
        n, count = self._size(q, *_given(free), *arrays, out), len(arrays)
        if len(coefficients) != count:
            raise ValueError(f"coefficients: expected one for each of {count} arrays, got {len(coefficients)}")
        if count <= 1:
            coefficient, array = (coefficients[0], arrays[0]) if count else (0.0, None)
            self._elementwise("combine_one", n, a, q, free, coefficient, array, out)
            return
        table = np.zeros(count + _ceil(count, 2), np.int64)  # one copy for both
        table[:count] = self._addresses(*arrays)
        table[count:].view(np.float32)[:count] = coefficients
        addresses = self.device.to_device(table)
        numbers = addresses[count:].view(np.float32)
        self._elementwise("combine", n, a, q, free, numbers, addresses, count, out)

    # -- a step of Adam -------------------------------------------------------------------------------------------

    def adam(
        self,
        x: Array,
        g: Array,
        m: Array,
        v: Array,
        *,
        betas: tuple[float, float],
        corrections: tuple[float, float],
        learning_rate: float,
        epsilon: float,
        lo: float,
        hi: float,
    ) -> None:
        n, (beta1, beta2) = self._size(x, g, m, v), betas
        rate, scale = learning_rate / corrections[0], 1 / corrections[1]
        decay = beta1, 1 - beta1, beta2, 1 - beta2
        self._elementwise("adam", n, x, g, m, v, *decay, rate, scale, epsilon, lo, hi)

    def adam_step(self, rule: Rule, t: int, steps: int) -> Callable[[Sequence[Array], Array, Sequence[Array]], None]:
        """Adam's update for a graph, whose launches are all the same: launch(reads, g, writes).

        `reads` and `writes` are x, m, v and, as an int32 array of one element, how many of these updates there were:
        they are the ones after t others, `steps` at most. Rate and scale of each are computed here, as `adam` has them.
        """
        table = self.device.to_device(np.array(list(_corrections(rule, t, steps)), np.float32))
        kernel = self.device.kernel(ELEMENTWISE, "adam_next", THREADS=THREADS)
        beta1, beta2 = rule.betas
        decay = beta1, 1 - beta1, beta2, 1 - beta2

        def launch(reads: Sequence[Array], g: Array, writes: Sequence[Array]) -> None:
            (x, m, v, done), (x_next, m_next, v_next, done_next) = reads, writes
            n = self._size(x, g, m, v, x_next, m_next, v_next)
            table_of = table, len(table) - 1, done
            box = rule.epsilon, rule.lo, rule.hi
            blocks = _ceil(n, THREADS * VECTOR)
            kernel(blocks, THREADS, x, g, m, v, *decay, *table_of, *box, x_next, m_next, v_next, done_next, n)

        return launch

    def adam_ahead(self, f: Halves, x: Array, state: AdamState, rule: Rule, evaluations: int) -> Steps:
        """Adam's evaluations and updates, a step ahead of the host where that costs little memory."""
        if not self.adam_spares(x.size):
            return Steps(f, x, state, rule, self)
        return Ahead(f, x, state, rule, self, evaluations)

    def adam_spares(self, size: int) -> int:
        return 3 if size <= AHEAD else 0

    # -- launches -------------------------------------------------------------------------------------------------

    def _elementwise(self, name: str, n: int, *arguments: Array | float) -> None:
        kernel = self.device.kernel(ELEMENTWISE, name, THREADS=THREADS)
        kernel(_ceil(n, THREADS * VECTOR), THREADS, *arguments, n)

    def _fused(
        self, name: str, n: int, sums: int, extreme: bool, *arguments: Array | float
    ) -> tuple[list[float], np.uint32]:
        """Both stages of a kernel that leaves rows of sums and, perhaps, one of extremes; what these come to."""
        count = pieces(n, VECTOR)
        self.device.kernel(FUSED, name, THREADS=THREADS)(count, THREADS, *arguments, n)
        finish = self.device.kernel(FUSED, "finish", THREADS=THREADS)
        finish(sums + extreme, THREADS, self._sums, self._extremes, self._totals, self._extreme, count, sums)
        totals = self.device.to_host(self._totals)
        return totals[:sums].tolist(), totals[RESULTS:].view(np.uint32)[0]

    def _addresses(self, *arrays: Array) -> np.ndarray:
        return np.array([self.device.address(a) for a in arrays], np.int64)

    def _size(self, *arrays: Array) -> int:
        """The size that all of them have, after a look at what they are: a table of addresses is not checked again."""
        for a in arrays:
            if not self.device.owns(a):
                raise TypeError(
                    f"vectors: expected arrays of {self.device.name}, got {type(a)}; move them there with the engine's "
                    "array()"
                )
            if a.dtype != np.float32 or not a.flags.c_contiguous or self.device.address(a) % (4 * VECTOR):
                raise TypeError(
                    f"vectors: expected C-contiguous float32 arrays that begin at multiples of {4 * VECTOR} bytes, got "
                    f"{a.dtype} with strides {a.strides} at {self.device.address(a):#x}; copy it into one of empty_like"
                )
            if a.shape != arrays[0].shape:
                raise ShapeError(f"vectors: expected arrays of one shape, {arrays[0].shape}, got {a.shape}")
        return arrays[0].size


def pieces(n: int, vector: int) -> int:
    """Into how many pieces n elements are cut that a thread takes `vector` at a time."""
    return min(_ceil(n, THREADS * vector), PIECES)


def _chunk(m: int) -> tuple[int, int]:
    """Floats of a chunk for m pairs, and bytes of shared memory: as GROUP in 03_pairs.cu has it."""
    groups = _ceil(m, SIDE) + _ceil(m + 1, SIDE)
    for chunk in CHUNKS:
        if (size := groups * (SIDE * chunk + VECTOR) * 4) <= CHUNK_BYTES:
            return chunk, size
    raise OptionError(f"history: expected at most {MOST_PAIRS} pairs on a GPU, got {m}; 20 are enough")


def _tiles(m: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of every product, as 03_pairs.cu computes them: s_i or m + i for y_i; y_j, or m for q.

    Those that only fill up a tile are beyond the last row or column, or below the diagonal.
    """
    down, across = _ceil(m, SIDE), _ceil(m + 1, SIDE)
    r, c = (SIDE * k for k in np.triu_indices(down, 0, across))
    i, j = np.divmod(np.arange(SIDE**2), SIDE)
    rows, columns = r[:, None] + i, c[:, None] + j
    beyond = rows >= m
    s, y = np.where(beyond, 2 * m, rows), np.where(beyond, 2 * m, m + rows)
    return np.concatenate([s, y]).reshape(-1), np.concatenate([columns, columns]).reshape(-1)


def _corrections(rule: Rule, t: int, steps: int) -> Iterator[tuple[float, float]]:
    """learning rate / correction 1 and 1 / correction 2 of every update after t others: until they change no more."""
    for number in range(t + 1, t + 1 + steps):
        first, second = rule.corrections(number)
        yield rule.learning_rate / first, 1 / second
        if first == second == 1:
            return


def _from_bits(bits: np.uint32) -> float:
    return float(bits.view(np.float32))


def _given(a: Array | None) -> list[Array]:
    return [] if a is None else [a]


def _ceil(n: int, unit: int) -> int:
    return -(-n // unit)
