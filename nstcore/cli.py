"""The command line: the parser and the exit codes. What a command does is in `nstcore.commands`.

Exit codes: 0 done; 1 the run failed; 2 usage or bad input, one line on stderr; 130 interrupted (Ctrl-C), 143
(SIGTERM), 129 (SIGHUP).
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

from .commands import (
    ablate,
    bench,
    check,
    explain,
    fast,
    features,
    reconstruct,
    rerun,
    run,
    sweep,
    texture,
    weights,
    worker,
)
from .commands.ends import Ends
from .commands.progress import tell
from .errors import INTERRUPTED, NstcoreError, Stopped
from .version import __version__

_LONGEST = 600  # characters of a message

COMMANDS = (run, fast, rerun, sweep, ablate, reconstruct, texture, features, explain, check, bench, weights, worker)


class _Parser(argparse.ArgumentParser):
    """One line for a wrong option, instead of the whole usage."""

    def error(self, message: str) -> NoReturn:
        if found := re.match(r"ambiguous option: --(content|style)\b", message):
            message = f"--{found[1]}: expected the pictures without options before them, CONTENT STYLE"
        self.exit(2, f"{self.prog}: {_line(message)} (see {self.prog} --help)\n")


def parser() -> argparse.ArgumentParser:
    """The whole command line. Nothing heavy is imported for it."""
    top = _Parser(
        prog="python -m nstcore",
        description="Neural style transfer from scratch: every forward and backward pass by hand.",
    )
    top.add_argument("--version", action="version", version=f"nstcore {__version__}")
    subparsers = top.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser)
    for command in COMMANDS:
        command.add_parser(subparsers)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code."""
    args = parser().parse_args(arguments)
    try:
        with Ends():
            return args.run(args)
    except NstcoreError as error:
        _say(str(error))
        return error.exit_code
    except KeyboardInterrupt as end:
        _say("interrupted before there was anything to keep")
        return end.exit_code if isinstance(end, Stopped) else INTERRUPTED
    except MemoryError:
        _say("not enough memory; take a smaller --size, or --fit")
        return 1
    except BrokenPipeError:
        # The reader of our output has gone (a pager, head): nothing more can be said, not even at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _say(message: str) -> None:
    tell(f"nstcore: {_line(message)}")


def _line(message: str) -> str:
    """A message as one line that a terminal may show, whatever names and values a file or a person put into it."""
    text = " ".join(message.split())
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST * 2 // 3]} ... {text[-_LONGEST // 3 :]}"
