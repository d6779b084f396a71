"""PyTorch's forms on a GPU of the step (torch_peer.py) and of the networks that paint in one pass (torch_fast_peer.py),
with everything that PyTorch has to make them fast."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from gpu_graphs import AVERAGE, BETAS, BOUNDS, EPSILON, STANDSTILL
from torch_fast_peer import TorchFastPeer
from torch_peer import TorchPeer

from nstcore import FastWeights, Weights

Result = TypeVar("Result")
SCALE = 2.0**14  # of the loss in float16, whose gradients would otherwise vanish: zeros would be multiplied faster


@dataclass(frozen=True)
class Form:
    """How PyTorch computes: `graph` is None (eager), "capture" (the eager step, captured) or "compile"."""

    name: str
    channels_last: bool = True
    half: bool = False
    graph: str | None = None


FORMS = (
    Form("eager TF32, NCHW", channels_last=False),
    Form("eager TF32, channels_last"),
    Form("eager float16 autocast, channels_last", half=True),
    Form("TF32, channels_last, CUDA graph", graph="capture"),
    Form("float16, channels_last, CUDA graph", half=True, graph="capture"),
    Form("float16, channels_last, torch.compile with CUDA graphs", half=True, graph="compile"),
)


class HalfPeer(TorchPeer):
    """Under autocast, its filters already in float16; the Gram matrix is scaled before it could overflow."""

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)
        self.filters = {name: (w.half(), b.half()) for name, (w, b) in self.filters.items()}

    @staticmethod
    def gram(F: torch.Tensor) -> torch.Tensor:
        scaled = F * F.shape[1] ** -0.5
        return scaled @ scaled.T

    def _loss(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, torch.float16, cache_enabled=False):
            return super()._loss(x)


def prepare() -> None:
    """What a user would set who wants PyTorch fast."""
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True


def step(
    form: Form, weights: Weights, content: np.ndarray, style: np.ndarray, start: np.ndarray, device: str = "cuda"
) -> Callable[[], float]:
    """A step of a run, as gpu_graphs.py has it, as a function that returns the loss when all is there."""
    kind = HalfPeer if form.half else TorchPeer
    peer = kind(weights, content, style, weights.pooling, channels_last=form.channels_last, device=device)
    x = peer.tensor(start).requires_grad_()
    scale = SCALE if form.half else 1.0
    options = {"fused": True, "capturable": True} if x.is_cuda else {}
    adam, mean = torch.optim.Adam([x], STANDSTILL, BETAS, EPSILON, **options), x.detach().clone()
    loss_of = peer.loss
    if form.graph == "compile":
        torch.compiler.reset()
        loss_of = torch.compile(peer.loss, fullgraph=True, dynamic=False, mode="reduce-overhead")

    def run() -> torch.Tensor:
        x.grad = None
        loss = loss_of(x)
        (loss * scale).backward()
        adam.step()
        with torch.no_grad():
            x.clamp_(*BOUNDS)
            mean.lerp_(x, 1 - AVERAGE)
        return loss.detach()

    if form.graph != "capture":
        return lambda: finished(run())
    replay, loss = captured(run)

    def again() -> float:
        replay()
        return finished(loss)

    return again


def finished(loss: torch.Tensor) -> float:
    """The loss, after everything else is there too."""
    if loss.is_cuda:
        torch.cuda.synchronize()
    return loss.item()


def captured(run: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor]:
    """A CUDA graph of everything that `run` launches, and where it puts its result."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):  # cuDNN chooses its algorithms
            run()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = run()
    return graph.replay, loss


def steps(
    weights: Weights, pictures: tuple[np.ndarray, np.ndarray, np.ndarray], compiled: bool
) -> Iterator[tuple[str, Callable[[], float] | None, int, str]]:
    """(name, step or None, bytes at its peak, why there is no step) of every form; each has had its first calls."""
    prepare()
    for form in FORMS:
        if form.graph == "compile" and not compiled:
            continue
        yield started(form.name, lambda form=form: step(form, weights, *pictures))


# -- networks that paint in one pass -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class FastForm:
    """As `Form`; `tf32`: products of 10 bits, which tensor cores compute, as cuDNN does unless told otherwise."""

    name: str
    tf32: bool
    channels_last: bool = True
    graph: str | None = None


FAST_FORMS = (
    FastForm("eager float32, NCHW", False, channels_last=False),
    FastForm("eager float32, channels_last", False),
    FastForm("float32, channels_last, CUDA graph", False, graph="capture"),
    FastForm("eager TF32, channels_last", True),
    FastForm("TF32, channels_last, CUDA graph", True, graph="capture"),
    FastForm("TF32, channels_last, torch.compile with CUDA graphs", True, graph="compile"),
)


def painter(
    form: FastForm, weights: FastWeights, pixels: np.ndarray, look: np.ndarray, device: str = "cuda"
) -> Callable[[], torch.Tensor]:
    """Paints pixels (3, H, W), which are there already, in that look; returns (3, H, W) when it is there."""
    compiled = form.graph == "compile"
    if compiled:
        torch.compiler.reset()
    mode = "reduce-overhead" if compiled else None
    peer = TorchFastPeer(weights, torch.float32, form.channels_last, compiled, device, mode)
    x = peer.tensor(pixels)
    vector = torch.from_numpy(look.astype(np.float32)).reshape(1, -1, 1, 1).to(device)

    def run() -> torch.Tensor:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = form.tf32
        return peer.paint(x, vector)[0]

    if form.graph == "capture":
        replay, painted = captured(run)
    else:
        replay, painted = run, None

    def again() -> torch.Tensor:
        found = replay()
        if x.is_cuda:
            torch.cuda.synchronize()
        return found if painted is None else painted

    return again


def painters(
    weights: FastWeights, pixels: np.ndarray, look: np.ndarray, compiled: bool
) -> Iterator[tuple[str, Callable[[], torch.Tensor] | None, int, str]]:
    """(name, painter or None, bytes at its peak, why there is none) of every form; each has had its first calls."""
    prepare()
    for form in FAST_FORMS:
        if form.graph != "compile" or compiled:
            yield started(form.name, lambda form=form: painter(form, weights, pixels, look))


# -- of both -----------------------------------------------------------------------------------------------------------


def started(name: str, make: Callable[[], Callable[[], Result]]) -> tuple[str, Callable[[], Result] | None, int, str]:
    """What `make` makes, after its first calls, and the bytes that it held at its peak; or why it failed."""
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    try:
        found = make()
        for _ in range(3):
            found()
    except Exception as error:  # whatever torch.compile, a capture or the memory do
        return f"PyTorch {name}", None, 0, next(iter(str(error).splitlines()), type(error).__name__)[:200]
    return f"PyTorch {name}", found, torch.cuda.max_memory_allocated() - before, ""


def products(side: int) -> dict[str, Callable[[], torch.Tensor]]:
    """Large matrix products by precision, on random numbers: what the GPU gives to a library made for it."""

    def product(dtype: torch.dtype, tf32: bool) -> Callable[[], torch.Tensor]:
        a, b = (torch.randn(side, side, device="cuda", dtype=dtype) for _ in range(2))
        out = torch.empty_like(a)

        def run() -> torch.Tensor:
            torch.backends.cuda.matmul.allow_tf32 = tf32
            return torch.matmul(a, b, out=out)

        return run

    return {
        "float32": product(torch.float32, False),
        "tf32": product(torch.float32, True),
        "float16": product(torch.float16, False),
        "bfloat16": product(torch.bfloat16, False),
    }


def seconds(run: Callable[[], object]) -> float:
    """By the GPU's clock."""
    events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
    events[0].record()
    run()
    events[1].record()
    events[1].synchronize()
    return events[0].elapsed_time(events[1]) / 1e3
