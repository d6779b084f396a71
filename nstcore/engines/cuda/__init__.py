"""The `cuda` engine: our own CUDA kernels (kernels/cuda) on an NVIDIA GPU, through CuPy.

`cuda-on-cpu` is the same engine, launch by launch, with the same .cu files compiled for the CPU: slow, and for reading,
testing and debugging kernels without a GPU.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from ... import vgg
from ...errors import DeviceError
from ...pretrained.weights import Weights
from ..base import Engine, MomentsLoss, Network
from . import block_mean
from . import precision as precisions
from .conv import PRODUCTION, RUNGS
from .device import Device
from .losses import Losses
from .network import CudaNetwork
from .operations import CudaOperations
from .precision import FLOAT32, TF32, Precision
from .repeated import Repeated
from .vectors import CudaVectors


class CudaEngine(Engine):
    """Computes on a device with the kernels of kernels/cuda.

    Pixels, their gradients and Gram matrices are float32 in every precision; features, filters and the gradients at
    layers are elements of the precision.

    Parameters
    ----------
    device : Device
        `gpu.GpuDevice`, or `on_cpu.OnCpuDevice`.
    precision : {"float32", "tf32", "float16", "bfloat16"}, optional
        TF32 where the GPU has it, if not given: what pictures are painted with. float32 is for checks.
    convolution : str, optional
        A rung of kernels/cuda/conv3x3 by its short name, such as "04_winograd"; the production one, if not given.
    most : int, optional
        Bytes of the device's memory that may be planned for, where others use it, too; all, if not given.

    Raises
    ------
    DeviceError
        For a precision that there is not, or that the GPU does not have.
    """

    def __init__(
        self, device: Device, precision: str | None = None, convolution: str | None = None, most: int | None = None
    ) -> None:
        self.device, self._most = device, most
        self.elements = _best(device) if precision is None else precisions.find(precision)
        if device.architecture < self.elements.architecture:
            raise DeviceError(
                f"precision {self.elements.name}: expected a GPU of sm_{self.elements.architecture} or later, got "
                f"{device.name} (sm_{device.architecture}); use --precision float32"
            )
        self.convolution = convolution or PRODUCTION[self.elements.name]
        if self.convolution not in RUNGS or self.elements.name not in RUNGS[self.convolution].precisions:
            have = [name for name, rung in RUNGS.items() if self.elements.name in rung.precisions]
            raise DeviceError(
                f"convolution: expected one of {', '.join(have)} for {self.elements.name}, got {self.convolution}"
            )
        self.name = device.kind
        self.dtype = np.dtype(np.float32)
        self.precision = self.elements.name
        self.vectors = CudaVectors(device)
        self.losses = Losses(device, self.elements)
        self._small: dict[tuple[int, ...], Any] = {}  # a step makes the same ones every time

    def raised(self) -> CudaEngine | None:
        if self.elements is FLOAT32:
            return None
        has_tf32 = self.elements is not TF32 and self.device.architecture >= TF32.architecture
        return CudaEngine(self.device, TF32.name if has_tf32 else FLOAT32.name, most=self._most)

    def describe(self) -> str:
        return f"{self.name} ({self.device.name}, {self.precision})"

    def network(self, weights: Weights, taps: Iterable[str], pooling: str, part: vgg.Part = vgg.WHOLE) -> CudaNetwork:
        return CudaNetwork(weights, taps, pooling, self.device, self.elements, self.convolution, self.losses, part)

    def operations(self) -> CudaOperations:
        return CudaOperations(self.device, self.vectors)

    def repeated(self, network: Network) -> Repeated:
        assert isinstance(network, CudaNetwork)
        return Repeated(self.device, self.losses, network)

    def array(self, a: np.ndarray) -> Any:
        return self.device.to_device(np.array(a, self.dtype, order="C"))

    def asarray(self, a: Any) -> Any:
        return a if self.device.owns(a) else self.array(a)

    def numpy(self, a: Any) -> np.ndarray:
        return self.device.to_host(a)

    def empty(self, shape: tuple[int, ...]) -> Any:
        return self.device.empty(shape, self.dtype)

    def copy_rows(self, source: Any, out: Any) -> None:
        self.device.copy_rows(source, out)

    def memory(self) -> int | None:
        return min((n for n in (self.device.free_bytes(), self._most) if n is not None), default=None)

    def style_term(self, G: Any, M: float, A: Any, M_style: float, scale: float) -> tuple[float, Any]:
        return self.losses.style(G, M, A, M_style, scale)

    def moments_loss(self, kind: str, M: float, *target: Any) -> MomentsLoss:
        return self.losses.moments_loss(kind, M, *target)

    def total_variation(self, pixels: Any, scale: float, gradient: Any, diagonal: float = 0.0) -> float:
        return self.losses.total_variation(pixels, scale, gradient, diagonal)

    def block_mean(self, pixels: Any, k: int) -> Any:
        shape = block_mean.small(pixels.shape, k)
        if shape not in self._small:
            self._small[shape] = self.device.empty(shape, np.float32)
        block_mean.forward(self.device, pixels, k, self._small[shape])
        return self._small[shape]

    def add_block_mean_gradient(self, dy: Any, k: int, gradient: Any) -> None:
        block_mean.backward(self.device, dy, k, gradient)


def _best(device: Device) -> Precision:
    return TF32 if device.architecture >= TF32.architecture else FLOAT32
