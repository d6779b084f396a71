"""From pictures to a picture.

run.py       the whole of it: what is asked for is checked, then painted
loop.py      the sizes, one after the other, and the snapshots on the way
pictures.py  content and styles as the options want them: colours, sizes
one_pass.py  a picture in one pass of a network that was trained for it
start.py     where the optimisation starts
ladder.py    the sizes on the way, and how often each is evaluated
rung.py      the optimisation at one size, and what is carried to the next
pyramid.py   the smaller sizes in which a large picture is held against its pictures as well
progress.py  steps, told as they are made
snapshot.py  the state of a run in a file
record.py    what a picture was made from and with
prepare.py   what is read and planned before anything is computed
plan.py      what a transfer takes, and what fits the memory
calibrate.py how long it takes, from a second of real work
preview.py   the two together, without the transfer
result.py    what a caller sees: steps, the result
"""

from .ladder import Rung
from .one_pass import FastResult, stylize_fast
from .pictures import COLORS
from .prepare import OPTIMIZERS
from .preview import Estimate, estimate
from .pyramid import PYRAMIDS
from .record import made_with
from .result import FailedRun, Result, Step
from .run import stylize
from .start import FAST_WEIGHTS, INITS

__all__ = [
    "COLORS",
    "FAST_WEIGHTS",
    "INITS",
    "OPTIMIZERS",
    "PYRAMIDS",
    "Estimate",
    "FailedRun",
    "FastResult",
    "Result",
    "Rung",
    "Step",
    "estimate",
    "made_with",
    "stylize",
    "stylize_fast",
]
