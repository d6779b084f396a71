"""The rungs of kernels/cpu: the functions of nst.h, one library for each instruction set.

Features are (C/16, H, W, 16). A kernel that writes over what it read has that put back before its result counts.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

from ..engines.cpu.arena import Arena
from ..engines.cpu.library import POOLINGS, Convolution, Crew, First, Library, Tap, choose
from ..engines.cpu.native import CB, CHANNELS
from ..engines.cpu.operations import NativeOperations
from ..engines.cpu.vectors import NativeVectors
from ..ops import ORDERS
from . import layers
from .book import adam_with
from .numpy_form import pairs_with
from .problems import PREPROCESSING, Problem, Size
from .runs import Machine, Run, Runs, restoring

Maker = Callable[[Library, Crew, Problem], Runs]


def rung(operation: str, instructions: str) -> Callable[[Problem, Machine], Runs]:
    """The operation in the library of that instruction set."""

    def make(problem: Problem, machine: Machine) -> Runs:
        library, _ = choose(instructions)
        assert library is not None
        return MAKERS[operation](library, Crew(library, machine.threads), problem)

    return make


def refusal(operation: str, size: Size) -> str | None:
    """Why the kernels cannot take that size; None where they can."""
    if operation in layers.MAKERS:
        return None
    channels = {"conv": (size.C, size.K), "preprocess": (size.K,), "style": (CHANNELS,)}.get(operation, (size.C,))
    if operation in ("total-variation", "adam", "lbfgs") or all(n % CHANNELS == 0 for n in channels):
        return None
    return f"channels in multiples of {CHANNELS}"


def _conv(library: Library, crew: Crew, problem: Problem) -> Runs:
    C, K, H, W = problem.size.C, problem.size.K, problem.size.H, problem.size.W
    team, (w, b) = crew.pointer, problem.floats("w", "b")
    x, dy, kept = _blocked(problem.inputs["x"]), _blocked(problem.inputs["dy"]), _blocked(problem.inputs["x"])
    y, bias = _empty(*dy.shape), _like(b)
    filters = [_packed(library, crew, w, turned) for turned in (False, True)]
    up = Convolution(C, K, H, W, 0, filters[0].ctypes.data, None)
    down = Convolution(K, C, H, W, 0, filters[1].ctypes.data, None)
    work = _empty(max(library.conv_work(up, 0, crew.threads), library.conv_work(down, 1, crew.threads)))
    max_pooling = POOLINGS["max"]

    def forward() -> None:
        library.conv_forward(team, up, kept, bias, None, y, None, max_pooling, work)

    def backward(keep: Any = filters) -> None:  # the structures hold only addresses
        library.conv_backward(team, down, dy, x, True, None, work)

    return {
        "forward": Run(forward, lambda: {"y": _plain(y)}),
        "backward": Run(backward, lambda: {"dx": _plain(x)}, restoring((x, kept))),
    }


def _packed(library: Library, crew: Crew, w: np.ndarray, turned: bool) -> np.ndarray:
    """Filters in the order in which one pass reads them."""
    out, into = (w.shape[1], w.shape[0]) if turned else w.shape[:2]
    transformed = library.transformed(into, out)
    filters = _empty(36 if transformed else 9, into, out)
    (library.pack_transformed if transformed else library.pack_plain)(crew.pointer, w, out, into, int(turned), filters)
    return filters


def _pool(library: Library, crew: Crew, problem: Problem) -> Runs:
    """Forward, the pooling comes with the convolution before it."""
    C, H, W = problem.size.C, problem.size.H, problem.size.W
    x, kept, dy = _blocked(problem.inputs["x"]), _blocked(problem.inputs["x"]), _blocked(problem.inputs["dy"])
    work = _empty(library.pool_work(C, W, crew.threads))
    go = lambda: library.pool_backward(crew.pointer, POOLINGS["max"], dy, x, C, H, W, None, work)  # noqa: E731
    return {"backward": Run(go, lambda: {"dx": _plain(x)}, restoring((x, kept)))}


def _gram(library: Library, crew: Crew, problem: Problem) -> Runs:
    team, F = crew.pointer, _matrix(problem.inputs["F"])
    (dG,) = problem.floats("dG")
    N, M = len(dG), problem.size.M
    G, S, dF = _empty(N, N), _empty(N, N), _empty(*F.shape)
    work = _empty(max(library.gram_work(N), library.tap_work(N, crew.threads)))
    tap = Tap(S.ctypes.data, None, 0.0, None, None)

    def backward() -> None:
        library.pack_style(team, dG, N, S)
        library.tap_gradient(team, F, None, dF, 0, 0, N, M, tap, work)

    return {
        "forward": Run(lambda: library.gram(team, F, N, M, G, work), lambda: {"G": G}),
        "backward": Run(backward, lambda: {"dF": _rows(dF)}),
    }


def _moments(library: Library, crew: Crew, problem: Problem) -> Runs:
    team, F = crew.pointer, _matrix(problem.inputs["F"])
    w, ds = (_like(a) for a in problem.floats("w", "ds"))
    root, (N, M) = _like(np.sqrt(w)), problem.inputs["F"].shape
    s, Y, dF, work = (
        (ctypes.c_double * N)(),
        _empty(*F.shape),
        _empty(*F.shape),
        _empty(library.tap_work(N, crew.threads)),
    )
    tap = Tap(None, None, 0.0, ds.ctypes.data, None)

    def backward(keep: Any = ds) -> None:
        library.tap_gradient(team, F, w, dF, 0, 0, N, M, tap, work)

    return {
        "sums": Run(lambda: library.sums(team, F, w, N, M, s), lambda: {"s": np.array(s)}),
        "weigh": Run(lambda: library.weigh(team, F, root, N, M, Y), lambda: {"Y": _rows(Y)}),
        "backward": Run(backward, lambda: {"dF": _rows(dF)}),
    }


def _content(library: Library, crew: Crew, problem: Problem) -> Runs:
    team, (F, P) = crew.pointer, (_matrix(problem.inputs[name]) for name in "FP")
    N, M = problem.inputs["F"].shape
    dF, work, loss = _empty(*F.shape), _empty(library.tap_work(N, crew.threads)), [0.0]
    tap = Tap(None, P.ctypes.data, 1.0, None, None)

    def forward() -> None:
        loss[0] = library.squared_distance(team, F, P, None, N, M)

    return {
        "forward": Run(forward, lambda: {"loss": loss[0]}),
        "backward": Run(
            lambda: library.tap_gradient(team, F, None, dF, 0, 0, N, M, tap, work), lambda: {"dF": _rows(dF)}
        ),
    }


def _style(library: Library, crew: Crew, problem: Problem) -> Runs:
    G, A = (_like(a) for a in problem.floats("G", "A"))
    M, M_style, scale = (problem.inputs[name] for name in ("M", "M_style", "scale"))
    dG, loss = _empty(*G.shape), [0.0]

    def go() -> None:
        loss[0] = library.style(crew.pointer, G, M, A, M_style, scale, len(G), dG)

    return {"both": Run(go, lambda: {"loss": loss[0], "dG": dG})}


def _total_variation(library: Library, crew: Crew, problem: Problem) -> Runs:
    (x,) = problem.floats("x")
    dx, loss = np.zeros_like(x), [0.0]

    def go() -> None:
        loss[0] = library.total_variation(crew.pointer, x, *x.shape, 1.0, 0.0, dx)

    return {"both": Run(go, lambda: {"loss": loss[0], "dx": dx}, lambda: dx.fill(0))}


def _preprocess(library: Library, crew: Crew, problem: Problem) -> Runs:
    p, team, (pixels, w) = PREPROCESSING, crew.pointer, problem.floats("pixels", "w")
    H, W, K = problem.size.H, problem.size.W, problem.size.K
    three = ctypes.c_float * 3
    order = (ctypes.c_int * 3)(*ORDERS[p.channel_order])
    layer = First(K, H, W, 0, order, p.range, three(*p.mean), three(*p.std))
    planes, work = _empty(library.first_planes(layer)), _empty(library.first_work(layer, crew.threads))
    up, down, dy, gradient = _empty(27, K), _empty(K, 32), _blocked(problem.inputs["dy"]), _empty(3, H, W)
    library.pack_first(np.ascontiguousarray(w.transpose(1, 2, 3, 0).reshape(27, K)), K, up, down)

    def prepared() -> dict[str, np.ndarray]:
        across = W + 2 + 16  # as nst.h has it
        return {"x": planes[: 3 * (H + 2) * across].reshape(3, H + 2, across)[:, 1:-1, 1 : W + 1]}

    return {
        "forward": Run(lambda: library.prepare(team, layer, pixels, planes), prepared),
        "backward": Run(
            lambda: library.first_backward(team, layer, dy, down, gradient, work), lambda: {"gradient": gradient}
        ),
    }


def _layer(operation: str) -> Maker:
    return lambda library, crew, problem: layers.MAKERS[operation](NativeOperations(library, crew), problem)


MAKERS: dict[str, Maker] = {
    "conv": _conv,
    "pool": _pool,
    "gram": _gram,
    "moments": _moments,
    "content": _content,
    "style": _style,
    "total-variation": _total_variation,
    "preprocess": _preprocess,
    "adam": lambda library, crew, problem: adam_with(NativeVectors(library, crew), problem),
    "lbfgs": lambda library, crew, problem: pairs_with(NativeVectors(library, crew), problem),
    **{operation: _layer(operation) for operation in layers.MAKERS},
}


# -- arrays as the kernels want them: aligned, blocked -----------------------------------------------------------------


def _empty(*shape: int) -> np.ndarray:
    """Full of NaN: what nobody writes is seen."""
    arena = Arena()
    arena.add("a", shape, np.float32)
    a = arena.allocate()["a"]
    a.fill(np.nan)
    return a


def _like(a: np.ndarray) -> np.ndarray:
    out = _empty(*a.shape)
    out[...] = a
    return out


def _blocked(x: np.ndarray) -> np.ndarray:
    """(C, H, W) -> (C/16, H, W, 16)."""
    C, H, W = x.shape
    return _like(x.reshape(C // CB, CB, H, W).transpose(0, 2, 3, 1))


def _plain(x: np.ndarray) -> np.ndarray:
    """And back."""
    return x.transpose(0, 3, 1, 2).reshape(-1, *x.shape[1:3])


def _matrix(F: np.ndarray) -> np.ndarray:
    """(N, M) -> (N/16, 1, M, 16)."""
    return _blocked(F[:, None, :])


def _rows(F: np.ndarray) -> np.ndarray:
    """And back."""
    return _plain(F)[:, 0]
