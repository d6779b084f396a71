"""The command line: see __init__.py."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


def under(command: Any) -> Any:
    """The command line of a child: a Python of ours comes under this tool, too."""
    if isinstance(command, str | bytes | os.PathLike) or not command or os.fspath(command[0]) != sys.executable:
        return command
    words, i = [os.fspath(word) for word in command], 1
    while i < len(words) and words[i].startswith("-") and words[i] not in ("-m", "-c", "-"):
        i += 2 if words[i] in ("-X", "-W") else 1
    if i == len(words) or words[i] in ("-", str(HERE)):
        return command
    return [*words[:i], str(HERE), "--quiet", *words[i:]]


class Popen(subprocess.Popen):
    def __init__(self, args: Any, *more: Any, **options: Any) -> None:
        super().__init__(under(args), *more, **options)


def main(argv: Sequence[str] | None = None) -> int:
    program = list(sys.argv[1:] if argv is None else argv)
    if quiet := program[:1] == ["--quiet"]:  # a child: what it writes last may be its reason
        del program[0]
    if not program or program[0] in ("-h", "--help") or program in (["-m"], ["-c"]):
        import cupy_on_cpu

        print(cupy_on_cpu.__doc__)
        return 0 if program[:1] in (["-h"], ["--help"]) else 2
    from cupy_on_cpu import capsules

    sys.path.insert(1, str(ROOT))
    try:
        capsules.install()
    except capsules.OtherCuPy as error:
        print(error, file=sys.stderr)
        return 2
    from nstcore.engines.cuda import gpu, on_cpu

    if problem := on_cpu.problem() or gpu.problem():
        print(problem, file=sys.stderr)
        return 2
    subprocess.Popen = Popen  # type: ignore[misc]
    try:
        _run(program)
    finally:
        if not quiet:
            said = ", ".join(f"{name} {count}" for name, count in sorted(capsules.calls.items()))
            print(f"cupy-on-cpu: no rule was broken; asked of CUDA: {said}", file=sys.stderr)
    return 0


def _run(program: list[str]) -> None:
    """As `python PROGRAM...` would."""
    kind, rest = (program[0], program[1:]) if program[0] in ("-m", "-c") else ("", program)
    if kind == "-c":
        sys.argv[:], sys.path[0] = ["-c", *rest[1:]], ""
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__", "__builtins__": __builtins__})
    elif kind == "-m":
        sys.argv[:], sys.path[0] = rest, str(Path.cwd())
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv[:], sys.path[0] = rest, str(Path(rest[0]).resolve().parent)
        runpy.run_path(rest[0], run_name="__main__")


if __name__ == "__main__":
    sys.path[0] = str(HERE.parent)  # not this folder: its names are none to import
    sys.exit(main())
