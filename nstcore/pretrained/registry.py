"""What is published: `weights/registry.toml` as checked data, found by name or by the hash of a file.

The pre-processing of many checkpoints cannot be told from their bytes. A file whose hash is listed is known exactly;
of any other, a person must say what it expects.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args

from .. import vgg
from ..errors import WeightsError
from . import places
from .fast.models import MODELS
from .weights import Padding, Pooling, Preprocessing, check_text, shown

FORMAT = 1
VGG = "vgg"
KINDS = (VGG, *MODELS)

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
class PublishedFile:
    """One file of an entry: its published name, where it lies, and what is known of its bytes.

    `nbytes` is None and `hashes` is empty where nothing is known; `urls` is empty where there is no address.
    """

    file: str
    urls: tuple[str, ...]
    nbytes: int | None
    hashes: Mapping[str, str]

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

    def check(self, digests: Digests, name: str, what: str | Path) -> None:
        """`WeightsError` if a file differs from this one of the entry `name` in size or in any hash that is known."""
        if (difference := self.mismatch(digests)) is not None:
            raise WeightsError(f"{shown(what)}: not {self.file} of {name}: {difference}")


@dataclass(frozen=True)
class Entry:
    """One published network; the keys of `registry.toml`, which `weights/README.md` describes.

    A VGG is one file. A feed-forward network may be several, and `architecture` is then its kind.
    """

    name: str
    kind: str
    architecture: str
    files: tuple[PublishedFile, ...]
    container: str
    licence: str
    note: str

    @property
    def nbytes(self) -> int | None:
        """Of all its files; None if that of one is not known."""
        sizes = [file.nbytes for file in self.files]
        return None if None in sizes else sum(size or 0 for size in sizes)

    @property
    def published(self) -> bool:
        """Whether there is an address for every file."""
        return all(file.urls for file in self.files)

    def fits(self, digests: Sequence[Digests]) -> bool:
        """Whether files with these digests are this entry's, in its order."""
        return len(digests) == len(self.files) and all(
            file.fits(found) for file, found in zip(self.files, digests, strict=True)
        )


@dataclass(frozen=True)
class VggEntry(Entry):
    """A VGG, with the facts that its file does not tell."""

    preprocessing: Preprocessing
    padding: Padding
    pooling: Pooling


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

    def find(self, digests: Digests) -> VggEntry | None:
        """The VGG whose file has these hashes, if there is one."""
        entries = (entry for entry in self.entries.values() if isinstance(entry, VggEntry))
        return next((entry for entry in entries if entry.fits([digests])), None)

    def find_fast(self, model: str, digests: Sequence[Digests]) -> Entry | None:
        """The feed-forward network of that model whose files, in order, have these hashes, if there is one."""
        entries = (entry for entry in self.entries.values() if entry.kind == model)
        return next((entry for entry in entries if entry.fits(digests)), None)


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
    kind = table.get("kind")
    if "kind" in table and kind not in KINDS:
        raise WeightsError(f"kind: expected one of {', '.join(KINDS)}, found {shown(repr(kind))[:80]}")
    texts: tuple[str, ...] = ("name", "kind", "container", "licence", "note")
    if kind == VGG:
        facts = ("architecture", "padding", "pooling", "preprocessing")
        _check_keys(table, (*texts, *facts, "file", "urls"), (*HASHES, "bytes"))
        texts = (*texts, *facts[:3])
    else:
        _check_keys(table, (*texts, "files"), ())
    for key in texts:
        check_text(key, table[key])
    choices = {"architecture": vgg.ARCHITECTURES, "padding": get_args(Padding), "pooling": get_args(Pooling)}
    for key, allowed in choices.items():
        if key in table and table[key] not in allowed:
            raise WeightsError(f"{key}: expected one of {', '.join(allowed)}, found {table[key]}")
    if not _NAME.fullmatch(table["name"]) or table["name"] in (places.AUTO, places.BUILTIN):
        raise WeightsError("name: expected lower-case words and digits joined by -, and none of auto, builtin")
    common = {key: table[key] for key in ("name", "kind", "container", "licence", "note")}
    if kind != VGG:
        return Entry(**common, architecture=table["kind"], files=_files(table["files"]))
    return VggEntry(
        **common,
        architecture=table["architecture"],
        files=(_file(table),),
        preprocessing=_preprocessing(table["preprocessing"]),
        padding=table["padding"],
        pooling=table["pooling"],
    )


def _check_keys(table: Mapping[str, Any], needed: Iterable[str], others: Iterable[str]) -> None:
    for key in sorted(set(needed) - set(table)):
        raise WeightsError(f"{key}: missing")
    for key in sorted(set(table) - set(needed) - set(others)):
        raise WeightsError(f"{shown(key)}: unknown")


def _files(tables: Any) -> tuple[PublishedFile, ...]:
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise WeightsError("files: expected [[entry.files]] tables")
    for table in tables:
        _check_keys(table, ("file", "urls"), (*HASHES, "bytes"))
    return tuple(_file(table) for table in tables)


def _file(table: Mapping[str, Any]) -> PublishedFile:
    """The keys of a table that describe one file."""
    check_text("file", table["file"])
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
    return PublishedFile(table["file"], tuple(urls), nbytes, hashes)


def _preprocessing(table: Any) -> Preprocessing:
    keys = ("channel_order", "range", "mean", "std")
    if not isinstance(table, dict) or set(table) != set(keys):
        raise WeightsError(f"preprocessing: expected {', '.join(keys)}")
    try:
        return Preprocessing(*(table[key] for key in keys))
    except (TypeError, ValueError) as error:
        raise WeightsError(f"preprocessing: expected numbers, found {shown(str(table))[:120]}") from error
