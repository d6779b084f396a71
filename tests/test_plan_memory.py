"""The memory that a plan foresees is what a process of its own then takes, to a tenth.

This file is also that process: `python test_plan_memory.py CASE` prints what was foreseen and what was taken.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nstcore import stylize
from nstcore.engines.cpu import library
from nstcore.engines.memory import held_memory
from nstcore.transfer.preview import estimate

ONE_SIZE = {"ladder": "off", "iterations": 2}  # a third would take no more
LBFGS = {"ladder": "off", "iterations": 24, "optimizer": "lbfgs"}  # as many as fill a history of 20
# size, options, what else
CASES = {
    "adam, 256": (256, ONE_SIZE, {}),
    "adam, 512": (512, ONE_SIZE, {}),
    "adam, 1024": (1024, ONE_SIZE, {}),
    "lbfgs, 256": (256, LBFGS, {}),
    "lbfgs, 512": (512, LBFGS, {}),
    "lbfgs, 1024": (1024, LBFGS, {}),
    "ladder": (512, {"iterations": 2}, {}),
    "ladder, lbfgs": (512, {"iterations": 30, "optimizer": "lbfgs"}, {}),
    "pyramid": (1024, {"iterations": 2}, {}),
    "pyramid, one size": (704, ONE_SIZE, {}),
    "a larger style": (256, {**ONE_SIZE, "style_scale": 2.5}, {}),
    "two regions": (384, ONE_SIZE, {"regions": True}),
    "protect": (384, ONE_SIZE, {"protect": True}),
    "low": (1024, {**ONE_SIZE, "memory": "low", "pyramid": "off"}, {}),
    "low, pyramid": (704, {**ONE_SIZE, "memory": "low"}, {}),
    "low, a larger style": (256, {**ONE_SIZE, "memory": "low", "style_scale": 2.5}, {}),
    "low, two regions": (512, {**ONE_SIZE, "memory": "low"}, {"regions": True}),
    "w2": (256, {**ONE_SIZE, "style_loss": "w2"}, {}),
    "numpy, adam, 256": (256, ONE_SIZE, {"kernels": library.NUMPY}),
    "numpy, adam, 512": (512, ONE_SIZE, {"kernels": library.NUMPY}),
    "numpy, lbfgs, 256": (256, LBFGS, {"kernels": library.NUMPY}),
    "numpy, low": (512, {**ONE_SIZE, "memory": "low"}, {"kernels": library.NUMPY}),
    "numpy, two regions": (256, ONE_SIZE, {"kernels": library.NUMPY, "regions": True}),
    "the book": (128, {**ONE_SIZE, "device": "reference"}, {}),
}
# One of each kind (a ladder ends as a run of one size); `PYTHONPATH=. python tests/test_plan_memory.py` measures all
MEASURED = [
    "lbfgs, 256",
    "ladder",
    "pyramid, one size",
    "low, pyramid",
    "a larger style",
    "two regions",
    "protect",
    "numpy, adam, 256",
]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process: Linux only")
@pytest.mark.parametrize("case", MEASURED)
def test_the_peak_is_foreseen_to_a_tenth(case):
    foreseen, taken = _in_a_process(case)
    assert foreseen == pytest.approx(taken, rel=0.1)


def _in_a_process(case: str) -> tuple[int, int]:
    _, _, more = CASES[case]
    environment = {name: value for name, value in os.environ.items() if name != library.VARIABLE}
    if "kernels" in more:
        environment[library.VARIABLE] = more["kernels"]
    paths = [str(Path(__file__).resolve().parents[1]), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    command = [sys.executable, __file__, case]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return found["foreseen"], found["taken"]


def _process(case: str) -> None:
    size, options, more = CASES[case]
    rng = np.random.default_rng(0)
    content, *styles = (rng.integers(0, 256, (size * 3 // 4, size, 3), np.uint8) for _ in range(3))
    given = {"weights": "builtin", "device": "cpu", "size": size, **options}
    left = np.zeros(content.shape[:2], np.float32)
    left[:, : size // 2] = 1
    if "regions" in more:
        given["regions"] = [(left, []), (1 - left, [])]
    else:
        del styles[1]
    if "protect" in more:
        given["protect"] = left
    foreseen = estimate(content, styles, calibrate=False, **given).plan.peak
    stylize(content, styles, **given)
    held = held_memory()
    assert held is not None
    print(json.dumps({"foreseen": foreseen, "taken": held[1]}))


if __name__ == "__main__":
    if sys.argv[1:]:
        _process(sys.argv[1])
    else:
        for name in CASES:
            expected, found = _in_a_process(name)
            print(
                f"{name:<22}{expected / 1e6:>9.0f} MB foreseen{found / 1e6:>9.0f} MB taken{expected / found:>7.3f}",
                flush=True,
            )
