"""What an option of a transfer is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .kinds import Kind, show


@dataclass(frozen=True)
class Option:
    """One option.

    Attributes
    ----------
    name : str
        In settings files, with underscores or dashes; on the command line "--" and the name with dashes.
    kind : Kind
        What its value may be.
    default : any
        In the form of the Python API; None where something else decides, which `default_text` then names.
    metavar, help, unit : str
        For --help.
    scope : {"picture", "machine", "file", "safety", "recipe"}
        What it decides: the picture; where it is computed; how it is written; what else is kept; or other options.
    keyword : str
        Its name in the Python API, if that is another.
    """

    name: str
    kind: Kind
    default: Any
    metavar: str
    help: str
    unit: str = ""
    scope: str = "picture"
    default_text: str = ""
    keyword: str = ""

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def api_name(self) -> str:
        return self.keyword or self.name

    def describe(self) -> str:
        """Help with the unit and the default."""
        default = self.default_text or show(self.default)
        return f"{self.help}{f', in {self.unit}' if self.unit else ''} (default: {default})".replace("%", "%%")
