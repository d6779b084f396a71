"""The 3x3 convolution of the `cuda` engine: a table of the ladder's rungs, and the launches of one layer.

        forward     y  = relu(conv(x, w) + b)                                       ops.conv_forward, ops.relu_forward
        backward    dx = (F > 0) (conv_backward(dy, w) + style_scale F S + content_scale (F - P))
                                                  ops.conv_backward, gram_backward, content_backward, relu_backward

Features are (H, W, C). Both passes run the same code: the backward is a convolution of dy with the filters turned by
180 degrees and transposed, so a rung says how it is launched for a pass from `inputs` to `outputs` channels, whichever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

import numpy as np

from ...errors import DeviceError
from . import boxes, pool, tiles
from .device import Array, Device
from .gram import gram_backward
from .precision import PRECISIONS, Precision, to_elements
from .split_sum import SplitSum
from .tile_launches import HALO_POOLED, HALO_TILE, POOLED, SIXTEEN_BITS, SPLIT_SUM, Launch, Pass, blocks
from .tiles import POOLING, Choice
from .variants import Variant

BORDER = "border/01_replicate"
EVERY_PRECISION = tuple(PRECISIONS)
WARP = 32


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
    only : int, optional
        The only GPUs that it runs on, 90 for sm_90; all that have the precision, if not given.
    pools, unpools : function of a Pass, optional
        The launch that computes the same bits of a forward pass and pools on the way, or of a backward pass whose
        gradient comes out of a pooling; None where none does.
    """

    name: str
    launch: Callable[[Pass], Launch]
    precisions: tuple[str, ...] = EVERY_PRECISION
    fused_losses: bool = True
    pack: Callable[[np.ndarray], np.ndarray] = plain
    only: int | None = None
    pools: Callable[[Pass], Launch | None] | None = None
    unpools: Callable[[Pass], Launch | None] | None = None

    def filters(self, w: np.ndarray, precision: Precision) -> np.ndarray:
        """Elements of filters (K, C, 3, 3), for the forward pass."""
        return to_elements(self.pack(np.asarray(w, np.float32)), precision)

    def turned(self, w: np.ndarray, precision: Precision) -> np.ndarray:
        """For the backward pass: of the filters turned by 180 degrees, from K channels to C."""
        return self.filters(np.asarray(w).transpose(1, 0, 2, 3)[:, :, ::-1, ::-1], precision)

    def backward(self, precision: Precision) -> ConvRung:
        """Whose backward pass goes with it: its own, but for 10_pooled and 12_halo_pooled, which have none of dy."""
        others = {POOLED: PRODUCTION[precision.name], HALO_POOLED: "09_halo_tile"}
        return RUNGS[others[self.name]] if self.name in others else self


# ---- how each rung is launched --------------------------------------------------------------------------------------


def _naive(p: Pass) -> Launch:
    """A block: 32 channels of 8 positions, one thread each."""
    return Launch((blocks(p.positions, 8), blocks(p.outputs, WARP)), 8 * WARP)


def _shared_tile(p: Pass) -> Launch:
    """A block: 32 channels of a square of positions, one thread each."""
    side = 4
    grid = blocks(p.W, side), blocks(p.H, side), blocks(p.outputs, WARP)
    return Launch(grid, WARP * side * side, {"SIDE": side})


def _register_tile(p: Pass) -> Launch:
    """A block: BM positions x BN channels; the narrower tile where the wider one would be half empty."""
    bm, bn = 128, 64 if p.outputs <= 64 else 128
    defines = {"BM": bm, "BN": bn, "ALIGNED": p.aligned}
    return Launch((blocks(p.positions, bm), blocks(p.outputs, bn)), 256, defines)


def _winograd(p: Pass) -> Launch:
    """A block: 32 channels of 32 tiles, each 2x2 positions."""
    wide, channels = 32, 32
    grid = blocks(blocks(p.H, 2) * blocks(p.W, 2), wide), blocks(p.outputs, channels)
    return Launch(grid, 256, {"TILES": wide, "CHANNELS": channels, "ALIGNED": p.aligned})


def _winograd_filters(w: np.ndarray) -> np.ndarray:
    """(16, C, K): G g G^T of every filter g, in float64 before it is rounded."""
    G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
    # (4, 3) . (K, C, 3, 3) . (3, 4) -> (K, C, 4, 4)
    return (G @ w.astype(np.float64) @ G.T).transpose(2, 3, 1, 0).reshape(16, *w.shape[1::-1]).astype(np.float32)


def _rows(w: np.ndarray) -> np.ndarray:
    """(K, 9, C): all taps of a filter in one row, as the tensor cores' rungs read them."""
    return w.transpose(0, 2, 3, 1).reshape(len(w), 9, w.shape[1])


TENSOR_CORES = ("tf32", *SIXTEEN_BITS)
RUNGS = {
    "01_naive": ConvRung("conv3x3/01_naive", _naive),
    "02_shared_tile": ConvRung("conv3x3/02_shared_tile", _shared_tile),
    "03_register_tile": ConvRung("conv3x3/03_register_tile", _register_tile),
    "04_winograd": ConvRung("conv3x3/04_winograd", _winograd, ("float32",), False, _winograd_filters),
    "05_tensor_core_tf32": ConvRung(
        "conv3x3/05_tensor_core_tf32",
        tiles.tensor_core,
        ("tf32",),
        pack=_rows,
        pools=tiles.pools,
        unpools=tiles.unpools,
    ),
    "06_tensor_core_16bit": ConvRung(
        "conv3x3/06_tensor_core_16bit",
        tiles.tensor_core,
        SIXTEEN_BITS,
        pack=_rows,
        pools=tiles.pools,
        unpools=tiles.unpools,
    ),
    "07_wgmma": ConvRung(tiles.WGMMA, tiles.wgmma, TENSOR_CORES, pack=_rows, only=90),
    "08_split_sum": ConvRung(SPLIT_SUM, tiles.split_sum, TENSOR_CORES, pack=_rows),
    "09_halo_tile": ConvRung(HALO_TILE, tiles.halo_tile, TENSOR_CORES, pack=_rows),
    "10_pooled": ConvRung(POOLED, tiles.pooled, TENSOR_CORES, pack=_rows, pools=tiles.pooled),
    "11_tma_wgmma": ConvRung(tiles.BOXES, tiles.boxes, TENSOR_CORES, pack=_rows, only=90, pools=tiles.boxes_pooled),
    "12_halo_pooled": ConvRung(
        HALO_POOLED,
        tiles.halo_pooled,
        TENSOR_CORES,
        pack=_rows,
        pools=tiles.halo_pooled,
        unpools=tiles.halo_pooled,
    ),
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
            precision = PRECISIONS[name]
            forms = {tuple(launch.defines.items()): launch for launch in _launches(rung, precision)}
            for form in forms.values():
                production = short in (PRODUCTION[name], "08_split_sum", "10_pooled")
                yield Variant(rung.name, precision, form.defines, form.shared, production)
    for precision in PRECISIONS.values():
        yield Variant(BORDER, precision, production=True)


def _launches(rung: ConvRung, precision: Precision) -> Iterator[Launch]:
    """A narrow layer, a wide one, some whose rows are not aligned; small and large. Forms repeat."""
    wide = Pass(512, 512, 64, 64, precision)
    if rung.pack is _rows:  # a table of measured tiles may choose any
        own = rung.name if rung.name in tiles.TILES_OF else None
        yield from (Choice(tile, rung=own).launch(wide) for tile in tiles.TILES_OF[own])
    if rung.name == tiles.BOXES:  # where it cannot copy, the launch is 07's
        return
    for channels, side in product((64, 512, 513, 1), (8, 1024)):
        yield rung.launch(Pass(channels, channels, side, side, precision))


def scratch_floats(
    rung: ConvRung | str, precision: Precision, architecture: int, C: int, K: int, H: int, W: int
) -> int:
    """Floats that a layer needs for the parts of sums that are split, with either border; 0 for most."""
    found = RUNGS[rung] if isinstance(rung, str) else rung
    forward, backward = _passes(precision, architecture, C, K, H, W)
    each = (found, forward), (found, replace(forward, replicate=True)), (found.backward(precision), backward)
    return max(one.launch(p).parts * p.positions * 4 * blocks(p.outputs, 4) for one, p in each)


def _passes(precision: Precision, architecture: int, C: int, K: int, H: int, W: int) -> tuple[Pass, Pass]:
    """Forward and backward."""
    forward = Pass(C, K, H, W, precision, architecture)
    return forward, replace(forward, inputs=K, outputs=C)


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
    scratch : float32, optional
        At least `scratch_floats` of them, for layers that run one after the other to share; its own, if not given.
    pooling : {"max", "average", "l2"}, optional
        What `forward` does with y on the way; only where the rung's `pools` says that it can.
    unpooling : {"max", "average"}, optional
        Whose gradient `backward` can begin with; only where its `unpools` says so, not with `replicate`.
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
        scratch: Array | None = None,
        pooling: str | None = None,
        unpooling: str | None = None,
    ) -> None:
        self.rung = RUNGS[rung] if isinstance(rung, str) else rung
        if self.rung.only not in (None, device.architecture):
            raise DeviceError(
                f"{self.rung.name}: expected a GPU of sm_{self.rung.only}, got {device.name} "
                f"(sm_{device.architecture}); take {PRODUCTION[precision.name]}"
            )
        if precision.name not in self.rung.precisions:
            raise DeviceError(
                f"precision: expected one of {', '.join(self.rung.precisions)} for {self.rung.name}, "
                f"got {precision.name}; take another rung"
            )
        self.device, self.precision = device, precision
        self.C, self.K, self.H, self.W, self.replicate = C, K, H, W, replicate
        forward, backward = _passes(precision, device.architecture, C, K, H, W)
        floats = scratch_floats(self.rung, precision, device.architecture, C, K, H, W)
        if floats and scratch is None:  # here and not in a pass, which may be recorded once and repeated
            scratch = device.empty(floats, np.float32)
        self._scratch = scratch if floats else None
        self.pooling, self.unpooling = pooling, unpooling
        whole, fused = replace(forward, replicate=replicate), self.rung.pools if pooling else self.rung.launch
        launch = _launch(fused, whole, "pooling", self.rung)
        self._kind = [pool.number(pooling or "max")] if pooling or launch.rung in POOLING else []
        apart = pooling and launch.rung == tiles.BOXES  # which has a kernel for either
        self._forward = self._prepare("conv3x3_pooled" if apart else "conv3x3_forward", self.rung, launch)
        back = self.rung.backward(precision)
        self._backward = self._prepare("conv3x3_backward", back, back.launch(backward))
        if unpooling:
            self._unpooled = pool.number(unpooling)
            launch = _launch(self.rung.unpools, backward, "unpooling", self.rung)
            self._unpool = self._prepare("conv3x3_backward", self.rung, launch)
        if replicate:
            self._border = device.kernel(BORDER, "replicate_backward", precision)
            self._rim = blocks(2 * (H + W), 8), blocks(C, WARP)

    def _prepare(self, function: str, rung: ConvRung, launch: Launch) -> Callable[..., None]:
        """The kernel of one pass, as a function of its arguments."""
        if launch.parts:
            both = SplitSum(self.device, self.precision, launch, self._scratch)
            return both.forward if function == "conv3x3_forward" else both.backward
        name = launch.rung or rung.name
        kernel = self.device.kernel(name, function, self.precision, **launch.defines)
        if name == tiles.BOXES:
            return getattr(boxes.BoxConvolution(kernel, launch), function.removeprefix("conv3x3_"))
        return partial(kernel, launch.grid, launch.block, shared=launch.shared)

    def forward(
        self,
        x: Array,
        w: Array,
        b: Array,
        linear: Array | None,
        y: Array | None,
        pooled: Array | None = None,
        choices: Array | None = None,
    ) -> None:
        """y = relu(conv(x, w) + b), and what goes into the ReLU where `linear` is an array.

        Made with a `pooling`: of y, linear, pooled = pool(y) and choices what is an array.

        Parameters
        ----------
        x : elements (H, W, C)
        w : elements
            As `ConvRung.filters` packs them.
        b : float32 (K,)
        linear, y : elements (H, W, K)
            Written.
        pooled : elements (H//2, W//2, K)
        choices : uint8 (ceil(H/2), ceil(W/2), K)
            As `pool.forward` has them.
        """
        more = (pooled, choices, *self._kind) if self._kind else ()
        self._forward(x, w, b, linear, y, *more, self.C, self.K, self.H, self.W, self.replicate)

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
        scales: Array | None = None,
        choices: Array | None = None,
    ) -> None:
        """dx = (F > 0) (conv_backward(dy, w) + style_scale F S + content_scale (F - P)); not masked without `mask`.

        Parameters
        ----------
        dy : elements (H, W, K)
            With `choices` (H//2, W//2, K): the gradient of what was pooled, from which dy would come.
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
        scales : float32 array (4,), optional
            Further factors of float16's gradients, see loss_scale.py.
        choices : uint8 (ceil(H/2), ceil(W/2), K), optional
            Of a layer made with an `unpooling`: as `pool.forward` left them.
        """
        sizes = self.K, self.C, self.H, self.W
        fused = self.rung.fused_losses
        losses = (S, style_scale, P, content_scale)
        rest = (w, F, *(losses if fused else (None, 1.0, None, 0.0)), scales, mask, dx, *sizes)
        if choices is None:
            self._backward(dy, *rest)
        else:
            # ops.pool_backward, ops.relu_backward
            self._unpool(dy, choices, self._unpooled, *rest)
        if not fused and (S is not None or P is not None):
            # ops.gram_backward, ops.content_backward
            gram_backward(
                self.device, self.precision, F, *losses, mask, True, dx, self.C, self.H * self.W, scales=scales
            )
        if self.replicate:
            # ops.conv.unpad
            self._border(self._rim, 8 * WARP, dy, plain, F, mask, dx, *sizes)


def _launch(found: Callable[[Pass], Launch | None] | None, p: Pass, asked: str, rung: ConvRung) -> Launch:
    """What a rung says of a pass; it is told to pool only where it said that it does."""
    launch = found and found(p)
    if launch is None:
        layer = f"{p.inputs} -> {p.outputs} channels of {p.H} x {p.W}"
        raise DeviceError(
            f"{asked}: expected a layer that {rung.name} does it with, got {layer}; do it apart, see pool.py"
        )
    return launch
