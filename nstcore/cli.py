"""The command line: the parser and the exit codes. What a command does is in `nstcore.commands`.

Exit codes: 0 done; 1 the run failed; 2 usage or bad input, one line on stderr; 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from .commands import rerun, run, sweep, weights
from .errors import INTERRUPTED, NstcoreError
from .version import __version__

COMMANDS = (run, rerun, sweep, weights)


class _Parser(argparse.ArgumentParser):
    """One line for a wrong option, instead of the whole usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {' '.join(message.split())} (see {self.prog} --help)\n")


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
        return args.run(args)
    except NstcoreError as error:
        _say(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        _say("interrupted before there was anything to keep")
        return INTERRUPTED
    except MemoryError:
        _say("not enough memory; take a smaller --size, or --fit")
        return 1
    except BrokenPipeError:
        # The reader of our output has gone (a pager, head): nothing more can be said, not even at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _say(message: str) -> None:
    print(f"nstcore: {' '.join(message.split())}", file=sys.stderr)
