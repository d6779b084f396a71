"""Options from several places laid over one another: defaults, a recipe, a settings file, the command line."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import OptionError
from .kinds import AUTO, INITS, files, show
from .options import OPTIONS

LOSSY = (".jpg", ".jpeg", ".webp")
DEEP = (".png", ".tif", ".tiff")


@dataclass(frozen=True)
class Source:
    """Options that were given in one place.

    Attributes
    ----------
    name : str
        What the place is called in messages; empty for the command line.
    values : mapping of option name to value
    strict : bool
        Whether an option that the others make meaningless is an error here; elsewhere (a recipe, the defaults of many
        jobs) it is left out.
    pictures : mapping
        `content` (path), `style` (list of paths), `output` (path), as far as they were given.
    """

    name: str
    values: Mapping[str, Any]
    strict: bool = True
    pictures: Mapping[str, Any] = field(default_factory=dict)

    def label(self, option: str) -> str:
        """What a person wrote there."""
        return f"{self.name}: {option.replace('_', '-')}" if self.name else OPTIONS[option].flag


@dataclass(frozen=True)
class _Needs:
    """`option` means something only if `other` has a value for which `holds`."""

    option: str
    other: str
    holds: Callable[[Any], bool]
    why: str


_RULES = (
    _Needs("learning_rate", "optimizer", lambda v: v == "adam", "is a setting of adam; add --optimizer adam"),
    _Needs("average", "optimizer", lambda v: v == "adam", "is a setting of adam; add --optimizer adam"),
    _Needs("history", "optimizer", lambda v: v == "lbfgs", "is a setting of lbfgs; add --optimizer lbfgs"),
)


class Settings:
    """What holds after all sources: every option's value, and where it came from.

    Parameters
    ----------
    sources : sequence of Source
        The lowest first; what a later one gives hides what the earlier ones gave.

    Raises
    ------
    OptionError
        For a combination that makes no sense.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = tuple(sources)
        self._level = {name: level for level, source in enumerate(sources) for name in source.values}
        self._picture_level = {name: level for level, source in enumerate(sources) for name in source.pictures}
        self._drop_or_refuse()

    def __getitem__(self, name: str) -> Any:
        return self._sources[self._level[name]].values[name] if name in self._level else OPTIONS[name].default

    def given(self, name: str) -> bool:
        """Whether any source gave it."""
        return name in self._level

    def below(self, above: Source) -> Settings:
        """The same under one more source."""
        return Settings([*self._sources, above])

    def keywords(self) -> dict[str, Any]:
        """What was given and decides the picture, as keyword arguments of `nstcore.stylize`."""
        found = {OPTIONS[n].api_name: self[n] for n in self._level if OPTIONS[n].scope == "picture"}
        if "regions" in found:
            found["regions"] = [(mask, masks) for mask, *masks in found["regions"]]
        return found

    def record(self, digest: Callable[[str], str]) -> dict[str, str]:
        """Every option that decides the picture or its file, as text, with `digest` in place of file names: equal for
        two requests exactly if they ask for the same picture."""
        names = [n for n, o in OPTIONS.items() if o.scope in ("picture", "file")]
        record = {}
        for name in [*names, "precision"]:
            value = self[name]
            if value is not None and value != ():
                record[name] = show(OPTIONS[name].kind.mapped(value, digest))
        return record

    def picture(self, name: str) -> Any:
        """What was given as `content`, `style` or `output`, or None."""
        level = self._picture_level.get(name)
        return None if level is None else self._sources[level].pictures[name]

    def settle(self, styles: int, output: Path) -> None:
        """Refuse, or leave out, what does not fit the pictures: their number, and the output's kind."""
        for name in ("style_blend", "style_scale", "style_size"):
            count = len(self[name]) if isinstance(self[name], list) else None
            if count not in (None, styles):
                raise OptionError(f"{self._label(name)}: expected one value for each of {styles} styles, got {count}")
        for _, *masks in self["region"]:
            if len(masks) != styles and (masks or len(self["region"]) != styles):
                raise OptionError(
                    f"{self._label('region')}: expected a style mask (a picture, all or none) for each style, "
                    f"{styles} in all, or as many regions as styles, got {len(masks)} masks and "
                    f"{len(self['region'])} regions"
                )
        for name in self._level:
            for file in files(OPTIONS[name].kind, self[name]):
                if not os.path.isfile(file):
                    words = f"{', '.join(INITS)} or a picture file" if name == "init" else "a picture file"
                    raise OptionError(f"{self._label(name)}: expected {words}, got {file!r}, which is none")
        level = self._picture_level.get("output", 0)
        suffix = output.suffix.lower()
        if self.given("quality") and suffix not in LOSSY:
            self._meaningless("quality", level, f"is for JPEG and WebP; name {output.name} so")
        if self["bits"] == 16 and suffix not in DEEP:
            self._meaningless("bits", level, f"16 is for PNG and TIFF; name {output.name} so")

    def _drop_or_refuse(self) -> None:
        for rule in _RULES:
            if self.given(rule.option) and not rule.holds(self[rule.other]):
                self._meaningless(rule.option, self._level.get(rule.other, 0), rule.why)
        if self.given("guide_edges") and not (self["region"] or self["protect"]):
            self._meaningless("guide_edges", 0, "is about masks; add --region or --protect")
        if self["memory"] == "low":
            if self["cluster"] is not None:
                self._meaningless("memory", self._level["cluster"], "low is for one machine; take --memory normal")
            elif self["tile"] not in (AUTO, "off"):
                self._meaningless("memory", self._level["tile"], "low means no tiles; take --tile auto or off")
        if self.given("style_size") and self.given("style_scale"):
            sizes = self["style_size"] if isinstance(self["style_size"], list) else [self["style_size"]]
            if None not in sizes:
                level = self._level["style_size"]
                self._meaningless("style_scale", level, "has no say beside --style-size; leave that out")

    def _meaningless(self, name: str, level: int, why: str) -> None:
        """An option that another one, given at `level`, makes meaningless: whoever gave it last is told; what was only
        there beforehand is left out."""
        own = self._level[name]
        if self._sources[own].strict and own >= level:
            raise OptionError(f"{self._label(name)} {why}, or leave it out")
        del self._level[name]

    def _label(self, option: str) -> str:
        return self._sources[self._level[option]].label(option)
