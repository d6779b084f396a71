"""What a transfer takes: every buffer by name, and the peak over the phases of a run. See `needs`."""

from __future__ import annotations

from dataclasses import dataclass, field

from .ladder import Rung

USABLE = 0.9  # of the memory at hand: predictions are within a tenth of the measured peak

Size = tuple[int, int]
Bytes = dict[str, int]


@dataclass(frozen=True)
class Phase:
    """A part of the work.

    Attributes
    ----------
    name : str
        "content", "styles", "start", "steps" or "output".
    size : (height, width)
        Of the picture meanwhile.
    engine, host : dict of str to int
        Bytes of every buffer that is alive, by name, in the engine's memory and in the host's; which are one, unless
        the engine's is `apart`.
    disk : int
        Bytes of arrays that lie on disk.
    workers : int
        Bytes of arrays that lie with the workers of a cluster, each counted once.
    """

    name: str
    size: Size
    engine: Bytes = field(repr=False)
    host: Bytes = field(repr=False)
    disk: int = 0
    workers: int = 0


@dataclass(frozen=True)
class Plan:
    """What a transfer will take.

    Attributes
    ----------
    rungs : list of Rung
        Sizes and iterations.
    history : int
        Of L-BFGS.
    phases : tuple of Phase
        In their order.
    apart : bool
        Whether the engine has a memory of its own.
    held, most : int
        Bytes of the host's memory that the process holds already, and the most that it has held.
    free : int or None
        Bytes free in the engine's memory; None where nobody knows.
    host_free : int or None
        The same of the host; the same number, unless the engine's memory is apart.
    """

    rungs: list[Rung]
    history: int
    phases: tuple[Phase, ...]
    apart: bool
    held: int
    most: int
    free: int | None
    host_free: int | None

    @property
    def size(self) -> Size:
        """(height, width) of the result."""
        return self.rungs[-1].size

    def bytes_of(self, phase: Phase) -> int:
        """What a phase takes in the engine's memory."""
        return sum(phase.engine.values()) + (0 if self.apart else sum(phase.host.values()))

    @property
    def needed(self) -> int:
        """Bytes that will be taken of the engine's memory, at most, besides what the process holds already."""
        return max(map(self.bytes_of, self.phases))

    @property
    def host_needed(self) -> int:
        """The same of the host's memory."""
        return max(sum(phase.host.values()) for phase in self.phases) if self.apart else self.needed

    @property
    def peak(self) -> int:
        """Bytes of the host's memory that the process will have held, at most."""
        return max(self.most, self.held + self.host_needed)

    @property
    def disk(self) -> int:
        """Bytes that will lie on disk, at most."""
        return max(phase.disk for phase in self.phases)

    @property
    def workers(self) -> int:
        """Bytes of arrays with the workers of a cluster, at most."""
        return max(phase.workers for phase in self.phases)

    @property
    def fits(self) -> bool:
        """Whether the memory at hand holds it."""
        needs = ((self.needed, self.free), (self.host_needed, self.host_free))
        return all(free is None or needed <= USABLE * free for needed, free in needs)
