"""Where kernels are tested: on the CPU in three thread orders, and on a GPU where there is one."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable

import numpy as np
import pytest

from nstcore.engines.cuda import gpu, on_cpu, source, tiles
from nstcore.engines.cuda.device import Device
from nstcore.engines.cuda.precision import FLOAT32, Precision, from_elements, to_elements

ORDERS = ("ascending", "descending", "random")


class Machine:
    """One or more devices that must give the same bits."""

    def __init__(self, devices: list[Device]) -> None:
        self.devices = devices

    def check(self, run: Callable[[Device], np.ndarray | tuple[np.ndarray, ...]]):
        """What `run` returns, after it gave the same bits on every device."""
        first, *others = ([np.asarray(a) for a in _several(run(d))] for d in self.devices)
        for other in others:
            for a, b in zip(first, other, strict=True):
                assert a.dtype == b.dtype
                assert a.shape == b.shape
                assert a.tobytes() == b.tobytes(), "the result depends on the order of the threads: a race"
        return first[0] if len(first) == 1 else tuple(first)


def _several(result):
    return result if isinstance(result, tuple) else (result,)


@pytest.fixture(params=["on-cpu", pytest.param("gpu", marks=pytest.mark.gpu)])
def machine(request) -> Machine:
    """Every thread order of the CPU's stand-in; on a GPU, the same launch twice."""
    return _machine(request.param)


@pytest.fixture(params=["on-cpu", pytest.param("gpu", marks=pytest.mark.gpu)])
def machine_unoptimised(request) -> Machine:
    """The same, the stand-in's kernels as in `unoptimised`."""
    return _machine(request.param, "debug")


def _machine(kind: str, build: str = "fast") -> Machine:
    if kind == "on-cpu":
        return _stand_in(build)
    if problem := gpu.problem():
        pytest.skip(problem)
    return Machine([gpu.GpuDevice()] * 2)


@pytest.fixture
def stand_in() -> Machine:
    """The CPU's stand-in alone: for kernels with a planted bug, which a GPU may or may not show."""
    return _stand_in()


@pytest.fixture
def unoptimised() -> Machine:
    """The same for kernels that run once or twice: what takes the time is the compiler, which now needs half of it."""
    return _stand_in("debug")


def _stand_in(build: str = "fast") -> Machine:
    if problem := on_cpu.problem():
        pytest.skip(problem)
    return Machine([on_cpu.OnCpuDevice(order, build) for order in ORDERS])


@pytest.fixture
def tiles_json(tmp_path, monkeypatch):
    """Writes kernels/tiles.json, elsewhere: text, or what is to be JSON; says where."""
    path = tmp_path / "tiles.json"
    monkeypatch.setattr(tiles, "file", lambda: path)

    def write(content) -> str:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        tiles.measured.cache_clear()
        return str(path)

    yield write
    tiles.measured.cache_clear()


def elements(device: Device, a: np.ndarray, precision: Precision = FLOAT32):
    """An array of elements on the device."""
    return device.to_device(to_elements(a, precision))


def unwritten(device: Device, shape, dtype):
    """An array on the device in which everything is NaN."""
    a = device.empty(shape, dtype)
    device.fill_bytes(a, 255)
    return a


def floats(device: Device, a, precision: Precision = FLOAT32) -> np.ndarray:
    """What an array of elements holds, as float32."""
    return from_elements(device.to_host(a), precision)


def plant(monkeypatch, name: str, there: str, planted: str) -> None:
    """Put a bug into a rung, or into a header of its own copy."""
    read, sound = source.read, source.read(name)
    assert sound.text.count(there) + sum(text.count(there) for text in sound.headers.values()) == 1
    headers = {header: text.replace(there, planted) for header, text in sound.headers.items()}
    broken = dataclasses.replace(sound, text=sound.text.replace(there, planted), headers=headers)
    monkeypatch.setattr(source, "read", lambda asked: broken if asked == name else read(asked))


def notices(bug: str, check: Callable[[], object]) -> None:
    """The check fails; for the bug "nothing" it passes."""
    if bug == "nothing":
        check()
    else:
        with pytest.raises(AssertionError):
            check()
