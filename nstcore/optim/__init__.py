"""Optimizers: they know f(x) -> (loss, gradient), never pictures or networks.

Vectors                 the few operations on arrays that they need; an engine may bring its own
minimize_adam           Adam
minimize_lbfgs          L-BFGS: direction (pairs.py), line search (line_search.py), bounds
Minimum, State          what they return, and what their callbacks see
AdamState, LBFGSState   what one run leaves to the next
Average                 of the iterates
checked_count           refuses what is no whole number, or too small a one
"""

from .adam import minimize_adam
from .average import Average
from .lbfgs import minimize_lbfgs
from .problem import checked_count
from .result import Minimum, State
from .states import AdamState, LBFGSState
from .vectors import Vectors

__all__ = [
    "AdamState",
    "Average",
    "LBFGSState",
    "Minimum",
    "State",
    "Vectors",
    "checked_count",
    "minimize_adam",
    "minimize_lbfgs",
]
