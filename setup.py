"""Build of nstcore. The top-level folders `kernels` and `weights` hold data; a wheel carries them in the package.

The native CPU kernels (kernels/cpu/*.c) become one library per instruction set, beside nstcore/engines/cpu. They are
loaded by ctypes, so neither Python's headers nor its ABI matter, and they are optional: without a working compiler the
installation goes on, and the `cpu` engine computes in its NumPy form.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.dist import Distribution

ROOT = Path(__file__).resolve().parent
SOURCES = Path("kernels/cpu")
FLAGS = ["-std=c11", "-O3", "-fPIC", "-fvisibility=hidden", "-ffp-contract=fast", "-Wall", "-Wextra", "-pthread"]
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


class BuildKernels(build_ext):
    """Compiles each library; where that fails, says so and goes on."""

    def build_extension(self, ext: Extension) -> None:
        extra = os.environ.get("NSTCORE_CFLAGS", "").split()  # such as -fsanitize=address
        try:
            objects = self.compiler.compile(
                ext.sources,
                output_dir=f"{self.build_temp}/{ext.name.rpartition('_')[2]}",
                macros=ext.define_macros,
                extra_postargs=[*FLAGS, *ext.extra_compile_args, *extra],
                depends=ext.depends,
            )
            Path(self.get_ext_fullpath(ext.name)).parent.mkdir(parents=True, exist_ok=True)
            self.compiler.link_shared_object(
                objects, self.get_ext_fullpath(ext.name), extra_postargs=["-pthread", *extra]
            )
        except Exception as error:  # whatever a missing or foreign compiler raises
            print(
                f"nstcore: {ext.name.rpartition('.')[2]} was not built ({error}); the cpu engine will do without it",
                file=sys.stderr,
            )

    def get_ext_filename(self, name: str) -> str:
        return f"{name.replace('.', os.sep)}.so"

    def copy_extensions_to_source(self) -> None:
        """For an editable installation: only what was built."""
        built, self.extensions = (
            self.extensions,
            [e for e in self.extensions if Path(self.build_lib, self.get_ext_filename(e.name)).exists()],
        )
        super().copy_extensions_to_source()
        self.extensions = built


class KernelDistribution(Distribution):
    """A wheel for this platform, for any Python."""

    def has_ext_modules(self) -> bool:
        return True


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
        )
        for name in instruction_sets()
    ],
    packages=[*find_packages(include=["nstcore", "nstcore.*"]), "nstcore._kernels", "nstcore._weights"],
    package_dir={"nstcore._kernels": "kernels", "nstcore._weights": "weights"},
    package_data={
        "nstcore": ["py.typed", "examples/*"],
        "nstcore._kernels": ["*.md", "cpu/*.[ch]"],
        "nstcore._weights": ["*.md", "*.h5", "*.toml"],
    },
)
