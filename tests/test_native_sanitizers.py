"""The native kernels under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from nstcore.engines.cpu import library

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("gcc") is None, reason="the sanitized kernels are built with gcc, which is not here"
    ),
]
# Registers allocated without regard to loops: what the sanitizers make of the first convolution takes 20 s otherwise
QUICK = "-O1 -fira-region=one"
MEMORY = f"{QUICK} -g1 -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer"
# One source for all: the widest vectors that are here, and the narrowest
DRIVEN = list(dict.fromkeys([*library.available()[:1], "baseline"]))
# One buffer of each kind: features, work space, the prepared picture, packed filters, a Gram matrix, what guides need;
# and of single layers
SHORT = ["relu1_1", "work", "planes", "conv1_2:forward", "relu2_1:gram", "extra"]
SHORT += ["layer:maps", "layer:work", "layer:filters"]


def sanitizer(name: str) -> str:
    """Path of a sanitizer's run-time library."""
    path = subprocess.run(
        ["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True
    ).stdout.strip()
    if not Path(path).is_file():
        pytest.skip(f"gcc has no {name} here")
    return path


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory):
    """Folder of the libraries, built with the flags of setup.py, and the sanitizers."""
    sanitizer("libasan.so")
    folder = tmp_path_factory.mktemp("sanitized")
    statements = ast.parse((ROOT / "setup.py").read_text()).body
    given = {s.targets[0].id: s.value for s in statements if isinstance(s, ast.Assign)}
    flags, sets = (ast.literal_eval(given[name]) for name in ("FLAGS", "INSTRUCTIONS"))
    sources = sorted((ROOT / "kernels" / "cpu").glob("*.c"))
    for name in DRIVEN:
        command = ["gcc", *flags, *sets[name], *MEMORY.split(), "-shared", '-DNST_BUILD="sanitized"', *sources]
        subprocess.run([*command, "-o", folder / f"libnst_{name}.so"], check=True)
    return folder


def drive(folder, instructions, *arguments):
    if instructions not in library.available():
        pytest.skip(f"the {instructions} kernels are not built, or not for this machine")
    path = folder / f"libnst_{instructions}.so"
    assert path.is_file(), "gcc did not build it with the sanitizers"
    return subprocess.run(
        [sys.executable, ROOT / "tests" / "native_driver.py", path, instructions, *arguments],
        env=os.environ
        | {
            "LD_PRELOAD": sanitizer("libasan.so"),
            "ASAN_OPTIONS": "detect_leaks=0",  # Python's own
            "UBSAN_OPTIONS": "print_stacktrace=1",
            "PYTHONPATH": str(ROOT),
        },
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("instructions", DRIVEN)
def test_no_kernel_leaves_its_buffers_or_the_language(sanitized, instructions):
    done = drive(sanitized, instructions)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    assert "runtime error" not in done.stderr


@pytest.mark.parametrize("short", SHORT)
def test_a_buffer_that_is_too_short_is_noticed(sanitized, short):
    done = drive(sanitized, "baseline", short)
    assert done.returncode != 0
    assert "AddressSanitizer: heap-buffer-overflow" in done.stderr
    assert "kernels/cpu/" in done.stderr


@pytest.fixture(scope="module")
def threaded(tmp_path_factory):
    """The driver in C, kernels and all, under ThreadSanitizer."""
    sanitizer("libtsan.so")
    program = tmp_path_factory.mktemp("threaded") / "driver"
    flags = ["-mavx2", "-mfma"] if "avx2" in library.available() else []
    kernels = ROOT / "kernels" / "cpu"
    flags += [
        "-std=c11",
        *QUICK.split(),
        "-g",
        "-fsanitize=thread",
        "-ffp-contract=fast",
        "-pthread",
        "-Wall",
        "-Wextra",
        "-Werror",
    ]
    sources = [*sorted(kernels.glob("*.c")), ROOT / "tests" / "native_driver.c"]
    command = ["gcc", *flags, '-DNST_BUILD="sanitized"', f"-I{kernels}", *sources, "-lm", "-o", program]
    subprocess.run(command, check=True)
    return program


def race(*command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("ThreadSanitizer cannot run under this kernel's address space randomisation")
    return done


def test_no_kernel_races_and_threads_do_not_change_a_bit(threaded):
    done = race(threaded)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_a_race_is_noticed(threaded):
    for _ in range(3):  # ThreadSanitizer forgets what lies far back
        done = race(threaded, "race")
        if done.returncode:
            break
    assert done.returncode != 0
    assert "ThreadSanitizer: data race" in done.stderr
