"""Build of nstcore. The top-level folders `kernels` and `weights` hold data; a wheel carries them in the package, and
with them what runs CUDA kernels on a CPU.

The native CPU kernels (kernels/cpu/*.c) become one library per instruction set, beside nstcore/engines/cpu. They are
loaded by ctypes, so neither Python's headers nor its ABI matter, and they are optional: without a working compiler the
installation goes on, and the `cpu` engine computes in its NumPy form. CC names the compiler, NSTCORE_CFLAGS adds to its
flags.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from setuptools import Command, Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.dist import Distribution
from setuptools.errors import CCompilerError, CompileError

ROOT = Path(__file__).resolve().parent
DATA = {  # folders that a wheel carries inside the package
    "nstcore._cuda_on_cpu": "tools/cuda_on_cpu",
    "nstcore._kernels": "kernels",
    "nstcore._weights": "weights",
}
SOURCES = Path("kernels/cpu")
FLAGS = ["-std=c11", "-O3", "-fPIC", "-fvisibility=hidden", "-ffp-contract=fast", "-Wall", "-Wextra", "-pthread", "-g0"]
INSTRUCTIONS = {
    "baseline": [],
    "avx2": ["-mavx2", "-mfma"],
    "avx512": ["-mavx512f", "-mavx512vl", "-mavx512dq", "-mfma", "-mprefer-vector-width=512"],
}


def instruction_sets() -> list[str]:
    """Those that a compiler for this machine knows."""
    return list(INSTRUCTIONS) if platform.machine().lower() in ("x86_64", "amd64") else ["baseline"]


def build_hash() -> str:
    """Of the kernels' sources: a library that was built from others is not loaded (see engines/cpu/library.py)."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / SOURCES).glob("*.[ch]")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


@contextmanager
def stderr_in(log: IO[str]) -> Iterator[None]:
    """What this process and the compilers that it runs write to standard error goes into a file."""
    sys.stderr.flush()
    kept = os.dup(2)
    os.dup2(log.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)


class BuildKernels(build_ext):
    """Compiles each library. They are optional: setuptools says which was not built and why, and goes on."""

    def build_extension(self, ext: Extension) -> None:
        with tempfile.TemporaryFile("w+", errors="replace") as log:
            failure = None
            try:
                with stderr_in(log):
                    self.compile_and_link(ext)
            except CCompilerError as error:
                failure = error
            log.seek(0)
            said = log.read()
        if failure is None:
            sys.stderr.write(said)  # warnings
            return
        reasons = [line for line in said.splitlines() if "error" in line] or [str(failure)]
        raise CompileError(reasons[0].strip()) from failure

    def compile_and_link(self, ext: Extension) -> None:
        extra = os.environ.get("NSTCORE_CFLAGS", "").split()
        objects = self.compiler.compile(
            ext.sources,
            output_dir=f"{self.build_temp}/{ext.name.rpartition('_')[2]}",
            macros=ext.define_macros,
            extra_postargs=[*FLAGS, *ext.extra_compile_args, *extra],
            depends=ext.depends,
        )
        self.compiler.link_shared_object(objects, self.get_ext_fullpath(ext.name), extra_postargs=["-pthread", *extra])

    def get_ext_filename(self, name: str) -> str:
        """Without the tag of a Python: ctypes loads it into any."""
        return f"{name.replace('.', os.sep)}.so"


class KernelDistribution(Distribution):
    """A wheel for this platform, for any Python 3."""

    def has_ext_modules(self) -> bool:
        return True

    def get_command_class(self, command: str) -> type[Command]:
        found = super().get_command_class(command)
        if command != "bdist_wheel":
            return found

        class PlatformWheel(found):  # setuptools' own, or in older ones that of `wheel`
            def get_tag(self) -> tuple[str, str, str]:
                return "py3", "none", super().get_tag()[2]

        return PlatformWheel


sources = sorted(str(p.relative_to(ROOT)) for p in (ROOT / SOURCES).glob("*.c"))
headers = sorted(str(p.relative_to(ROOT)) for p in (ROOT / SOURCES).glob("*.h"))

setup(
    distclass=KernelDistribution,
    cmdclass={"build_ext": BuildKernels},
    ext_modules=[
        Extension(
            f"nstcore.engines.cpu.libnst_{name}",
            sources,
            depends=headers,
            define_macros=[("NST_BUILD", f'"{build_hash()}"')],
            extra_compile_args=INSTRUCTIONS[name],
            optional=True,
        )
        for name in instruction_sets()
    ],
    packages=[*find_packages(include=["nstcore", "nstcore.*"]), *DATA],
    package_dir=DATA,
    package_data={
        "nstcore": ["py.typed", "examples/*", "recipes/*.toml"],
        "nstcore.report": ["*.html", "*.css", "*.js"],
        "nstcore._cuda_on_cpu": ["*.md", "*.h"],
        "nstcore._kernels": ["*.md", "*.json", "cpu/*.[ch]", "cuda/*.cuh", "cuda/*/*.cu", "cuda/*/*.cuh"],
        "nstcore._weights": ["*.md", "*.h5", "*.toml"],
    },
)
