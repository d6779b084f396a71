"""What a whole run takes of a GPU's memory, by the plan that `run --plan` makes: every buffer, nothing allocated."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from bench_common import Report
from predict_launches import Recorder

from nstcore import Weights
from nstcore.engines.cuda import CudaEngine
from nstcore.transfer.plan import USABLE, Phase
from nstcore.transfer.plan import Plan as Needed
from nstcore.transfer.preview import estimate

SHAPES = {"square": (64, 64), "3:2": (64, 96)}  # (H, W) of stand-ins for content and style; the run enlarges them
CARD = 24e9  # bytes of a card that many people have
LARGEST = 4  # buffers that are named


@dataclass(frozen=True)
class Need:
    """What a run takes.

    Attributes
    ----------
    size : (height, width)
    precision : str
    plan : nstcore.transfer.plan.Plan
    """

    size: tuple[int, int]
    precision: str
    plan: Needed

    @property
    def fullest(self) -> Phase:
        """When memory is fullest."""
        return max(self.plan.phases, key=self.plan.bytes_of)

    @property
    def filters(self) -> int:
        """Bytes that do not depend on the picture's size."""
        return self.fullest.engine.get("filters", 0)

    @property
    def per_pixel(self) -> float:
        """Bytes of everything but filters."""
        return (self.plan.needed - self.filters) / math.prod(self.size)

    def fits(self, card: float) -> bool:
        """Whether a card of so many bytes holds it, by the rule of `run`."""
        return self.plan.needed <= USABLE * card


def need(weights: Weights, precision: str, long_side: int, shape: str, device: Recorder) -> Need:
    """Of a run with the defaults (Adam, sizes from coarse to fine) and a style of the content's shape."""
    picture = np.full((*SHAPES[shape], 3), 0.5, np.float32)
    engine = CudaEngine(device, precision)
    found = estimate(picture, picture, weights=weights, engine=engine, size=long_side, calibrate=False)
    return Need(found.plan.size, precision, found.plan)


def table(needs: list[Need]) -> str:
    """One row for each size, a column for each precision."""
    precisions = list(dict.fromkeys(n.precision for n in needs))
    by = {(n.size, n.precision): n for n in needs}
    report = Report(("picture", *(f"{p}, GB (bytes a pixel)" for p in precisions)))
    for size in dict.fromkeys(n.size for n in needs):
        row = [by[size, p] for p in precisions]
        cells = (f"{n.plan.needed / 1e9:.2f} ({n.per_pixel:.0f}){'' if n.fits(CARD) else ' *'}" for n in row)
        report.rows.append((f"{size[1]}x{size[0]}", *cells))
    return report.markdown()


def verdict(found: Need) -> str:
    """Whether it fits a 24 GB card, and which buffers are the largest."""
    height, width = found.size
    limit, phase = USABLE * CARD, found.fullest
    largest = sorted(phase.engine.items(), key=lambda item: -item[1])[:LARGEST]
    named = ", ".join(f"{name} {count / 1e9:.2f}" for name, count in largest)
    left = abs(limit - found.plan.needed) / 1e9
    fits = f"fits, {left:.1f} GB to spare" if found.fits(CARD) else f"does not fit, by {left:.1f} GB"
    return (
        f"{width}x{height} in {found.precision} takes {found.plan.needed / 1e9:.2f} GB at most (during {phase.name} at "
        f"{phase.size[1]}x{phase.size[0]}): of the {limit / 1e9:.1f} GB that may be planned for on a "
        f"{CARD / 1e9:.0f} GB card it {fits}. The largest buffers, GB: {named}"
    )
