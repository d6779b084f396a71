"""From pictures to a picture.

run.py       the whole of it: what is asked for is checked, then painted size by size
pictures.py  content and styles as the options want them: colours, sizes
start.py     where the optimisation starts
ladder.py    the sizes on the way, and how often each is evaluated
rung.py      the optimisation at one size, and what is carried to the next
fit.py       what fits the memory
result.py    what a caller sees: steps, the result
"""

from .ladder import Rung
from .pictures import COLORS
from .result import FailedRun, Result, Step
from .run import OPTIMIZERS, stylize
from .start import INITS

__all__ = ["COLORS", "INITS", "OPTIMIZERS", "FailedRun", "Result", "Rung", "Step", "stylize"]
