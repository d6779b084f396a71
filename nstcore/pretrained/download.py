"""Published checkpoints over HTTP into the cache: resumed, checked, converted; the cache is as it was, or complete.

    <cache>/NAME.h5                 the converted weights, moved into place in one step
    <cache>/.NAME.download          what has come so far; kept when a download breaks off, so that it can be resumed
                                    (of several files .NAME.1.download, .NAME.2.download)
    <cache>/.NAME.download.json     where that came from, and which version of it (ETag or date)
    <cache>/.NAME.lock              the process that is at it

Size and hashes are checked before anything is parsed. How the bytes come is the business of `receive`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from .. import vgg
from ..errors import OptionError, OutputError, WeightsError
from ..files import make_folder
from ..lock import locked
from . import places
from .convert import convert_entry
from .fast.convert import convert_fast_entry
from .fast.models import fast_tensors
from .receive import Part, Progress, Wanted, from_first, offline
from .registry import Digests, Entry, PublishedFile, Registry, VggEntry, default_registry, file_digests
from .weights import shown

__all__ = ["SHORT_TIMEOUT", "TIMEOUT", "Progress", "fetch", "offline"]

TIMEOUT = 30.0  # seconds without an answer or a byte
SHORT_TIMEOUT = 5.0  # where there is something else to go on with


def fetch(
    name: str,
    *,
    source: str | None = None,
    timeout: float = TIMEOUT,
    progress: Progress | None = None,
    registry: Registry | None = None,
) -> Path:
    """Put a published network into the cache, whether or not it is there.

    Parameters
    ----------
    name : str
        Of the registry.
    source : str, optional
        Another http or https address of the same file, or a local copy; of a network of several files the address or
        folder that they lie in, under their published names. Default: the registry's addresses, in order.
    timeout : float
        Seconds; for an answer, and then for every next byte.
    progress : callable, optional
        Called as progress(bytes so far, bytes in all or None); of several files, of all together.
    registry : Registry, optional
        Default: the one that the package carries.

    Returns
    -------
    path : Path
        The converted file in the cache.

    Raises
    ------
    WeightsError
        If there is no such name or address, the network fails, the file is not the one that the registry knows, or
        another process is at it. What has come of a broken download is kept, and said to be.
    OptionError
        If the timeout is no time, or the address neither http nor https.
    OutputError
        If the cache cannot be written, or the disk is full.
    """
    if not 0 < timeout < math.inf:
        raise OptionError(f"timeout: expected seconds above 0, got {timeout:g}")
    entry = (registry or default_registry()).named(name)
    remote = source is None or "://" in source
    addresses = [file.urls if source is None else (_address(source, entry, file),) for file in entry.files]
    if remote:
        for url in (url for urls in addresses for url in urls):
            _check_address(url)
        if not all(addresses):
            copy = "URL-or-file" if len(entry.files) == 1 else "URL-or-folder"
            raise WeightsError(f"weights {name}: no address is known ({entry.note}); give a copy with --from {copy}")
    target = places.cached_path(entry.name)
    lock = target.with_name(f".{entry.name}.lock")

    def busy(holder: str) -> WeightsError:
        way_out = f"wait for it, or if there is none, remove {shown(lock)}"
        return WeightsError(f"weights {name}: another process is fetching them; {way_out} ({holder})")

    missing = [folder for folder in (target.parent, *target.parent.parents) if not folder.exists()]
    make_folder(target.parent, places.WAY_OUT)
    try:
        with locked(lock, busy, "set NSTCORE_HOME") as beat:
            if source is not None and not remote:
                _convert_copy(entry, Path(source), target)
            else:

                def report(done: int, total: int | None) -> None:
                    beat()
                    if progress is not None:
                        progress(done, total)

                _fetch(addresses, entry, target, timeout, report)
    finally:
        for folder in missing:
            with suppress(OSError):  # only those that have remained empty
                folder.rmdir()
    return target


def _address(source: str, entry: Entry, file: PublishedFile) -> str:
    """Where one of the files lies, by the address that a person gave."""
    return source if len(entry.files) == 1 else f"{source.rstrip('/')}/{file.file}"


def _convert_copy(entry: Entry, source: Path, target: Path) -> None:
    if isinstance(entry, VggEntry):
        # Which files a folder's model consists of is known only once it is read.
        known = None if entry.container == "tfjs" else _checked(entry, entry.files[0], source)
        convert_entry(entry, source, target, digests=known)
        return
    if not source.is_dir():
        names = " and ".join(file.file for file in entry.files)
        raise WeightsError(f"{shown(source)}: expected the folder that holds {names}, found no folder")
    paths = [source / file.file for file in entry.files]
    digests = [_checked(entry, file, path) for file, path in zip(entry.files, paths, strict=True)]
    convert_fast_entry(entry, paths, target, digests=digests)


def _fetch(
    addresses: Sequence[tuple[str, ...]], entry: Entry, target: Path, timeout: float, progress: Progress
) -> None:
    several = len(entry.files) > 1
    names = [f".{entry.name}{f'.{i}' if several else ''}.download" for i in range(1, len(entry.files) + 1)]
    parts = [Part(target.with_name(name)) for name in names]
    came: list[str] = []
    digests: list[Digests] = []
    before = 0
    for urls, file, part in zip(addresses, entry.files, parts, strict=True):

        def report(done: int, total: int | None, before: int = before) -> None:
            progress(before + done, entry.nbytes if several else total)

        url = from_first(urls, Wanted(entry.name, file, _converted_bytes(entry)), part, timeout, report)
        try:
            digests.append(_checked(entry, file, part.path))
        except WeightsError as error:
            part.discard()
            raise WeightsError(f"{shown(url)}: {error}; thrown away, nothing was converted") from error
        came.append(url)
        before += digests[-1].nbytes
    paths = [part.path for part in parts]
    try:
        if isinstance(entry, VggEntry):
            convert_entry(entry, paths[0], target, url=came[0], digests=digests[0])
        else:
            convert_fast_entry(entry, paths, target, urls=came, digests=digests)
    except OutputError as error:
        kept = ", ".join(shown(path) for path in paths)
        raise OutputError(f"{error} (the whole download is kept in {kept})") from error
    except WeightsError:
        for part in parts:
            part.discard()
        raise
    for part in parts:
        part.discard()


def _checked(entry: Entry, file: PublishedFile, path: Path) -> Digests:
    if not path.is_file():
        raise WeightsError(f"{shown(path)}: no such file")
    digests = file_digests([path])
    file.check(digests, entry.name, path.name)
    return digests


def _converted_bytes(entry: Entry) -> int:
    """About what the converted file takes."""
    if isinstance(entry, VggEntry):
        return 4 * sum(math.prod(shape) + shape[0] for shape in vgg.convolutions(entry.architecture).values())
    return 4 * sum(math.prod(shape) for shape in fast_tensors(entry.kind).values())


def _check_address(url: str) -> None:
    if not re.fullmatch(r"https?://[!-~]+", url):
        raise OptionError(f"--from {shown(url)[:200]}: expected an http or https address, or a file")
