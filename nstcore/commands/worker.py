"""`worker`: a process that computes tiles for `run --cluster`, or the scheduler between them."""

from __future__ import annotations

import argparse
import re

from ..errors import INTERRUPTED, OptionError, Stopped
from .options import OPTIONS
from .progress import tell
from .sources import read

_LISTEN = re.compile(r"(?:([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):)?([0-9]{1,5})")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register `worker`."""
    parser = subparsers.add_parser(
        "worker",
        help="compute tiles for `run --cluster` on this machine",
        description="Compute tiles for `run --cluster ADDRESS` until the scheduler there ends, or Ctrl-C. One process "
        "for each GPU, or for each machine without one. With --scheduler: be the scheduler between the workers and the "
        "run. Whoever can reach a scheduler can run programs on it and on its workers: keep it on the loopback address "
        "(the default; every user of this machine reaches it), or inside a network that is trusted. It speaks tcp://, "
        "without encryption; for tls:// start Dask's own scheduler, with certificates in Dask's configuration.",
    )
    parser.set_defaults(run=run)
    add = parser.add_argument
    add("address", nargs="?", metavar="ADDRESS", help="tcp://HOST:PORT (or tls:) of the scheduler, or a scheduler file")
    add(
        "--scheduler",
        metavar="[HOST:]PORT",
        help="be a scheduler that listens there (default of HOST: 127.0.0.1, this machine alone); 0: a free port",
    )
    add("--device", default="auto", metavar="NAME", help=OPTIONS["device"].describe())
    add("--threads", metavar="N", help="of the CPU (default: all cores)")
    add("--quiet", action="store_true", help="print nothing but errors")


def run(args: argparse.Namespace) -> int:
    """Serve until there is no more to serve; Ctrl-C is the way to end it."""
    from ..engines.cluster import serve

    threads = None if args.threads is None else read(OPTIONS["threads"], args.threads, "--threads")
    device = read(OPTIONS["device"], args.device, "--device")

    def say(line: str) -> None:
        if not args.quiet:
            tell(line)

    if (args.address is None) == (args.scheduler is None):
        given = "both" if args.address is not None else "neither"
        raise OptionError(f"worker: expected ADDRESS or --scheduler, got {given}")
    try:
        if args.scheduler is not None:
            found = _LISTEN.fullmatch(args.scheduler)
            if not found or int(found[2]) >= 1 << 16:
                raise OptionError(f"--scheduler: expected [HOST:]PORT, got {args.scheduler!r}")
            serve.schedule(found[1] or "127.0.0.1", int(found[2]), say)
        else:
            serve.work(args.address, device, threads, say)
    except KeyboardInterrupt as end:
        say(
            "interrupted: the scheduler has ended" if args.scheduler is not None else "interrupted: the worker has left"
        )
        return end.exit_code if isinstance(end, Stopped) else INTERRUPTED
    return 0
