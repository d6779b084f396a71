"""Progress of a loop: a bar with the time left on a terminal, a line now and then elsewhere, nothing when quiet."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..transfer import Step

_LINES = 10  # where there is no terminal


class Progress:
    """Shows each `Step` on standard error. A context manager."""

    def __init__(self, iterations: int, quiet: bool) -> None:
        self._iterations = iterations
        self._bar = None
        self._lines = False
        self._next = 0
        if quiet:
            return
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=iterations, unit="it", dynamic_ncols=True, leave=True)
        else:
            self._lines = True

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, step: Step) -> None:
        terms = step.terms
        losses = f"loss {terms.total:.4g}, content {terms.content:.4g}, style {terms.style:.4g}, tv {terms.tv:.2g}"
        if self._bar is not None:
            self._bar.set_postfix_str(losses, refresh=False)
            self._bar.update(step.iteration - self._bar.n)
        elif self._lines and (step.iteration >= self._next or step.iteration == self._iterations):
            self._next = step.iteration + max(1, self._iterations // _LINES)
            print(f"{step.iteration}/{self._iterations}: {losses}{self._left(step)}", file=sys.stderr, flush=True)

    def _left(self, step: Step) -> str:
        if not 0 < step.iteration < self._iterations:
            return ""
        seconds = step.seconds / (step.iteration + 1) * (self._iterations - step.iteration)
        return f", {time.strftime('%H:%M:%S', time.gmtime(seconds))} left"
