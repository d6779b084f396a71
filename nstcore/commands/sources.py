"""Where settings come from: the command line, TOML files, recipes."""

from __future__ import annotations

import argparse
import difflib
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import OptionError
from .kinds import Unfit, show
from .options import OPTIONS, Option
from .settings import Settings, Source

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
PICTURES = ("content", "style", "output")  # what a settings file or a job may name besides options


def resolve(sources: Sequence[Source], base: Source | None = None) -> Settings:
    """Settings from sources, the lowest first, over the recipe that the highest of them names, over `base`."""
    below = [base] if base is not None else []
    for source in reversed(sources):
        if "recipe" in source.values:
            below.append(recipe(source.values["recipe"], source.label("recipe")))
            break
    return Settings([*below, *sources])


def from_arguments(args: argparse.Namespace) -> Source:
    """The options and pictures of a parsed command line, read."""
    values = {}
    for name, option in OPTIONS.items():
        text = getattr(args, name, None)
        if text is not None:
            values[name] = read(option, text, option.flag)
    pictures: dict[str, Any] = {}
    if args.content is not None:
        pictures["content"] = Path(args.content)
    if args.style:
        pictures["style"] = [Path(style) for style in args.style]
    if args.output is not None:
        pictures["output"] = Path(args.output)
    return Source("", values, pictures=pictures)


def option_named(name: str, where: str, others: Sequence[str] = ()) -> Option:
    """An option by its name, with dashes or underscores, or by that of the Python API; `OptionError` with the nearest
    one if there is none. `others` are names that would do, too."""
    plain = name.strip().replace("-", "_")
    for option in OPTIONS.values():
        if plain in (option.name, option.api_name):
            return option
    known = (*OPTIONS, *others)
    names = difflib.get_close_matches(plain, known, 1, 0.5)
    hint = f"did you mean {names[0].replace('_', '-')}?" if names else f"expected one of {', '.join(known)}"
    raise OptionError(f"{where}: {name}: no such setting; {hint}")


def read(option: Option, value: Any, label: str) -> Any:
    """A value by its option's kind; `OptionError` with the label if it does not fit."""
    try:
        return option.kind.read(value)
    except Unfit as error:
        raise OptionError(f"{label}: expected {error}, got {value!r}") from None


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """A TOML file; `OptionError` in one line if it cannot be read."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        if not _within_64_bits(table):
            raise ValueError("whole numbers have 64 bits at most")
        return table
    except OSError as error:
        raise OptionError(f"{path}: expected {what}, found {(error.strerror or str(error)).lower()}") from None
    except (ValueError, RecursionError) as error:
        raise OptionError(f"{path}: expected {what} in TOML: {error}") from None


def _within_64_bits(value: Any) -> bool:
    """What TOML demands of every whole number, and `tomllib` leaves to us."""
    if isinstance(value, dict):
        return all(map(_within_64_bits, value.values()))
    if isinstance(value, list):
        return all(map(_within_64_bits, value))
    return not isinstance(value, int) or -(1 << 63) <= value < 1 << 63


def from_table(
    table: Mapping[str, Any], name: str, folder: Path, *, strict: bool = True, pictures: Sequence[str] = PICTURES
) -> Source:
    """Settings from a table of a TOML file whose file names are relative to `folder`; `pictures` are the keys that it
    may have besides options."""

    def beside(name: str) -> str:
        return str(folder / name)

    values: dict[str, Any] = {}
    named: dict[str, Any] = {}
    for key, value in table.items():
        label = f"{name}: {key}"
        if key in pictures:
            named[key] = _file_names(value, label, several=key not in ("content", "output"))
        else:
            option = option_named(key, name, pictures)
            values[option.name] = option.kind.mapped(read(option, value, label), beside)
    if "weights" in values and os.path.isfile(folder / values["weights"]):
        values["weights"] = beside(values["weights"])
    for key in {"content", "output"} & named.keys():
        named[key] = folder / named[key]
    if "style" in named:
        named["style"] = [folder / style for style in named["style"]]
    return Source(name, values, strict, named)


def settings_file(path: str | None) -> list[Source]:
    """What --settings names, if it was given."""
    if path is None:
        return []
    file = Path(path)
    return [from_table(read_toml(file, "a settings file"), file.name, file.parent)]


def recipe_names() -> list[str]:
    """The recipes that there are."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def recipe(name: str, label: str = "recipe") -> Source:
    """The settings of a recipe; its `description` is left out."""
    if name not in recipe_names():
        raise OptionError(f"{label}: expected one of {', '.join(recipe_names())}, got {name!r}")
    table = read_toml(RECIPES / f"{name}.toml", "a recipe")
    table.pop("description")
    return from_table(table, f"recipe {name}", RECIPES, strict=False, pictures=())


def describe_recipe(name: str) -> str:
    """A recipe as lines of text: its name, what it is for, its settings as options."""
    path = RECIPES / f"{name}.toml"
    options = " ".join(f"{OPTIONS[n].flag} {show(v)}" for n, v in recipe(name).values.items())
    return f"{name}\n    {read_toml(path, 'a recipe')['description']}\n    {options}"


def _file_names(value: Any, label: str, several: bool) -> Any:
    names = value if several and isinstance(value, list) else [value]
    if not names or not all(isinstance(name, str) and name for name in names):
        raise OptionError(f"{label}: expected {'file names' if several else 'a file name'}, got {value!r}")
    return names if several else value
