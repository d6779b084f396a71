"""What `--cluster` names, and the library that speaks to it."""

from __future__ import annotations

import json
import logging
import os
import re
from dataclasses import dataclass
from typing import Any

from ...errors import DeviceError, OptionError

LOCAL = re.compile(r"local:([0-9]{1,3})")
ADDRESS = re.compile(r"(tcp|tls)://(\[[0-9A-Fa-f:.%a-z]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")
NO_PAGE = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}  # the library opens a port for it all the same
SCHEDULER = "tcp://HOST:PORT or tls://HOST:PORT (a scheduler), or a scheduler file"
EXPECTED = f"local:N (N workers on this machine), {SCHEDULER}"


@dataclass(frozen=True)
class Place:
    """Where a cluster is: so many workers of our own, or the address of a scheduler."""

    workers: int = 0
    address: str = ""


def read_place(text: str) -> Place:
    """What a text stands for.

    Raises
    ------
    OptionError
        If that is nothing that there is.
    """
    if found := LOCAL.fullmatch(text):
        count = int(found[1])
        if count < 1:
            raise OptionError(f"cluster: expected local:N with 1 worker or more, got {text!r}")
        return Place(workers=count)
    if text.startswith("local:") or "://" in text:
        return Place(address=_checked(text, "cluster", EXPECTED))
    return Place(address=_checked(_in_file(text, "cluster", EXPECTED), f"cluster: {text}", SCHEDULER))


def read_address(text: str, name: str) -> str:
    """The address of a scheduler, given as such or as a scheduler file; `OptionError` if it is neither."""
    return _checked(text if "://" in text else _in_file(text, name, SCHEDULER), name, SCHEDULER)


def _checked(text: str, name: str, expected: str) -> str:
    found = ADDRESS.fullmatch(text)
    if not found or not 0 < int(found[3]) < 1 << 16:
        raise OptionError(f"{name}: expected {expected}, got {text!r}")
    return text


def _in_file(path: str, name: str, expected: str) -> str:
    """The address in a scheduler file: JSON, as `dask scheduler --scheduler-file` writes it."""
    if not os.path.isfile(path):
        raise OptionError(f"{name}: expected {expected}, got {path!r}, which is no file")
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError):
        found = None
    address = found.get("address") if isinstance(found, dict) else None
    if not isinstance(address, str):
        raise OptionError(f"{name}: {path}: expected a scheduler file (JSON with an address), got another one")
    return address


def library() -> Any:
    """The module `distributed`, silent from now on: what a person should know is said in our own words.

    Raises
    ------
    DeviceError
        If it is not installed.
    """
    try:
        import distributed
    except ImportError:
        raise DeviceError(
            'cluster: expected the library distributed, found none; install it: pip install "nstcore[cluster]"'
        ) from None
    for name in ("distributed", *logging.root.manager.loggerDict):
        if name.split(".")[0] == "distributed":
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    return distributed


def hushed(owner: Any) -> Any:
    """The owner of an event loop, whose loop says nothing of what was left unfinished when something died."""
    owner.loop.asyncio_loop.set_exception_handler(lambda loop, context: None)
    return owner


def our_way() -> Any:
    """A block in which servers of the library are as we want them: no pages for a browser, no statistical profiler
    beside the tasks; and a worker that is silent for a minute or two (its machine has gone) is none."""
    import dask

    return dask.config.set(
        {
            "distributed.worker.profile.enabled": False,
            "distributed.scheduler.worker-ttl": "1 minute",
            "distributed.scheduler.http.routes": [],
            "distributed.worker.http.routes": [],
        }
    )
