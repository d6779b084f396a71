"""One operation, rung by rung: what each adds, whether it computes what the book does, and how fast.

`ladder` lists the operations and their rungs, `problems` makes their inputs and the book's results, `measuring`
verifies and times them. The rungs themselves: `book`, `numpy_form` and `native` on the CPU, `cuda` for the files of
kernels/cuda.
"""

from __future__ import annotations

from .ladder import DEVICES, OPERATIONS, Operation, Rung, choose, rungs
from .measuring import Measured, Peaks, Row, measure
from .problems import Pass, Problem, Size

__all__ = [
    "DEVICES",
    "OPERATIONS",
    "Measured",
    "Operation",
    "Pass",
    "Peaks",
    "Problem",
    "Row",
    "Rung",
    "Size",
    "choose",
    "measure",
    "rungs",
]
