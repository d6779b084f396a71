"""Networks by name or place, each read or fetched once, with a progress bar."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from .progress import Progress

if TYPE_CHECKING:
    from ..pretrained import FastWeights, Weights


class Networks:
    """What has been loaded so far.

    Parameters
    ----------
    say : callable (line)
        Tells a person what the built-in filters mean.
    quiet : bool
        Show no progress.
    """

    def __init__(self, say: Callable[[str], None], quiet: bool) -> None:
        self._say, self._quiet = say, quiet
        self._vgg: dict[tuple[str, bool], Weights] = {}
        self._fast: dict[tuple[str, bool], FastWeights] = {}

    def vgg(self, name: str, offline: bool) -> Weights:
        """The weights of a VGG."""
        if (name, offline) not in self._vgg:
            self._vgg[name, offline] = self._load_vgg(name, offline)
        return self._vgg[name, offline]

    def _load_vgg(self, name: str, offline: bool) -> Weights:
        from ..pretrained import builtin_notice, load_weights

        failures: list[str] = []
        with Progress("B", "vgg19" if name == "auto" else name, self._quiet) as progress:
            weights = load_weights(
                name,
                download=not offline,
                progress=progress,
                on_failure=lambda error: failures.append(str(error)),
            )
        if name == "auto" and weights.name == "builtin":
            self._say(builtin_notice(*failures))
        return weights

    def fast(self, name: str, offline: bool) -> FastWeights:
        """The weights of a one-pass network."""
        if (name, offline) not in self._fast:
            from ..pretrained import load_fast_weights

            with Progress("B", name, self._quiet) as progress:
                self._fast[name, offline] = load_fast_weights(name, download=not offline, progress=progress)
        return self._fast[name, offline]
