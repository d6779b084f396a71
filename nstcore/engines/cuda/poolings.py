"""Which convolutions of a network do the pooling above them as well, forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from ...vgg import Step
from . import filters
from .conv import ConvRung
from .plan import Pooled
from .precision import Precision
from .tile_launches import Pass


def poolings(
    steps: Sequence[Step],
    shapes: Mapping[str, tuple[int, int, int]],
    rung: ConvRung,
    precision: Precision,
    architecture: int,
    choosing: bool,
    replicates: Callable[[Step], bool],
) -> Pooled:
    """How the poolings of a network are done whose convolutions are by that rung.

    Parameters
    ----------
    steps, shapes
        Of a `Network`, and (K, H, W) of what each computes.
    rung : ConvRung
    precision : Precision
    architecture : int
        Of the GPU.
    choosing : bool
        Whether poolings leave choices; without them no convolution makes their gradient.
    replicates : function of a Step
        Whether a convolution's border is replicated.
    """
    fused, unpooling = set(), set()
    for step, above in pairwise(steps):
        if above.kind != "pool":
            continue
        p = Pass(filters.inputs(step), *shapes[step.output], precision, architecture, replicates(step))
        if rung.pools and rung.pools(p):
            fused.add(step.name)
        # Another kernel makes the pixels' gradient, and another one that of a replicated border, from all of dy
        possible = choosing and step is not steps[0] and not p.replicate
        if possible and rung.unpools and rung.unpools(replace(p, inputs=p.outputs, outputs=p.inputs)):
            unpooling.add(step.name)
    return Pooled(choosing, fused, unpooling)
