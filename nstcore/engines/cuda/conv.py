"""The 3x3 convolution of the `cuda` engine: a table of the ladder's rungs, and the launches of one layer.

        forward     y  = relu(conv(x, w) + b)                                       ops.conv_forward, ops.relu_forward
        backward    dx = (F > 0) (conv_backward(dy, w) + style_scale F S + content_scale (F - P))
                                                  ops.conv_backward, gram_backward, content_backward, relu_backward

Features are (H, W, C). Both passes run the same code: the backward is a convolution of dy with the filters turned by
180 degrees and transposed, so a rung says how it is launched for a pass from `inputs` to `outputs` channels, whichever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import product

import numpy as np

from ...errors import DeviceError
from .device import Array, Device
from .gram import gram_backward
from .precision import PRECISIONS, Precision, to_elements
from .variants import Variant

BORDER = "border/01_replicate"
EVERY_PRECISION = tuple(PRECISIONS)
WARP = 32


@dataclass(frozen=True)
class Pass:
    """One pass of one layer: from (H, W, inputs) to (H, W, outputs)."""

    inputs: int
    outputs: int
    H: int
    W: int
    precision: Precision

    @property
    def positions(self) -> int:
        return self.H * self.W

    @property
    def aligned(self) -> int:
        """1 where every row of channels is a whole number of 16-byte words."""
        words = 16 // self.precision.dtype.itemsize
        return int(self.inputs % words == 0 and self.outputs % words == 0)


@dataclass(frozen=True)
class Launch:
    """How a pass is launched: with which options the rung is compiled, grid, block, bytes of dynamic shared memory."""

    grid: tuple[int, ...]
    block: int
    defines: dict[str, int] = field(default_factory=dict)
    shared: int = 0


def plain(w: np.ndarray) -> np.ndarray:
    """Filters (K, C, 3, 3) as the kernels read them, (9, C, K): one matrix for each tap."""
    return w.transpose(2, 3, 1, 0).reshape(9, *w.shape[1::-1])


@dataclass(frozen=True)
class ConvRung:
    """One rung of conv3x3.

    Attributes
    ----------
    name : str
        "conv3x3/03_register_tile".
    launch : function of a Pass
    precisions : tuple of str
        Those that it computes in.
    fused_losses : bool
        Whether its backward takes what the losses send back; else gram_backward adds it.
    pack : function
        From filters (K, C, 3, 3) float32 to the order in which the kernels read them, float32.
    """

    name: str
    launch: Callable[[Pass], Launch]
    precisions: tuple[str, ...] = EVERY_PRECISION
    fused_losses: bool = True
    pack: Callable[[np.ndarray], np.ndarray] = plain

    def filters(self, w: np.ndarray, precision: Precision) -> np.ndarray:
        """Elements of filters (K, C, 3, 3), for the forward pass."""
        return to_elements(self.pack(np.asarray(w, np.float32)), precision)

    def turned(self, w: np.ndarray, precision: Precision) -> np.ndarray:
        """For the backward pass: of the filters turned by 180 degrees, from K channels to C."""
        return self.filters(np.asarray(w).transpose(1, 0, 2, 3)[:, :, ::-1, ::-1], precision)


# ---- how each rung is launched --------------------------------------------------------------------------------------


def _naive(p: Pass) -> Launch:
    """A block: 32 channels of 8 positions, one thread each."""
    return Launch((_blocks(p.positions, 8), _blocks(p.outputs, WARP)), 8 * WARP)


def _shared_tile(p: Pass) -> Launch:
    """A block: 32 channels of a square of positions, one thread each."""
    side = 4
    grid = _blocks(p.W, side), _blocks(p.H, side), _blocks(p.outputs, WARP)
    return Launch(grid, WARP * side * side, {"SIDE": side})


def _register_tile(p: Pass) -> Launch:
    """A block: BM positions x BN channels; the narrower tile where the wider one would be half empty."""
    bm, bn = 128, 64 if p.outputs <= 64 else 128
    defines = {"BM": bm, "BN": bn, "ALIGNED": p.aligned}
    return Launch((_blocks(p.positions, bm), _blocks(p.outputs, bn)), 256, defines)


def _winograd(p: Pass) -> Launch:
    """A block: 32 channels of 32 tiles, each 2x2 positions."""
    tiles, channels = 32, 32
    blocks = _blocks(_blocks(p.H, 2) * _blocks(p.W, 2), tiles)
    defines = {"TILES": tiles, "CHANNELS": channels, "ALIGNED": p.aligned}
    return Launch((blocks, _blocks(p.outputs, channels)), 256, defines)


def _winograd_filters(w: np.ndarray) -> np.ndarray:
    """(16, C, K): G g G^T of every filter g, in float64 before it is rounded."""
    G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
    # (4, 3) . (K, C, 3, 3) . (3, 4) -> (K, C, 4, 4)
    return (G @ w.astype(np.float64) @ G.T).transpose(2, 3, 1, 0).reshape(16, *w.shape[1::-1]).astype(np.float32)


# Tiles of a block (TILE_M positions, TILE_N channels) of kernels/cuda/tensor_tiles.cuh, and how long one takes relative
# to the others: by its products, but the smaller it is, the more it reads from shared memory for each.
TENSOR_TILES = {(128, 128): 16, (128, 64): 11, (64, 64): 8}
TENSOR_THREADS, TENSOR_STAGES, TENSOR_ROW_BYTES = 128, 3, 64
TENSOR_PROCESSORS = 132  # of a large GPU: what the tile is chosen for; the sums are the same in every tile


def _tensor_core(p: Pass) -> Launch:
    """A block: the tile with which the busiest multiprocessor is done first."""

    def blocks(tile: tuple[int, int]) -> int:
        return _blocks(p.positions, tile[0]) * _blocks(p.outputs, tile[1])

    def time(tile: tuple[int, int]) -> int:
        return _blocks(blocks(tile), TENSOR_PROCESSORS) * TENSOR_TILES[tile]

    m, n = min(TENSOR_TILES, key=time) if p.aligned else (64, 64)
    defines = {"TILE_M": m, "TILE_N": n, "STAGES": TENSOR_STAGES, "ALIGNED": p.aligned}
    return Launch((blocks((m, n)),), TENSOR_THREADS, defines, TENSOR_STAGES * (m + n) * TENSOR_ROW_BYTES)


def _rows(w: np.ndarray) -> np.ndarray:
    """(K, 9, C): all taps of a filter in one row, as the tensor cores' rungs read them."""
    return w.transpose(0, 2, 3, 1).reshape(len(w), 9, w.shape[1])


def _blocks(n: int, size: int) -> int:
    return -(-n // size)


RUNGS = {
    "01_naive": ConvRung("conv3x3/01_naive", _naive),
    "02_shared_tile": ConvRung("conv3x3/02_shared_tile", _shared_tile),
    "03_register_tile": ConvRung("conv3x3/03_register_tile", _register_tile),
    "04_winograd": ConvRung("conv3x3/04_winograd", _winograd, ("float32",), False, _winograd_filters),
    "05_tensor_core_tf32": ConvRung("conv3x3/05_tensor_core_tf32", _tensor_core, ("tf32",), pack=_rows),
    "06_tensor_core_16bit": ConvRung("conv3x3/06_tensor_core_16bit", _tensor_core, ("float16", "bfloat16"), pack=_rows),
}
PRODUCTION = {
    "float32": "03_register_tile",
    "tf32": "05_tensor_core_tf32",
    "float16": "06_tensor_core_16bit",
    "bfloat16": "06_tensor_core_16bit",
}


def variants() -> Iterator[Variant]:
    """Every form in which a layer of any size can have these kernels compiled."""
    for short, rung in RUNGS.items():
        for name in rung.precisions:
            precision, forms = PRECISIONS[name], {}
            # A narrow layer, a wide one, some whose rows are not aligned; small and large. Forms repeat
            for channels, side in product((64, 512, 513, 1), (8, 1024)):
                launch = rung.launch(Pass(channels, channels, side, side, precision))
                forms[tuple(launch.defines.items())] = launch
            for form in forms.values():
                yield Variant(rung.name, precision, form.defines, form.shared, PRODUCTION[name] == short)
    for precision in PRECISIONS.values():
        yield Variant(BORDER, precision, production=True)


class Convolution:
    """One layer's forward and backward, for one size of picture.

    Parameters
    ----------
    device : Device
    precision : Precision
    rung : ConvRung or str
        A rung, or its short name in RUNGS.
    C, K, H, W : int
        Channels below and above, rows, columns.
    replicate : bool
        Whether the border repeats the nearest values; zeros else.
    """

    def __init__(
        self,
        device: Device,
        precision: Precision,
        rung: ConvRung | str,
        C: int,
        K: int,
        H: int,
        W: int,
        replicate: bool,
    ) -> None:
        self.rung = RUNGS[rung] if isinstance(rung, str) else rung
        if precision.name not in self.rung.precisions:
            raise DeviceError(
                f"precision: expected one of {', '.join(self.rung.precisions)} for {self.rung.name}, "
                f"got {precision.name}; take another rung"
            )
        self.device, self.precision = device, precision
        self.C, self.K, self.H, self.W, self.replicate = C, K, H, W, replicate
        self._forward = self._prepare("conv3x3_forward", C, K)
        self._backward = self._prepare("conv3x3_backward", K, C)
        if replicate:
            self._border = device.kernel(BORDER, "replicate_backward", precision)
            self._rim = _blocks(2 * (H + W), 8), _blocks(C, WARP)

    def _prepare(self, function: str, inputs: int, outputs: int) -> Callable[..., None]:
        """The kernel of one pass, as a function of its arguments."""
        launch = self.rung.launch(Pass(inputs, outputs, self.H, self.W, self.precision))
        kernel = self.device.kernel(self.rung.name, function, self.precision, **launch.defines)
        return partial(kernel, launch.grid, launch.block, shared=launch.shared)

    def forward(self, x: Array, w: Array, b: Array, linear: Array | None, y: Array) -> None:
        """y = relu(conv(x, w) + b), and what goes into the ReLU where `linear` is an array.

        Parameters
        ----------
        x : elements (H, W, C)
        w : elements
            As `ConvRung.filters` packs them.
        b : float32 (K,)
        linear, y : elements (H, W, K)
            Written.
        """
        self._forward(x, w, b, linear, y, self.C, self.K, self.H, self.W, self.replicate)

    def backward(
        self,
        dy: Array,
        w: Array,
        plain: Array | None,
        F: Array | None,
        S: Array | None,
        style_scale: float,
        P: Array | None,
        content_scale: float,
        mask: bool,
        dx: Array,
    ) -> None:
        """dx = (F > 0) (conv_backward(dy, w) + style_scale F S + content_scale (F - P)); not masked without `mask`.

        Parameters
        ----------
        dy : elements (H, W, K)
        w : elements
            As `ConvRung.turned` packs them.
        plain : elements (9, K, C), optional
            The turned filters as `RUNGS["01_naive"]` packs them; needed where the border is replicated.
        F : elements (H, W, C), optional
            The features below; needed for S, P and the mask.
        S : elements (C, C), optional
            Symmetric: dG + dG^T, divided by style_scale.
        style_scale : float
        P : elements (H, W, C), optional
            Content target.
        content_scale : float
        mask : bool
            Whether the features below come out of a ReLU.
        dx : elements (H, W, C)
            Written; it overlaps no other array.
        """
        sizes = self.K, self.C, self.H, self.W
        fused = self.rung.fused_losses
        losses = (S, style_scale, P, content_scale)
        self._backward(dy, w, F, *(losses if fused else (None, 1.0, None, 0.0)), mask, dx, *sizes)
        if not fused and (S is not None or P is not None):
            # ops.gram_backward, ops.content_backward
            gram_backward(self.device, self.precision, F, *losses, mask, True, dx, self.C, self.H * self.W)
        if self.replicate:
            # ops.conv.unpad
            self._border(self._rim, 8 * WARP, dy, plain, F, mask, dx, *sizes)
