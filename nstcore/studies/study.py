"""What comes of a study: pictures, what each shows, and numbers measured on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Panel:
    """One picture of a study.

    Attributes
    ----------
    label : str
        What it shows: "relu3_1", "relu1_1-relu3_1", "channel 37".
    pixels : ndarray of shape (3, H, W)
        RGB in [0, 1].
    numbers : dict of str to float
        What was measured, by name; each study says what and in which unit.
    note : str
        Why it is not what was asked for ("interrupted after 12 of 200 iterations"); empty if it is.
    metadata : dict
        How it was made; of a painted one, everything that is needed to make it again.
    """

    label: str
    pixels: np.ndarray = field(repr=False)
    numbers: dict[str, float]
    note: str = ""
    metadata: dict[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Study:
    """Pictures side by side.

    Attributes
    ----------
    name : str
        "reconstruct", "texture", "features", "grams", "filters" or "patches".
    original : ndarray of shape (3, H, W), or None
        The picture that was studied, at the size that it was studied in.
    panels : list of Panel
        In the order of what was asked for; as many as could be made.
    metadata : dict
        How they were made, and every panel's numbers.
    interrupted : bool
        Whether the study ended before its time.
    problems : list of str
        What failed, one line for each.
    """

    name: str
    original: np.ndarray | None = field(repr=False)
    panels: list[Panel]
    metadata: dict[str, Any] = field(repr=False)
    interrupted: bool = False
    problems: list[str] = field(default_factory=list)


def recorded(facts: Mapping[str, Any], panels: list[Panel]) -> dict[str, Any]:
    """Metadata of a study: facts about the whole, and the numbers of every panel."""
    listed = [{"label": p.label, **p.numbers, **({"note": p.note} if p.note else {})} for p in panels]
    return {**facts, "panels": listed}
