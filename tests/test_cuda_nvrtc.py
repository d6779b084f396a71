"""NVIDIA's compiler is found, and loaded with what belongs to it."""

from __future__ import annotations

import ctypes
import subprocess

import pytest

from nstcore.engines.cuda import nvrtc, on_cpu_build

LIBRARY = """
int nvrtcVersion(int* major, int* minor) { *major = 99; *minor = 7; return 0; }
int nvrtcGetNumSupportedArchs(int* count) { *count = 1; return 0; }
int nvrtcGetSupportedArchs(int* found) { *found = 90; return 0; }
const char* nvrtcGetErrorString(int status) { return "an error"; }
"""
REST = (*nvrtc._PROGRAM, "nvrtcCreateProgram", "nvrtcDestroyProgram")
BUILTINS = "libnvrtc-builtins.so.99.7"


@pytest.mark.skipif(on_cpu_build.problem() is not None, reason=str(on_cpu_build.problem()))
def test_the_builtins_are_loaded_from_the_compilers_own_folder(tmp_path):
    """The wheels of NVRTC 13.0 have them beside the library, but say nowhere that it is to look there."""
    source = tmp_path / "nvrtc.c"
    source.write_text(LIBRARY + "".join(f"int {name}(void) {{ return 1; }}\n" for name in REST))
    for name in ("libnvrtc.so.99", BUILTINS):
        made = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", tmp_path / name, source]
        subprocess.run(made, check=True)
    with pytest.raises(OSError, match=BUILTINS):
        ctypes.CDLL(BUILTINS)
    found = nvrtc.Nvrtc(tmp_path / "libnvrtc.so.99")
    assert str(found) == "NVRTC 99.7"
    ctypes.CDLL(BUILTINS)  # as NVRTC does
