"""What is published: `weights/registry.toml` as checked data, found by name or by the hash of a file.

The pre-processing of many checkpoints cannot be told from their bytes. A file whose hash is listed is known exactly;
of any other, a person must say what it expects.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args

from .. import vgg
from ..errors import WeightsError
from . import places
from .weights import Padding, Pooling, Preprocessing, check_text, shown

FORMAT = 1
KINDS = ("vgg",)

# Digits of each hash; of a prefix, at least. The strongest first: it is the one that a message names.
HASHES = {"sha256": 64, "sha1": 40, "git_blob": 40, "md5": 32, "sha256_prefix": 8}

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_HEX = re.compile(r"[0-9a-f]+")
_URL = re.compile(r"https?://[!-~]+")
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Digests:
    """Size and hashes of a file, or of several joined, made in one pass; `hashes` has the keys of `HASHES`."""

    nbytes: int
    hashes: Mapping[str, str]

    @property
    def sha256(self) -> str:
        return self.hashes["sha256"]


@dataclass(frozen=True)
class Entry:
    """One published file; the keys of `registry.toml`, which `weights/README.md` describes.

    `nbytes` is None and `hashes` is empty where nothing is known; `urls` is empty where there is no address.
    """

    name: str
    kind: str
    architecture: str
    file: str
    urls: tuple[str, ...]
    nbytes: int | None
    hashes: Mapping[str, str]
    container: str
    preprocessing: Preprocessing
    padding: Padding
    pooling: Pooling
    licence: str
    note: str

    def fits(self, digests: Digests) -> bool:
        """Whether a file with these digests is this one; never, where no hash is known."""
        return bool(self.hashes) and self.mismatch(digests) is None

    def mismatch(self, digests: Digests) -> str | None:
        """The first thing in which a file differs from this one, in words; None if nothing that is known does."""
        if self.nbytes is not None and digests.nbytes != self.nbytes:
            return f"expected {self.nbytes} bytes, got {digests.nbytes}"
        for kind, expected in self.hashes.items():
            found = digests.hashes["sha256" if kind == "sha256_prefix" else kind]
            if not found.startswith(expected):
                return f"expected {kind} {expected}, got {found}"
        return None

    def check(self, digests: Digests, what: str | Path) -> None:
        """`WeightsError` if a file differs from this one in size or in any hash that is known."""
        if (difference := self.mismatch(digests)) is not None:
            raise WeightsError(f"{shown(what)}: not {self.file} of {self.name}: {difference}")


@dataclass(frozen=True)
class Registry:
    """Entries by name, in the order of the file."""

    entries: Mapping[str, Entry]

    def named(self, name: str) -> Entry:
        """The entry of that name.

        Raises
        ------
        WeightsError
            If there is none.
        """
        if name not in self.entries:
            raise WeightsError(
                f"weights {shown(name)!r}: expected one of {', '.join(self.entries)}; "
                "see them with: python -m nstcore weights list"
            )
        return self.entries[name]

    def find(self, digests: Digests) -> Entry | None:
        """The entry with these hashes, if there is one."""
        return next((entry for entry in self.entries.values() if entry.fits(digests)), None)


@cache
def default_registry() -> Registry:
    """The registry that the package carries; read once."""
    return read_registry(places.data_path("registry.toml"))


def read_registry(path: Path) -> Registry:
    """Read a registry, and check every entry.

    Raises
    ------
    WeightsError
        If it cannot be read, or an entry lacks something, has something unknown or makes no sense.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WeightsError(f"{shown(path)}: cannot be read: {error.strerror}; install nstcore again") from error
    except ValueError as error:
        raise WeightsError(f"{shown(path)}: not readable as TOML: {shown(str(error))[:200]}") from error
    if content.get("format") != FORMAT:
        raise WeightsError(f"{shown(path)}: format: expected {FORMAT}, found {shown(repr(content.get('format')))[:80]}")
    tables = content.get("entry")
    if set(content) != {"format", "entry"} or not isinstance(tables, list):
        raise WeightsError(f"{shown(path)}: expected format and [[entry]] tables, found {shown(', '.join(content))}")
    entries: dict[str, Entry] = {}
    for i, table in enumerate(tables, 1):
        try:
            entry = _entry(table)
            if entry.name in entries:
                raise WeightsError("name: it is taken by an earlier entry")
        except WeightsError as error:
            named = table.get("name", f"number {i}") if isinstance(table, dict) else f"number {i}"
            raise WeightsError(f"{shown(path)}: entry {shown(str(named))[:80]}: {error}") from error
        entries[entry.name] = entry
    return Registry(entries)


def file_digests(files: Iterable[Path]) -> Digests:
    """Size and every hash of the files' bytes, one after the other, as of `cat FILE...`.

    Raises
    ------
    WeightsError
        If one cannot be read, or its size changes meanwhile.
    """
    files = tuple(files)
    at = files[0] if files else Path()
    try:
        total = sum(file.stat().st_size for file in files)
        made = {kind: hashlib.new(kind, usedforsecurity=kind == "sha256") for kind in ("sha256", "sha1", "md5")}
        made["git_blob"] = hashlib.new("sha1", b"blob %d\0" % total, usedforsecurity=False)
        count = 0
        for at in files:
            with at.open("rb") as file:
                while block := file.read(_BLOCK):
                    count += len(block)
                    for digest in made.values():
                        digest.update(block)
    except OSError as error:
        raise WeightsError(f"{shown(at)}: cannot be read: {error.strerror}") from error
    if count != total:
        raise WeightsError(f"{shown(at)}: expected {total} bytes, read {count}; it changed while it was read")
    return Digests(total, {kind: digest.hexdigest() for kind, digest in made.items()})


def _entry(table: Any) -> Entry:
    if not isinstance(table, dict):
        raise WeightsError("expected a table")
    texts = ("name", "kind", "architecture", "file", "container", "padding", "pooling", "licence", "note")
    needed = {*texts, "urls", "preprocessing"}
    for key in sorted(needed - set(table)):
        raise WeightsError(f"{key}: missing")
    for key in sorted(set(table) - needed - set(HASHES) - {"bytes"}):
        raise WeightsError(f"{shown(key)}: unknown")
    for key in texts:
        check_text(key, table[key])
    choices = {"kind": KINDS, "architecture": vgg.ARCHITECTURES, "padding": get_args(Padding)}
    for key, allowed in {**choices, "pooling": get_args(Pooling)}.items():
        if table[key] not in allowed:
            raise WeightsError(f"{key}: expected one of {', '.join(allowed)}, found {table[key]}")
    if not _NAME.fullmatch(table["name"]) or table["name"] in (places.AUTO, places.BUILTIN):
        raise WeightsError("name: expected lower-case words and digits joined by -, and none of auto, builtin")
    urls = table["urls"]
    if not isinstance(urls, list) or not all(isinstance(url, str) and _URL.fullmatch(url) for url in urls):
        raise WeightsError("urls: expected a list of http or https addresses")
    nbytes = table.get("bytes")
    if nbytes is not None and (type(nbytes) is not int or nbytes <= 0):
        raise WeightsError(f"bytes: expected a whole number above 0, found {shown(repr(nbytes))[:80]}")
    hashes = {kind: table[kind] for kind in HASHES if kind in table}
    for kind, text in hashes.items():
        fits = isinstance(text, str) and _HEX.fullmatch(text) and len(text) >= HASHES[kind]
        if not fits or (kind != "sha256_prefix" and len(text) != HASHES[kind]):
            raise WeightsError(f"{kind}: expected {HASHES[kind]} digits 0-9a-f, found {shown(repr(text))[:80]}")
    if urls and not hashes:
        raise WeightsError("urls: a file that is downloaded needs a hash")
    return Entry(
        **{key: table[key] for key in texts},
        urls=tuple(urls),
        nbytes=nbytes,
        hashes=hashes,
        preprocessing=_preprocessing(table["preprocessing"]),
    )


def _preprocessing(table: Any) -> Preprocessing:
    keys = ("channel_order", "range", "mean", "std")
    if not isinstance(table, dict) or set(table) != set(keys):
        raise WeightsError(f"preprocessing: expected {', '.join(keys)}")
    try:
        return Preprocessing(*(table[key] for key in keys))
    except (TypeError, ValueError) as error:
        raise WeightsError(f"preprocessing: expected numbers, found {shown(str(table))[:120]}") from error
