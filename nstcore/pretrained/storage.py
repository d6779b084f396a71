"""How a filter is stored: exactly, in half the bytes, or in a quarter, and what that costs.

    float32     weight                                                  exact
    float16     weight, rounded to the nearest half                     error <= 2^-11 of the value (2^-25 near 0)
    int8        q = round(weight / scale), scale[k] = max|w[k]| / 127    error <= 1/254 of the filter's largest value

An int8 weight is read back as q * scale[k], in float32. Biases stay float32: one number for thousands of weights.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from ..errors import OptionError, WeightsError

Storage = Literal["float32", "float16", "int8"]
STORAGES: dict[str, np.dtype] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2"), "int8": np.dtype("i1")}

_INT8_LARGEST = 127


def check_storage(storage: str) -> None:
    """`OptionError` for a form that does not exist."""
    if storage not in STORAGES:
        raise OptionError(f"storage: expected one of {', '.join(STORAGES)}, got {storage!r}")


def encode(weight: np.ndarray, storage: str, what: str = "weight") -> tuple[np.ndarray, np.ndarray | None]:
    """A weight as it is stored.

    Parameters
    ----------
    weight : ndarray of shape (K, C, 3, 3), float32, finite
    storage : {"float32", "float16", "int8"}
    what : str
        What a message calls it.

    Returns
    -------
    stored : ndarray of shape (K, C, 3, 3)
        For float32 the array itself.
    scale : ndarray of shape (K,), float32, or None
        For int8 only; 0 for a filter of zeros.

    Raises
    ------
    WeightsError
        If a value is beyond the largest float16.
    """
    check_storage(storage)
    if storage == "float32":
        return weight, None
    if storage == "float16":
        largest = float(np.abs(weight).max())
        if largest > float(np.finfo(np.float16).max):
            raise WeightsError(f"{what}: {largest:g} is beyond the largest half, 65504; store as float32")
        return weight.astype(STORAGES[storage]), None
    scale = np.abs(weight).max(axis=(1, 2, 3)) / np.float32(_INT8_LARGEST)
    divisor = np.where(scale > 0, scale, np.float32(1))
    q = np.rint(weight / divisor[:, None, None, None]).clip(-_INT8_LARGEST, _INT8_LARGEST)
    return q.astype(STORAGES[storage]), scale


def decode(stored: np.ndarray, scale: np.ndarray | None) -> np.ndarray:
    """The float32 weight (K, C, 3, 3) that a stored one stands for: `stored * scale[k]` where there is a scale."""
    weight = stored.astype(np.float32, copy=False)
    if scale is not None:
        with np.errstate(over="ignore", invalid="ignore"):  # `Weights` refuses what is not finite, and says where
            weight = weight * scale[:, None, None, None]
    return np.ascontiguousarray(weight)


def rounding(weight: np.ndarray, back: np.ndarray) -> float:
    """Largest error of any value, relative to the largest value of its filter: max_k (max |back-w| / max |w|)."""
    largest = np.abs(weight).max(axis=(1, 2, 3))
    error = np.abs(back - weight).max(axis=(1, 2, 3))
    return float((error[largest > 0] / largest[largest > 0]).max(initial=0.0))
