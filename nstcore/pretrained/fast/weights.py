"""Weights of a feed-forward network in memory: its tensors by name, and where they come from."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ...errors import WeightsError
from ..weights import array_sha256, check_array, check_provenance, check_text, shown, text_sha256
from .models import fast_tensors


@dataclass(frozen=True, eq=False)
class FastWeights:
    """Everything that a feed-forward network has learned.

    Parameters
    ----------
    name : str
        What a person calls them: magenta, magenta-fp16, adain.
    model : {"magenta", "adain"}
        The network of `nstcore.fast` that evaluates them.
    tensors : dict of str to ndarray
        Exactly those of `fast_tensors(model)`: float32, C-contiguous, finite.
    provenance : dict of str to str
        Where they come from. A file states at least source, source_sha256, licence and converter.

    Raises
    ------
    WeightsError
        If a tensor is missing or foreign, has another shape or type, or is not finite.
    """

    name: str
    model: str
    tensors: dict[str, np.ndarray] = field(repr=False)
    provenance: dict[str, str]

    def __post_init__(self) -> None:
        check_text("name", self.name)
        check_provenance(self.provenance)
        shapes = fast_tensors(self.model)
        foreign = next((name for name in self.tensors if name not in shapes), None)
        if foreign is not None:
            raise WeightsError(f"{shown(foreign)}: expected only the tensors of {self.model}")
        for name, shape in shapes.items():
            if name not in self.tensors:
                raise WeightsError(f"{name}: missing; {self.model} has {len(shapes)} tensors")
            check_array(name, self.tensors[name], shape)
        # in reading order, whatever order they came in
        object.__setattr__(self, "tensors", {name: self.tensors[name] for name in shapes})

    @cached_property
    def sha256(self) -> str:
        """Hash over everything that the picture depends on: the model and every tensor.

        Name and provenance do not enter. It is the SHA-256 of the compact JSON text, keys sorted, of `model` and
        `tensors`, each array standing there as the SHA-256 of its float32 little-endian bytes in C order.
        """
        tensors = {name: array_sha256(array) for name, array in self.tensors.items()}
        return text_sha256({"model": self.model, "tensors": tensors})

    def describe(self) -> str:
        """One line for a person."""
        count = sum(array.size for array in self.tensors.values())
        return f"{self.name}: {self.model} ({len(self.tensors)} tensors, {count:,} numbers), sha256 {self.sha256[:16]}"
