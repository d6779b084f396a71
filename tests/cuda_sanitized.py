"""Python with a sanitizer in its process, for kernels that are built with it.

    from cuda_sanitized import run_sanitized

    SCRIPT = '''
    import numpy as np
    from nstcore.engines.cuda.on_cpu import OnCpuDevice

    device = OnCpuDevice(build=BUILD)          # BUILD: "asan" or "tsan", as it was called
    x = device.to_device(np.ones(10, np.float32))
    device.kernel("pool/01_direct", "pool_forward")(1, 32, x, ...)
    print("done")
    '''

    @pytest.mark.parametrize("build", ["asan", "tsan"])
    def test_no_kernel_leaves_its_memory_or_races(build):
        done = run_sanitized(build, SCRIPT)
        assert (done.returncode, done.stdout) == (0, "done\\n"), done.stderr

A mistake ends the script with another exit code, and done.stderr names the line of the .cu file: "AddressSanitizer:
heap-buffer-overflow", "runtime error: shift exponent 40", "ThreadSanitizer: data race". Where the sanitizer is missing,
or cannot run, the test is skipped with the reason. The script may import nstcore and what lies in tests.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from nstcore.engines.cuda import on_cpu, on_cpu_build

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = {"asan": "libasan.so", "tsan": "libtsan.so"}
SAME_ADDRESSES = 0x0040000  # ADDR_NO_RANDOMIZE of <sys/personality.h>: ThreadSanitizer wants its places in memory


def run_sanitized(build: str, script: str, timeout: float = 300) -> subprocess.CompletedProcess:
    """Run `script` in a Python that has the sanitizer of `build` ("asan" or "tsan") loaded first."""
    done = subprocess.run(
        [sys.executable, "-c", f"BUILD = {build!r}\n" + textwrap.dedent(script)],
        env=os.environ
        | {
            "LD_PRELOAD": sanitizer(build),
            "ASAN_OPTIONS": "detect_leaks=0",  # Python's own
            "UBSAN_OPTIONS": "print_stacktrace=1",
            "TSAN_OPTIONS": "halt_on_error=1",
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests"))),
        },
        preexec_fn=_same_addresses if build == "tsan" else None,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("ThreadSanitizer cannot run under this kernel's address space randomisation")
    return done


def sanitizer(build: str) -> str:
    """Path of the sanitizer's library; skips the test if there is none."""
    if reason := on_cpu.problem():
        pytest.skip(reason)
    name = LIBRARIES[build]
    path = subprocess.run(
        [*on_cpu_build.compiler(), f"-print-file-name={name}"], capture_output=True, text=True, check=True
    ).stdout.strip()
    if not Path(path).is_file():
        pytest.skip(f"the C++ compiler has no {name} here")
    return path


def _same_addresses() -> None:
    ctypes.CDLL(None).personality(SAME_ADDRESSES)
