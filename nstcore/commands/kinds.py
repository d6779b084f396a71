"""What an option's value may be: one reader for the text of a command line and for the values of a TOML file.

A kind reads a value into the form that `nstcore.stylize` takes, `show` writes it as text that the same kind reads back,
and kinds that hold file names find and change them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

AUTO = "auto"
# nstcore.transfer's; --help must not wait for numpy
INITS = ("content", "noise", "style", "gray", "statistics", "fast")


class Unfit(ValueError):
    """A value that an option cannot have; `str(error)` says what was expected."""


class Kind:
    """Base: how values of one kind are read, and where file names stand in them."""

    def read(self, value: Any) -> Any:
        """The value in the form that the program works with; `Unfit` if it is none of this kind."""
        raise NotImplementedError

    def mapped(self, value: Any, change: Callable[[str], str]) -> Any:
        """The same value with `change` applied to every file name in it."""
        return value


def files(kind: Kind, value: Any) -> list[str]:
    """The names of files to be read in a value."""
    if isinstance(kind, Place):
        return []
    found: list[str] = []

    def keep(name: str) -> str:
        found.append(name)
        return name

    kind.mapped(value, keep)
    return found


def show(value: Any) -> str:
    """A value as text that its kind reads back."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.12g}"
    if isinstance(value, dict):
        return ",".join(f"{name}={show(number)}" for name, number in value.items())
    if isinstance(value, list | tuple):
        nested = any(isinstance(item, list | tuple) for item in value)
        return (";" if nested else ",").join(show(item) for item in value)
    return AUTO if value is None else str(value)


@dataclass(frozen=True)
class Integer(Kind):
    """A whole number of `least` or more, up to `most`."""

    least: int
    most: int | None = None

    def read(self, value: Any) -> int:
        try:
            number = int(value) if isinstance(value, str) else value
        except ValueError:
            number = None
        if isinstance(number, bool) or not isinstance(number, int) or number < self.least:
            raise Unfit(self._expected())
        if self.most is not None and number > self.most:
            raise Unfit(self._expected())
        return number

    def _expected(self) -> str:
        return f"a whole number of {self.least} " + ("or more" if self.most is None else f"to {self.most}")


@dataclass(frozen=True)
class Among(Kind):
    """One of a few whole numbers."""

    numbers: tuple[int, ...]

    def read(self, value: Any) -> int:
        for number in self.numbers:
            if not isinstance(value, bool) and value in (number, str(number)):
                return number
        raise Unfit(" or ".join(map(str, self.numbers)))


@dataclass(frozen=True)
class Number(Kind):
    """A finite number in [least, below)."""

    least: float = 0.0
    below: float = math.inf
    positive: bool = False

    def read(self, value: Any) -> float:
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not (math.isfinite(number) and self.least <= number < self.below) or (self.positive and number == 0):
            raise Unfit(self._expected())
        return number

    def _expected(self) -> str:
        if self.positive:
            return "a number above 0"
        return f"a number of {self.least:g} or more" + ("" if self.below == math.inf else f", below {self.below:g}")


@dataclass(frozen=True)
class Choice(Kind):
    """One of a few words."""

    words: tuple[str, ...]

    def read(self, value: Any) -> str:
        if not isinstance(value, str) or value not in self.words:
            raise Unfit(f"one of {', '.join(self.words)}")
        return value


@dataclass(frozen=True)
class Flag(Kind):
    """Yes or no."""

    def read(self, value: Any) -> bool:
        if value in ("true", "false"):
            return value == "true"
        if not isinstance(value, bool):
            raise Unfit("true or false")
        return value


@dataclass(frozen=True)
class File(Kind):
    """The name of a picture."""

    def read(self, value: Any) -> str:
        if not isinstance(value, str) or not value:
            raise Unfit("the name of a picture file")
        return value

    def mapped(self, value: str, change: Callable[[str], str]) -> str:
        return change(value)


class Place(Kind):
    """The name of a file to be written."""

    def read(self, value: Any) -> str:
        if not isinstance(value, str) or not value:
            raise Unfit("the name of a file to write")
        return value

    def mapped(self, value: str, change: Callable[[str], str]) -> str:
        return change(value)


@dataclass(frozen=True)
class Text(Kind):
    """A name that is looked up later, whose message then says what there is."""

    expected: str

    def read(self, value: Any) -> str:
        if not isinstance(value, str) or not value:
            raise Unfit(self.expected)
        return value


@dataclass(frozen=True)
class OrWord(Kind):
    """A number, or one of a few words instead."""

    number: Integer | Number
    words: tuple[str, ...]
    expected: str

    def read(self, value: Any) -> Any:
        if isinstance(value, str) and value in self.words:
            return value
        try:
            return self.number.read(value)
        except Unfit:
            raise Unfit(self.expected) from None


@dataclass(frozen=True)
class Size(Kind):
    """512, "content", "short=512" or "area=2.5"."""

    def read(self, value: Any) -> int | str:
        if value == "content":
            return "content"
        form, equals, number = value.partition("=") if isinstance(value, str) else ("", "", "")
        try:
            if not equals:
                return Integer(1).read(value)
            if form == "short":
                return f"short={Integer(1).read(number)}"
            if form == "area":
                Number(positive=True).read(number)
                return f"area={number}"
        except Unfit:
            pass
        raise Unfit("a long side in pixels, content, short=PIXELS or area=MEGAPIXELS")


@dataclass(frozen=True)
class Tile(Kind):
    """1024, "1024,1", "auto" or "off"."""

    def read(self, value: Any) -> int | str:
        if value in (AUTO, "off"):
            return value
        side, comma, whole = str(value).partition(",")
        try:
            found = Integer(128).read(side if isinstance(value, str) else value)
            return f"{found},{Integer(1, 3).read(whole)}" if comma else found
        except Unfit:
            raise Unfit("auto, off, or the side of a tile in pixels, 128 or more") from None


@dataclass(frozen=True)
class PerStyle(Kind):
    """One value for all styles, or one for each: 2,1 or [2, 1]."""

    item: Kind
    expected: str
    single: bool = True  # whether one value alone stands for all

    def read(self, value: Any) -> Any:
        parts = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
        parts = parts if isinstance(parts, list) else [parts]
        try:
            if not parts:
                raise Unfit("")
            read = [self.item.read(part) for part in parts]
        except Unfit:
            raise Unfit(self.expected) from None
        read = [None if item == AUTO else item for item in read]
        return read[0] if self.single and len(read) == 1 else read


@dataclass(frozen=True)
class Layers(Kind):
    """Names alone, which take the convention's own weight, or names with weights.

    relu4_2  or  relu3_1=0.5,relu4_2=1  or  ["relu4_2"]  or  {relu3_1 = 0.5, relu4_2 = 1}
    """

    def read(self, value: Any) -> dict[str, float] | tuple[str, ...]:
        if isinstance(value, str):
            parts = [part.strip().partition("=") for part in value.split(",")]
            names = [name.strip() for name, _, _ in parts]
            if any(equals for _, equals, _ in parts):
                value = {name: number.strip() if equals else 1.0 for name, equals, number in parts}
            else:
                value = names
            if len(set(names)) < len(names):
                raise Unfit("each layer once")
        if isinstance(value, list | tuple | dict) and value and all(isinstance(n, str) and n for n in value):
            if not isinstance(value, dict):
                return tuple(value)
            try:
                return {name: Number().read(number) for name, number in value.items()}
            except Unfit:
                pass
        raise Unfit("layers such as relu4_2 or relu3_1=0.5,relu4_2=1, each weight 0 or more")


@dataclass(frozen=True)
class Init(Kind):
    """A word, a picture file, or shares of them: content=0.8,noise=0.2."""

    def read(self, value: Any) -> str:
        if not isinstance(value, str) or not value:
            raise Unfit(f"{', '.join(INITS)}, a picture file, or a blend such as content=0.8,noise=0.2")
        return value

    @staticmethod
    def has(value: str, word: str) -> bool:
        """Whether a word is it, or a part of it."""
        return word in [part.strip().rpartition("=")[0] or part.strip() for part in value.split(",")]

    def mapped(self, value: str, change: Callable[[str], str]) -> str:
        if value in INITS:
            return value
        parts = [part.strip().rpartition("=") for part in value.split(",")]
        if not all(equals and _is_number(share) for _, equals, share in parts):
            return change(value)
        return ",".join(f"{name if name in INITS else change(name)}={share}" for name, _, share in parts)


@dataclass(frozen=True)
class Regions(Kind):
    """Masks of the content, each with the styles' masks: MASK, or MASK,STYLEMASK,...; semicolons between regions.

    Read into a tuple of tuples of names, the content's mask first.
    """

    WORDS = ("all", "none")

    def read(self, value: Any) -> tuple[tuple[str, ...], ...]:
        regions = value.split(";") if isinstance(value, str) else value
        if not isinstance(regions, list | tuple) or not regions:
            raise Unfit(self._expected())
        return tuple(self._region(region) for region in regions)

    def _region(self, region: Any) -> tuple[str, ...]:
        names = [name.strip() for name in region.split(",")] if isinstance(region, str) else region
        if not isinstance(names, list | tuple) or not names or not all(isinstance(n, str) and n for n in names):
            raise Unfit(self._expected())
        return tuple(names)

    def _expected(self) -> str:
        return "MASK or MASK,STYLEMASK,... with a style mask (a picture, all or none) for each style"

    def mapped(self, value: Any, change: Callable[[str], str]) -> Any:
        return tuple(
            (change(mask), *(name if name in self.WORDS else change(name) for name in styles))
            for mask, *styles in value
        )


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
