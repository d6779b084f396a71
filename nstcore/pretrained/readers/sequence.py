"""Which network a file holds, told from its layers in the order of the data.

Files name their layers as they like; the order of convolutions, ReLUs and poolings is VGG's own. The convolution that
follows `b - 1` poolings and `i - 1` convolutions after the last of them is conv`b`_`i`.
"""

from __future__ import annotations

from collections.abc import Iterable

from ... import vgg
from ...errors import WeightsError
from ..weights import Pooling, shown


class Sequence:
    """Follows the layers of a file one by one, and refuses the first that no VGG has there."""

    def __init__(self) -> None:
        self.convolutions: list[str] = []
        self.poolings: set[Pooling] = set()
        self._block = 1
        self._index = 0
        self._relu_due = False

    @property
    def block_is_empty(self) -> bool:
        """Whether no convolution came yet, or none since the last pooling."""
        return self._index == 0

    def convolution(self) -> str:
        """The name of the convolution that comes now."""
        self._check_relu("a convolution")
        self._index += 1
        name = f"conv{self._block}_{self._index}"
        shape_of(name)
        self.convolutions.append(name)
        self._relu_due = True
        return name

    def relu(self) -> None:
        """A ReLU comes now."""
        if not self._relu_due:
            raise WeightsError("layers: expected one ReLU after each convolution, found one elsewhere")
        self._relu_due = False

    def pool(self, pooling: Pooling) -> None:
        """A pooling comes now."""
        self._check_relu("a pooling")
        if self.block_is_empty:
            raise WeightsError("layers: expected a pooling after convolutions, found one elsewhere")
        self.poolings.add(pooling)
        self._block += 1
        self._index = 0

    def finish(self, found: str = "the end") -> tuple[str, Pooling]:
        """The architecture and its pooling, when the convolutions have ended with what was found after them."""
        self._check_relu(found)
        return architecture_of(self.convolutions), one_pooling(self.poolings)

    def _check_relu(self, found: str) -> None:
        if self._relu_due:
            raise WeightsError(f"{self.convolutions[-1]}: expected a ReLU after it, found {shown(found)[:80]}")


def shape_of(name: str) -> tuple[int, int, int, int]:
    """Filter shape (K, C, 3, 3) of a convolution; VGG16 and VGG19 agree where both have it.

    Raises
    ------
    WeightsError
        If no architecture has one of that name.
    """
    for architecture in vgg.ARCHITECTURES:
        shape = vgg.convolutions(architecture).get(name)
        if shape is not None:
            return shape
    raise WeightsError(f"{shown(name)}: {' and '.join(vgg.ARCHITECTURES)} have no such layer")


def is_convolution(name: str) -> bool:
    """Whether an architecture has a convolution of that name."""
    return any(name in vgg.convolutions(architecture) for architecture in vgg.ARCHITECTURES)


def architecture_of(names: Iterable[str]) -> str:
    """The network whose convolutions are exactly these.

    Raises
    ------
    WeightsError
        If they are those of no network; the first missing one of the nearest network is named.
    """
    found = set(names)
    if not found:
        raise WeightsError("expected the convolutions of a VGG, conv1_1 and so on, found none")
    tables = sorted(((name, tuple(vgg.convolutions(name))) for name in vgg.ARCHITECTURES), key=lambda t: len(t[1]))
    for name, table in tables:
        if found == set(table):
            return name
    name, table = next((entry for entry in tables if found <= set(entry[1])), tables[-1])
    missing = next(conv for conv in table if conv not in found)
    raise WeightsError(f"expected all {len(table)} convolutions of {name}; {missing} is missing")


def one_pooling(poolings: set[Pooling]) -> Pooling:
    """The pooling of the whole network; "max", as VGG was trained, where the file does not say."""
    if len(poolings) > 1:
        raise WeightsError(f"expected one pooling throughout, found {' and '.join(sorted(poolings))}")
    return next(iter(poolings), "max")
