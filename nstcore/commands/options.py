"""Every option of a transfer, once: command lines, settings files, jobs, sweeps and recipes all follow from this table.

The defaults are those of `nstcore.stylize` and the words those of the engines and the objective; written out because
--help must not wait for numpy and h5py, and compared with them by a test.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .kinds import Flag, Regions
from .machine_options import MACHINE
from .option import Option
from .picture_options import PICTURE

GROUPS: dict[str, tuple[Option, ...]] = {**PICTURE, **MACHINE}

OPTIONS: dict[str, Option] = {option.name: option for group in GROUPS.values() for option in group}


def add_options(
    parser: argparse.ArgumentParser,
    names: tuple[str, ...] = tuple(OPTIONS),
    defaults: Mapping[str, Any] | None = None,
) -> None:
    """Put options into a parser, grouped. Their texts are read later (see `settings.from_arguments`); what was not
    given is None there. `defaults` are those that a command has instead of the table's, for --help."""
    own = {name: replace(OPTIONS[name], default=value, default_text="") for name, value in (defaults or {}).items()}
    for title, options in GROUPS.items():
        chosen = [own.get(option.name, option) for option in options if option.name in names]
        group = parser.add_argument_group(title) if chosen else None
        for option in chosen:
            assert group is not None
            if isinstance(option.kind, Flag):
                group.add_argument(option.flag, action=argparse.BooleanOptionalAction, help=option.describe())
            else:
                action = "append" if isinstance(option.kind, Regions) else "store"
                group.add_argument(option.flag, action=action, metavar=option.metavar, help=option.describe())
