"""The rungs of the CPU: the book, NumPy with more thought, and the kernels of kernels/cpu."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from . import book, layers, numpy_form
from .problems import Problem
from .runs import Machine, Runs

Make = Callable[[Problem, Machine], Runs]


@dataclass(frozen=True)
class Form:
    """A rung of the CPU before it has its number.

    Attributes
    ----------
    name, adds, code : str
        "winograd"; what it adds; the file.
    make : function of (Problem, Machine)
    """

    name: str
    adds: str
    code: str
    make: Make


_OPS, _CPU = "nstcore/ops", "nstcore/engines/cpu"
BOOK = {
    "conv": Form("book", "as the equation says: nine products, one for each tap", f"{_OPS}/conv.py", book.conv),
    "pool": Form("book", "as the equation says: the largest of four views", f"{_OPS}/pool.py", book.pool),
    "gram": Form("book", "as the equation says: one product", f"{_OPS}/gram.py", book.gram),
    "moments": Form("book", "as the equation says, the Gram matrix along", f"{_OPS}/moments.py", book.moments),
    "content": Form("book", "as the equation says, whole arrays at a time", f"{_OPS}/content_loss.py", book.content),
    "style": Form("book", "as the equations say, loss and then gradient", f"{_OPS}/style_loss.py", book.style),
    "total-variation": Form(
        "book", "as the equations say, loss and then gradient", f"{_OPS}/total_variation.py", book.total_variation
    ),
    "block-mean": Form("book", "means of the rows, then means of these", f"{_OPS}/block_mean.py", book.block_mean),
    "preprocess": Form("book", "as the equation says", f"{_OPS}/preprocess.py", book.preprocess),
    "adam": Form("book", "block by block, each in the cache until done", "nstcore/optim/vectors.py", book.adam),
    "lbfgs": Form("book", "the two loops: four passes for each pair", "nstcore/bench/two_loops.py", book.lbfgs),
    **{
        operation: Form("book", f"as the equation says{adds}", file, layers.in_book(operation))
        for operation, adds, file in (
            ("general-conv", ": a product for each tap, of the picture enlarged", f"{_OPS}/conv.py"),
            ("depthwise", ": a sum for each tap", f"{_OPS}/depthwise.py"),
            ("linear", ": one product", f"{_OPS}/linear.py"),
            ("instance-norm", ", whole arrays at a time", f"{_OPS}/instance_norm.py"),
            ("global-average", "", f"{_OPS}/global_average.py"),
            ("maxima", ": the largest of four views", "nstcore/engines/operations.py"),
            ("resize", ": rows, then columns, whole arrays at a time", f"{_OPS}/resize.py"),
        )
    },
}
_IM2COL = "one product for all nine taps, of a matrix nine times as large as the input"
_WINOGRAD = (
    "36 multiplications for 16 outputs instead of 144, as 36 products; what is transformed passes through memory "
    "between them"
)
_GRAM = (
    "channels last, positions shared out to threads; the product of a matrix with its own transpose, of which BLAS "
    "computes half"
)
_CONTENT = "block by block, so that a difference stays in the cache; shared out to threads"
_PAIRS = "all inner products in one pass over the memory, the recursion on numbers, the direction in a second pass"
BETWEEN = {  # the book and the native kernels
    "conv": [
        Form("im2col", _IM2COL, "nstcore/bench/im2col.py", numpy_form.im2col),
        Form("winograd", _WINOGRAD, f"{_CPU}/winograd.py", numpy_form.winograd),
    ],
    "pool": [Form("numpy", "rows of windows shared out to threads", f"{_CPU}/layers.py", numpy_form.pool)],
    "gram": [Form("numpy", _GRAM, f"{_CPU}/statistics.py", numpy_form.gram)],
    "moments": [Form("numpy", "the sums alone, block by block", f"{_CPU}/statistics.py", numpy_form.moments)],
    "content": [Form("numpy", _CONTENT, f"{_CPU}/statistics.py", numpy_form.content)],
    "lbfgs": [Form("pairs", _PAIRS, "nstcore/optim/pairs.py", numpy_form.pairs)],
}
_POOL = (
    "in C, one pass back: the winner is found again from its window, the mask applied on the way; forward, it comes "
    "with the convolution"
)
_DIRECT = (
    "in C, direct: a tile with its border in the cache, filters times vectors of sums in registers; what is enlarged "
    "is not, its equal taps are added up first"
)
NATIVE = {  # what the first of them adds, and the file
    "conv": ("the same in C, all of it in the cache: some 50 tiles at a time", "winograd.c"),
    "pool": (_POOL, "taps.c"),
    "gram": ("in C, the upper half, columns in the first-level cache", "gram.c"),
    "moments": ("in C, one pass in vectors", "reduce.c"),
    "content": ("in C, one pass in vectors, nothing written but the result", "reduce.c"),
    "style": ("in C, loss and gradient in one pass", "reduce.c"),
    "total-variation": ("in C, loss and gradient in one pass", "reduce.c"),
    "preprocess": ("in C, direct, in registers", "first.c"),
    "adam": ("in C, one pass, shared out to threads", "vectors.c"),
    "lbfgs": ("in C, the products of all pairs from registers, shared out to threads", "pairs.c"),
    "general-conv": (_DIRECT, "direct.c"),
    "depthwise": ("in C, direct: a tile with its border in the cache, sums in registers", "direct.c"),
    "linear": ("in C, as a convolution of one position: of a vector of positions one is used", "direct.c"),
    "instance-norm": ("in C, statistics in one pass, the rest with what follows in another", "normalise.c"),
    "global-average": ("in C, one pass, sums of strips in float64", "normalise.c"),
    "maxima": ("in C, one pass, bands of rows shared out to threads", "resize.c"),
    "resize": ("in C, one pass, bands of rows shared out to threads", "resize.c"),
}
VECTORS = {
    "baseline": "",
    "avx2": "vectors of 8 floats instead of 4, a multiply-add in one instruction",
    "avx512": "vectors of 16 floats and 32 registers of them",
}
