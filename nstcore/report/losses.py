"""The losses of a run as columns: one list of numbers for each term, layer and level of the pyramid."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from ..objective import Terms

MOST_NUMBERS = 80_000  # in one page, some 20 bytes each


def columns(losses: Sequence[Terms], first: int = 1, most: int = MOST_NUMBERS, keep: Collection[int] = ()) -> Any:
    """Losses for the page.

    Parameters
    ----------
    losses : sequence of Terms
        Of consecutive evaluations.
    first : int
        The number of the first of them.
    most : int
        Numbers in all: where there are more, every k-th evaluation stands for its neighbours.
    keep : collection of int
        Evaluations that are there in any case.

    Returns
    -------
    dict
        `at`, the evaluations' numbers; `every`, the k above; `values`, by name a list with a number for each of them,
        None where it is not finite or there was no such term: "total", "content", "style", "tv", "content.relu4_2",
        "style.relu1_1", ...; of the pyramid's level 1/2 "2:total", and so on.
    """
    names = list(dict.fromkeys(name for terms in losses for name, _ in _flat(terms)))
    every = max(1, math.ceil(len(losses) * len(names) / most))
    chosen = [i for i in range(len(losses)) if i % every == 0 or i == len(losses) - 1 or first + i in keep]
    rows = [dict(_flat(losses[i])) for i in chosen]
    values = {name: [_finite(row.get(name)) for row in rows] for name in names}
    return {"at": [first + i for i in chosen], "every": every, "values": values}


def _flat(terms: Terms, prefix: str = "") -> Iterator[tuple[str, float]]:
    for name in ("total", "content", "style", "tv"):
        yield f"{prefix}{name}", getattr(terms, name)
    for kind, layers in (("content", terms.content_layers), ("style", terms.style_layers)):
        for layer, value in layers.items():
            yield f"{prefix}{kind}.{layer}", value
    for k, level in terms.levels.items():
        yield from _flat(level, f"{k}:")


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
