"""Gates of features and of choices, and back: kernels/cuda/gates; see `nstcore.engines.gates`.

The backward pass reads features that nobody compares with anything only as masks, and of a maximum or a mean its
choices. So opened gates take their place, in the same buffers, and nothing else knows of gates.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...errors import ShapeError
from ..base import EVERYWHERE
from ..gates import GATES, WORD, shape_of
from . import pool
from .device import Array, Device, Kernel
from .precision import PRECISIONS, Precision
from .variants import Variant

RUNG = "gates/01_direct"
THREADS = 128


def variants() -> Iterator[Variant]:
    """Every form in which the rung is compiled; all of them are production's."""
    for precision in PRECISIONS.values():
        for aligned in (1, 0):
            yield Variant(RUNG, precision, {"ALIGNED": aligned}, production=True)


def of_features(device: Device, precision: Precision, F: Array, window: tuple[slice, slice] = EVERYWHERE) -> np.ndarray:
    """Where features are above 0.

    Parameters
    ----------
    device, precision
    F : array (H, W, C) of elements
    window : (rows, columns), optional

    Returns
    -------
    words : uint16 ndarray (ceil(C/16), rows, columns), on the host
    """
    H, W, C = F.shape
    rows, columns, words = _within(device, C, H, W, window)
    if words.size:
        kernel = _kernel(device, precision, "gates_of_features", C)
        size = len(rows), len(columns)
        kernel(_grid(words.shape), THREADS, F, words, C, W, rows.start, columns.start, *size)
    return device.to_host(words)


def of_choices(
    device: Device,
    precision: Precision,
    choices: Array,
    H: int,
    W: int,
    kind: str,
    window: tuple[slice, slice] = EVERYWHERE,
) -> np.ndarray:
    """Where the gradient passes a pooling and the ReLU below it.

    Parameters
    ----------
    device, precision
    choices : uint8 array (ceil(H/2), ceil(W/2), C)
        As `pool.forward` leaves them with a `mask`.
    H, W : int
        Of the features that were pooled.
    kind : {"max", "average"}
    window : (rows, columns), optional
        Of these features.

    Returns
    -------
    words : uint16 ndarray (ceil(C/16), rows, columns), on the host
    """
    C = choices.shape[2]
    _check_choices(choices, C, H, W)
    rows, columns, words = _within(device, C, H, W, window)
    if words.size:
        kernel = _kernel(device, precision, "gates_of_choices", C)
        places = rows.start, columns.start, len(rows), len(columns)
        kernel(_grid(words.shape), THREADS, choices, words, C, H, W, pool.number(kind), *places)
    return device.to_host(words)


def open_features(device: Device, precision: Precision, words: np.ndarray, F: Array) -> None:
    """F (H, W, C) elements: 1 where the gate of `words` (ceil(C/16), H, W) is 1, else 0."""
    H, W, C = F.shape
    given = _sent(device, words, C, H, W)
    _kernel(device, precision, "open_features", C)(_grid(words.shape), THREADS, given, F, C, H, W)


def open_choices(device: Device, precision: Precision, words: np.ndarray, choices: Array) -> None:
    """Choices (ceil(H/2), ceil(W/2), C) by which the gradient passes where the gate of `words` (ceil(C/16), H, W) is 1.

    Of each window the first such value is taken for the largest: below a maximum there is no other.
    """
    C, (_, H, W) = choices.shape[2], words.shape
    _check_choices(choices, C, H, W)
    given = _sent(device, words, C, H, W)
    grid = _grid((len(words), *choices.shape[:2]))
    _kernel(device, precision, "open_choices", C)(grid, THREADS, given, choices, C, H, W)


def _within(device: Device, C: int, H: int, W: int, window: tuple[slice, slice]) -> tuple[range, range, Array]:
    """Rows and columns of a window of (H, W), and room for its words."""
    rows, columns = range(H)[window[0]], range(W)[window[1]]
    return rows, columns, device.empty(shape_of(C, len(rows), len(columns)), GATES)


def _sent(device: Device, words: np.ndarray, C: int, H: int, W: int) -> Array:
    """Gates on the device."""
    expected = shape_of(C, H, W)
    if words.shape != expected or words.dtype != GATES:
        raise ShapeError(f"gates: expected uint16 {expected} for {C} channels, got {words.dtype} {words.shape}")
    return device.to_device(words)


def _check_choices(choices: Array, C: int, H: int, W: int) -> None:
    expected = -(-H // 2), -(-W // 2), C
    if choices.shape != expected:
        raise ShapeError(f"choices: expected {expected} for gates of {H}x{W} positions, got {choices.shape}")


def _kernel(device: Device, precision: Precision, function: str, C: int) -> Kernel:
    return device.kernel(RUNG, function, precision, ALIGNED=C % WORD == 0)


def _grid(shape: tuple[int, ...]) -> tuple[int, int]:
    """Blocks for a thread at each place of (words, rows, columns)."""
    words, rows, columns = shape
    return words * rows, -(-columns // THREADS)
