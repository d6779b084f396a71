"""Progress of a loop: a bar with the time left on a terminal, a line now and then elsewhere, nothing when quiet."""

from __future__ import annotations

import os
import shutil
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..transfer import Step

_LINES = 10  # where there is no terminal


class Progress:
    """Shows each `Step` on standard error. A context manager; nothing appears before the first step."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._bar: Any = None
        self._next = 0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, step: Step) -> None:
        if self._quiet:
            return
        terms = step.terms
        losses = f"loss {terms.total:.4g}, content {terms.content:.4g}, style {terms.style:.4g}, tv {terms.tv:.2g}"
        if sys.stderr.isatty():
            if self._bar is None:
                from tqdm import tqdm

                # A terminal that does not know its size (some serial and container ones) would get no bar at all
                columns, lines = shutil.get_terminal_size()
                size = {} if _knows_its_size() else {"ncols": columns, "nrows": lines}
                self._bar = tqdm(total=step.iterations, unit="it", dynamic_ncols=not size, **size)
            self._bar.set_postfix_str(losses, refresh=False)
            self._bar.update(step.iteration - self._bar.n)
        elif step.iteration >= self._next or step.iteration == step.iterations:
            self._next = step.iteration + max(1, step.iterations // _LINES)
            print(f"{step.iteration}/{step.iterations}: {losses}{_left(step)}", file=sys.stderr, flush=True)


def _knows_its_size() -> bool:
    try:
        return min(os.get_terminal_size(sys.stderr.fileno())) > 0
    except (OSError, ValueError):
        return False


def _left(step: Step) -> str:
    if not 0 < step.iteration < step.iterations:
        return ""
    seconds = step.seconds / (step.iteration + 1) * (step.iterations - step.iteration)
    return f", {time.strftime('%H:%M:%S', time.gmtime(seconds))} left"
