"""What an engine is: the one interface through which everything above it computes.

An engine knows a device and a float type. It turns weights into a `Network`, which answers for one picture (or a window
of one) at a time:

        forward(pixels)          features at the taps; they stay inside the network until backward
        grams(taps), ...         statistics of those features: small arrays and numbers
        backward(gradients)      from the gradient at the taps back to the pixels

Feature arrays never leave it in their own layout: the objective names taps, and hands back what it was given. So the
layout (NCHW, NHWC, blocked) and what is fused with what are the engine's business. `features` and `decisions` give the
book's layout, for proofs and studies.
"""

from __future__ import annotations

import copy
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Self

import numpy as np

from .. import ops, vgg
from ..errors import OptionError, ShapeError
from ..optim import Vectors
from ..pretrained.weights import Weights
from .asked import Asked, TapGradient
from .memory import free_memory
from .operations import BookOperations, Operations

Watcher = Callable[[str, str, float], object]  # (layer, pass, seconds)
Evaluate = Callable[[Any], tuple[Any, Any]]
MomentsLoss = Callable[[Any, Any, float], tuple[Any, Any, Any]]  # (G, s, scale) -> (loss, dG, ds)
FORWARD, BACKWARD = "forward", "backward"  # the two passes
PIXELS = "pixels"  # the layer's name for the pre-processing
EVERYWHERE = slice(None), slice(None)  # all rows, all columns


class Network(ABC):
    """One checkpoint, prepared for one engine and one set of taps.

    Parameters
    ----------
    weights : Weights
    taps : iterable of layer names
        Nothing beyond the deepest is computed.
    pooling : {"max", "average", "l2"}
    part : Part
        The blocks that it computes. Where that is not the whole, its input are the features of the pooling before it,
        (C, H, W), in the place of pixels (3, H, W): an array of the engine in the book's layout.

    Attributes
    ----------
    itemsize : int
        Bytes of one number of a feature.
    apart : bool
        Whether its arrays lie in a memory of their own, as a GPU's do, not in the host's.
    crops : bool
        Whether a guide that is 1 in a rectangle and 0 elsewhere takes no buffer.
    """

    itemsize: int
    apart: bool = False
    crops: bool = False
    _watcher: Watcher | None = None

    def __init__(self, weights: Weights, taps: Iterable[str], pooling: str, part: vgg.Part = vgg.WHOLE) -> None:
        if pooling not in ops.POOLINGS:
            raise OptionError(f"pooling: expected one of {', '.join(ops.POOLINGS)}, got {pooling!r}")
        self.taps = tuple(taps)
        self.weights = weights
        self.pooling = pooling
        self.part = part
        self.steps = vgg.steps_for(weights.architecture, self.taps, part)
        weights.require([*self.taps, *(step.name for step in self.steps)])

    def twin(self) -> Self:
        """A network for a picture of its own, with the same filters. Nobody watches it yet."""
        other = copy.copy(self)
        other._watcher = None
        other._empty()
        return other

    @abstractmethod
    def _empty(self) -> None:
        """Have no buffers, without touching those that there are."""

    def free(self) -> None:
        """Have no buffers until the next forward, so that others may have the memory."""
        self._empty()

    def watch(self, watcher: Watcher | None) -> None:
        """From now on time every step of each forward and backward; None ends it.

        As a step ends, watcher(layer, "forward" or "backward", seconds) is called: once for every step that the engine
        computes, in its order. `layer` is the step's name ("conv1_1", "pool1"), or "pixels" for the pre-processing.
        What an engine fuses has the convolution's name: a pooling with the convolution before it, or the way from
        conv1_1 back to the pixels. The gradient of a loss counts to the step with which the engine computes it.
        The numbers are the same, to the bit. A GPU is waited for before and after every step, which costs time, and a
        kernel's first launch includes its compilation. What the watcher raises ends the pass. Where float16 tries a
        backward pass again, its steps and those of the forward pass before it are reported again.
        """
        self._watcher = watcher

    @property
    def watched(self) -> bool:
        """Whether somebody is told of every step."""
        return self._watcher is not None

    def _timed(self, layer: str, direction: str) -> AbstractContextManager[None]:
        """What one step is computed within."""
        return nullcontext() if self._watcher is None else self._clock(self._watcher, layer, direction)

    @contextmanager
    def _clock(self, watcher: Watcher, layer: str, direction: str) -> Iterator[None]:
        self._wait()
        start = time.perf_counter()
        yield
        self._wait()
        watcher(layer, direction, time.perf_counter() - start)

    def _wait(self) -> None:
        """Return when everything that was begun is computed."""
        return  # an engine whose calls return earlier has its own

    def shapes(self, height: int, width: int) -> dict[str, tuple[int, int, int]]:
        """Shape (N, H, W) of every layer that is computed for an input of that size; refuses one that is too small."""
        if self.part == vgg.WHOLE:
            for tap in self.taps:
                vgg.shape(self.weights.architecture, tap, height, width)
        return {s.output: self._shape(s, height, width) for s in self.steps}

    def _shape(self, step: vgg.Step, height: int, width: int) -> tuple[int, int, int]:
        """Of a step's output, for an input of that size."""
        stride = step.stride // self.part.stride
        if min(height, width) < stride:
            raise ShapeError(f"{step.name}: expected at least {stride} positions a side, got {width}x{height}")
        return step.out_channels, height // stride, width // stride

    def ask(self, asked: Sequence[Asked]) -> None:
        """What will be asked of the features of every forward pass from now on, in place of what was said before.

        A network that does not keep all its features measures that on the way; the others need not know.
        """
        return

    @abstractmethod
    def forward(self, pixels: Any) -> None:
        """Compute the features of pixels (3, H, W), RGB in [0, 1], an array of the engine; or of a part's input."""

    @abstractmethod
    def backward(self, gradients: Mapping[str, Sequence[TapGradient]], above: Any = None) -> Any:
        """Gradient (3, H, W) with respect to the pixels of the last forward; a buffer that the next call reuses.

        `above`, of a part: what comes back to its last layer from the next part, (C, H, W) as the input is. The
        gradient is then with respect to the part's input.

        What several losses send back from one tap is added. One without a guide is cheapest.

        It may use up the features: statistics are taken before it, and after it only a new forward gives them back.
        """

    @abstractmethod
    def positions(self, tap: str) -> int:
        """M = H*W of a tap in the last forward."""

    @abstractmethod
    def guide(self, tap: str, weights: np.ndarray) -> Any:
        """Weights w >= 0 of a tap's positions, (H, W) as the tap's features, in the engine's own form."""

    @abstractmethod
    def gram(self, tap: str, guide: Any = None) -> Any:
        """G = sum_m w[m] F[:, m] F[:, m]^T (N, N) of a tap, divided by nothing, F F^T without a guide: an array of the
        engine that the tap's next one may reuse."""

    def grams(self, taps: Iterable[str]) -> dict[str, Any]:
        """The Gram matrices of several taps without guides, by tap; an engine may compute them together."""
        return {tap: self.gram(tap) for tap in taps}

    @abstractmethod
    def sums(self, tap: str, guide: Any = None) -> np.ndarray:
        """s = sum_m w[m] F[:, m] (N,) of a tap, float64; while an evaluation is `repeated`, maybe the engine's own."""

    @abstractmethod
    def keep(self, tap: str, guide: Any = None) -> Any:
        """A content target: the tap's features as they are now, and the guide of its distances."""

    @abstractmethod
    def hold(self, tap: str, P: np.ndarray, guide: Any = None) -> Any:
        """A content target, as `keep` gives it, of features (N, H, W) in the book's layout."""

    @abstractmethod
    def squared_norm(self, target: Any) -> float:
        """sum w P^2 of a kept target."""

    @abstractmethod
    def squared_distance(self, tap: str, target: Any) -> float:
        """sum w (F - P)^2 of a tap and a kept target."""

    @abstractmethod
    def features(self, tap: str, window: tuple[slice, slice] = EVERYWHERE) -> np.ndarray:
        """A copy of a layer's features in the book's layout (N, H, W), or of a window of them (rows, columns)."""

    def ending(self, window: tuple[slice, slice] = EVERYWHERE) -> Any:
        """A window of the last layer's features, as an array of the engine: the next part's input, or a share of it."""
        return self.features(self.steps[-1].output, window)

    def decisions(self) -> dict[str, np.ndarray]:
        """Every choice that the last forward made, in the book's layout: where each ReLU let through (bool, by the name
        of the ReLU) and, for max pooling, which of the four values won (uint8, by the name of the pooling).

        Near ties these flip with the last bit of rounding, and the gradient with them; the reference engine can follow
        another engine's decisions, which separates that from an error of arithmetic.

        Here they are found again from the features, as an engine's backward pass does that stores none.
        """
        found = {}
        for step in self.steps:
            if step.kind == "conv":
                x = self.features(step.output)
                found[step.output] = x > 0
            elif self.pooling == "max":
                _, H, W = x.shape
                windows = np.stack([x[:, r : H // 2 * 2 : 2, s : W // 2 * 2 : 2] for r in (0, 1) for s in (0, 1)])
                found[step.name] = windows.argmax(axis=0).astype(np.uint8)  # the first of the largest
        return found

    @abstractmethod
    def memory(self, height: int, width: int, guided: Iterable[str] = ()) -> dict[str, int]:
        """Bytes of every buffer for a picture of that size, by name, "filters" among them; nothing is allocated. The
        statistics of taps that are `guided` are taken under guides, which may need a buffer more."""

    def bytes(self, height: int, width: int, guided: Iterable[str] = ()) -> int:
        """Bytes of all of `memory` together."""
        return sum(self.memory(height, width, guided).values())

    def bytes_of_twin(self, height: int, width: int, guided: Iterable[str] = ()) -> int:
        """What a `twin` takes beside this network: all but the filters."""
        buffers = self.memory(height, width, guided)
        return sum(buffers.values()) - buffers["filters"]

    def work(self, height: int, width: int) -> float:
        """Of forward and backward of a picture of that size, as a multiple of what they take in one piece."""
        return 1.0

    def share(self, height: int, width: int) -> float:
        """Of that work, what the busiest of all that compute at the same time has to do."""
        return 1.0

    def size_of(self, tap: str, height: int, width: int) -> int:
        """Numbers of a tap's features for a picture of that size."""
        return math.prod(self._shape(vgg.find(self.weights.architecture, tap), height, width))


class Engine(ABC):
    """A device and a float type.

    Attributes
    ----------
    name : str
        As on the command line: "reference", "cpu", "cuda".
    dtype : numpy.dtype
        Of pixels, gradients and Gram matrices.
    precision : str
        Of the arithmetic in between, as on the command line: "float32", "tf32".
    threads : int or None
        Threads of the CPU that it computes in; None where it says nothing.
    vectors : Vectors
        The operations that the optimizers may use on this engine's arrays.
    elsewhere : bool
        Whether pictures lie with other processes, and may be lost while this one goes on.
    notice : str or None
        What the user should know about how it computes, where that is not what they would expect: one line.
    """

    name: str
    dtype: np.dtype
    precision: str
    threads: int | None = None
    vectors: Vectors
    elsewhere: bool = False
    notice: str | None = None

    @abstractmethod
    def describe(self) -> str:
        """What computes, and how, in a few words for a person."""

    @abstractmethod
    def network(self, weights: Weights, taps: Iterable[str], pooling: str, part: vgg.Part = vgg.WHOLE) -> Network:
        """Prepare weights for a set of taps, or for a part of the network."""

    def operations(self) -> Operations:
        """Single layers, for networks that are not VGG; the book's, where the engine has none of its own."""
        return BookOperations(self.dtype)

    def repeated(self, network: Network) -> Callable[[Evaluate, Any], tuple[Any, Any]]:
        """A way to call evaluate(x) -> (numbers, array) again and again, always the same function of another picture,
        all of it computed by that network and this engine: at its simplest, just so."""
        return lambda evaluate, x: evaluate(x)

    def raised(self) -> Engine | None:
        """The same machine in the next higher precision, for numbers that this one does not hold; None if there is
        none that would help."""
        return None

    def array(self, a: np.ndarray) -> Any:
        """A contiguous copy as an array of this engine."""
        return np.array(a, self.dtype, order="C")

    @property
    def on_host(self) -> bool:
        """Whether its arrays are NumPy's."""
        return isinstance(self.array(np.zeros(1)), np.ndarray)

    def asarray(self, a: Any) -> Any:
        """The array itself where it is one that this engine can read, else a contiguous copy."""
        return np.ascontiguousarray(a, self.dtype)

    def numpy(self, a: Any) -> np.ndarray:
        """A NumPy copy of an array of this engine."""
        return np.array(a)

    def empty(self, shape: tuple[int, ...]) -> Any:
        """A new array, its values unset."""
        return np.empty(shape, self.dtype)

    def copy_rows(self, source: Any, out: Any) -> None:
        """out = source, of one shape (C, H, W): some rows of all planes of an array of this engine, or all rows."""
        np.copyto(out, source)

    def memory(self) -> int | None:
        """Bytes that are free where this engine's arrays lie; None where nobody knows."""
        return free_memory()

    def in_memory(self, count: int) -> int:
        """Bytes of memory that an array of `count` bytes takes; 0 where it lies on disk."""
        return count

    def room(self, shape: tuple[int, ...]) -> np.ndarray | None:
        """Where a picture (3, H, W) may be made before `array` takes it: float32, on disk. None where it does not
        matter, as this engine's arrays lie in memory."""
        return None

    def style_term(self, G: Any, M: int, A: Any, M_style: int, scale: float) -> tuple[float, Any]:
        """Style loss of one layer and its gradient dG, which may take G's place: `ops.style_forward`, `.._backward`."""
        return ops.style_forward(G, M, A, M_style, scale), ops.style_backward(G, M, A, M_style, scale)

    def moments_loss(self, kind: str, M: float, *target: Any) -> MomentsLoss | None:
        """Style loss "centred" or "mean-std" of moments G/M and s/M, for a target as `ops.centred_forward` or
        `ops.mean_std_forward` takes it, where this engine computes it: else None, and the book does."""
        return None

    def total_variation(self, pixels: Any, scale: float, gradient: Any, diagonal: float = 0.0) -> float:
        """Total variation; its gradient is added to `gradient`: `ops.total_variation_forward`, `.._backward`."""
        gradient += ops.total_variation_backward(pixels, scale, diagonal)
        return ops.total_variation_forward(pixels, scale, diagonal)

    def block_mean(self, pixels: Any, k: int) -> Any:
        """Means (3, ceil(H/k), ceil(W/k)) of the pixels' blocks of k x k: `ops.block_mean_forward`. The next ones of
        that size may take their place."""
        return ops.block_mean_forward(pixels, k)

    def add_block_mean_gradient(self, dy: Any, k: int, gradient: Any) -> None:
        """Add to `gradient` (3, H, W) what dy sends back through the block means: `ops.block_mean_backward`."""
        gradient += ops.block_mean_backward(dy, k, gradient.shape)
