"""What the losses send back from the taps of a network, added to the gradients that pass: kernels/cuda/gram, moments.

The first loss of a tap without a guide goes into the convolution above it (`split`), or begins the gradient where there
is none; all others are added here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..asked import TapGradient
from .device import Array
from .gram import gram_backward
from .loss_scale import Scales
from .losses import Losses
from .moments import Moments


@dataclass(frozen=True)
class TapGradients:
    """Of one backward pass.

    Attributes
    ----------
    gradients : mapping
        As `Network.backward` takes them.
    scales : Scales
        Empty but in float16.
    losses : Losses
    moments : Moments
    buffers : mapping
        Features by layer, and "style", where S goes.
    scratch : function of an array
        Gives room for as much.
    """

    gradients: Mapping[str, Sequence[TapGradient]]
    scales: Scales
    losses: Losses
    moments: Moments
    buffers: Mapping[str, Array]
    scratch: Callable[[Array], Array]

    def split(self, tap: str) -> tuple[TapGradient | None, Sequence[TapGradient]]:
        """What a convolution takes along, of the first loss without a guide; and all the rest, that one's sums too."""
        terms = self.gradients.get(tap, ())
        for i, term in enumerate(terms):
            if term.guide is None:
                sums = [] if term.ds is None else [TapGradient(ds=term.ds)]
                return term, [*terms[:i], *sums, *terms[i + 1 :]]
        return None, terms

    def factors(self, term: TapGradient | None, more: float = 1.0) -> tuple[Array, float, Array, float]:
        """What a loss without sums sends back, `more` times, for the kernels: S, its factor, P, its factor."""
        if term is None:
            return None, 1.0, None, 0.0
        S = None
        if term.dG is not None:
            N = len(term.dG)
            S = self.buffers["style"][: N * N].reshape(N, N)
            # S = dG + dG^T
            self.losses.pack_style(term.dG, 1.0, S, self.scales_of(term))
        P = None if term.target is None else term.target.P
        return S, more, P, 2 * more * term.scale

    def scales_of(self, term: TapGradient | None) -> Array | None:
        """What multiplies all that on the device."""
        dG = None if term is None else term.dG
        return self.scales.of() if dG is None else self.scales.of(self.losses.device.address(dG))

    def begin(self, tap: str, mask: bool, g: Array) -> None:
        """g = what all losses of a tap send back, whatever is in it."""
        first, others = self.split(tap)
        device, precision = self.losses.device, self.losses.precision
        if first is None:
            device.fill_bytes(g, 0)
        else:
            # ops.gram_backward, ops.content_backward, ops.relu_backward
            F, factors, scales = self.buffers[tap], self.factors(first), self.scales_of(first)
            gram_backward(device, precision, F, *factors, mask, False, g, scales=scales)
        self.add(tap, others, mask, g)

    def add_all(self, tap: str, mask: bool, g: Array) -> None:
        """Add to g what all losses of a tap send back."""
        self.add(tap, self.gradients.get(tap, ()), mask, g)

    def add(self, tap: str, terms: Sequence[TapGradient], mask: bool, g: Array) -> None:
        """Add to g what some of them send back, one after the other; only where the tap is above 0 with `mask`."""
        device, precision = self.losses.device, self.losses.precision
        for term in terms:
            F, guide, T = self.buffers[tap], term.guide, None
            most = 1.0 if guide is None else guide.most
            if term.dG is not None or term.target is not None:
                # ops.gram_backward, ops.content_backward, ops.relu_backward
                out = g if guide is None else self.scratch(F)
                factors, scales = self.factors(term, most), self.scales_of(term)
                gram_backward(device, precision, F, *factors, mask, out is g, out, scales=scales)
                T = None if out is g else out
            if T is not None or term.ds is not None:
                # ops.moments_backward, ops.relu_backward
                ds = None if term.ds is None else most * term.ds
                self.moments.backward(T, ds, F, guide, mask, g, self.scales.of())
