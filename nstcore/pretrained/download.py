"""Published checkpoints over HTTP into the cache: resumed, checked, converted; the cache is as it was, or complete.

    <cache>/NAME.h5                 the converted weights, moved into place in one step
    <cache>/.NAME.download          what has come so far; kept when a download breaks off, so that it can be resumed
    <cache>/.NAME.download.json     where that came from, and which version of it (ETag or date)
    <cache>/.NAME.lock              the process that is at it

Size and hashes are checked before anything is parsed. Only http and https are spoken, through redirects too; proxies
are those of the environment (http_proxy, https_proxy, no_proxy).
"""

from __future__ import annotations

import http.client
import json
import math
import os
import queue
import re
import shutil
import socket
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from .. import vgg
from ..errors import OptionError, OutputError, WeightsError
from ..lock import locked
from ..version import __version__
from . import places
from .convert import convert_entry, make_folder
from .registry import Digests, Entry, Registry, default_registry, file_digests
from .weights import shown

TIMEOUT = 30.0  # seconds without an answer or a byte
SHORT_TIMEOUT = 5.0  # where there is something else to go on with

# Told the bytes that have come, and how many there will be, if that is known.
Progress = Callable[[int, int | None], None]

_BLOCK = 1 << 16
_LARGEST = 2 << 30  # bytes of a file whose size nobody states
_MOST_REDIRECTS = 5
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


def offline() -> bool:
    """Whether the environment forbids the network: NSTCORE_OFFLINE, set to anything but 0."""
    return os.environ.get("NSTCORE_OFFLINE", "") not in ("", "0")


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
        Another http or https address of the same file, or a local copy. Default: the registry's addresses, in order.
    timeout : float
        Seconds; for an answer, and then for every next byte.
    progress : callable, optional
        Called as progress(bytes so far, bytes in all or None).
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
    urls = (source,) if source is not None and remote else entry.urls
    for url in urls:
        _check_address(url)
    if remote and not urls:
        raise WeightsError(f"weights {name}: no address is known ({entry.note}); give a copy with --from URL-or-file")
    target = places.cached_path(entry.name)
    lock = target.with_name(f".{entry.name}.lock")

    def busy(holder: str) -> WeightsError:
        way_out = f"wait for it, or if there is none, remove {shown(lock)}"
        return WeightsError(f"weights {name}: another process is fetching them; {way_out} ({holder})")

    missing = [folder for folder in (target.parent, *target.parent.parents) if not folder.exists()]
    make_folder(target.parent)
    try:
        with locked(lock, busy, "set NSTCORE_HOME") as beat:
            if source is not None and not remote:
                _convert_copy(entry, Path(source), target)
            else:

                def report(done: int, total: int | None) -> None:
                    beat()
                    if progress is not None:
                        progress(done, total)

                _fetch(urls, entry, target, timeout, report)
    finally:
        for folder in missing:
            with suppress(OSError):  # only those that have remained empty
                folder.rmdir()
    return target


def _convert_copy(entry: Entry, source: Path, target: Path) -> None:
    # Which files a folder's model consists of is known only once it is read.
    digests = None if entry.container == "tfjs" else _checked(entry, source)
    convert_entry(entry, source, target, digests=digests)


def _fetch(urls: tuple[str, ...], entry: Entry, target: Path, timeout: float, progress: Progress) -> None:
    part = _Part(target.with_name(f".{entry.name}.download"))
    url = _from_first(urls, entry, part, timeout, progress)
    try:
        digests = _checked(entry, part.path)
    except WeightsError as error:
        part.discard()
        raise WeightsError(f"{shown(url)}: {error}; thrown away, nothing was converted") from error
    try:
        convert_entry(entry, part.path, target, url=url, digests=digests)
    except OutputError as error:
        raise OutputError(f"{error} (the whole download is kept in {shown(part.path)})") from error
    except WeightsError:
        part.discard()
        raise
    part.discard()


def _checked(entry: Entry, path: Path) -> Digests:
    if not path.is_file():
        raise WeightsError(f"{shown(path)}: no such file")
    digests = file_digests([path])
    entry.check(digests, path.name)
    return digests


class _Part:
    """What has come of a download, and what it is a part of."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._facts = path.with_name(f"{path.name}.json")

    def state(self, url: str) -> tuple[int, str | None]:
        """Bytes that there are of this address, and the version that they are of, if the server named one."""
        try:
            facts = json.loads(self._facts.read_text(encoding="utf-8"))
            if facts["url"] == url and isinstance(facts["version"], str | None):
                return self.path.stat().st_size, facts["version"]
        except (OSError, ValueError, KeyError, TypeError):
            pass
        self.discard()
        return 0, None

    def begin(self, url: str, version: str | None) -> None:
        """Note whose bytes will follow, from the first on."""
        self.path.unlink(missing_ok=True)
        self._facts.write_text(json.dumps({"url": url, "version": version}), encoding="utf-8")

    def discard(self) -> None:
        for path in (self.path, self._facts):
            with suppress(OSError):
                path.unlink(missing_ok=True)


def _from_first(urls: tuple[str, ...], entry: Entry, part: _Part, timeout: float, progress: Progress) -> str:
    """Receive the file from the first address that gives it; returns that address."""
    for i, url in enumerate(urls, 1):
        try:
            _receive(url, entry, part, timeout, progress)
            return url
        except WeightsError:
            if i == len(urls):
                raise
    raise AssertionError("there is at least one address")


def _receive(url: str, entry: Entry, part: _Part, timeout: float, progress: Progress) -> None:
    """Bring the part to its full length."""
    have, version = part.state(url)
    if have and have == entry.nbytes:
        return
    if offline():
        raise WeightsError("NSTCORE_OFFLINE is set: the network is not used; unset it, or give a copy with --from FILE")
    try:
        response = _answer(url, have, version, timeout)
        with response:
            if response.status == 206 and not _continues(response, have, version):
                have = -1
            else:
                _store_body(response, url, entry, part, have if response.status == 206 else 0, progress)
        if have == -1:  # the server sent the wrong piece, or a piece of another version: all of it, then
            part.discard()
            with _answer(url, 0, None, timeout) as response:
                _store_body(response, url, entry, part, 0, progress)
    except (WeightsError, OutputError):
        raise
    except (OSError, ValueError, http.client.HTTPException) as error:
        kept = f"; what has come is kept in {part.path}: the same command resumes it" if part.path.exists() else ""
        raise WeightsError(f"{shown(url)}: {_reason(error, timeout)}{kept}") from error


def _answer(url: str, have: int, version: str | None, timeout: float) -> Any:
    """The server's answer to the request for what is missing."""
    headers = {"User-Agent": f"nstcore/{__version__}", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if version:
            headers["If-Range"] = version
    try:
        return _open(urllib.request.Request(url, headers=headers), timeout)
    except urllib.error.HTTPError as error:
        with error:
            if have and error.code == 416:  # nothing follows what we have: it is of another version
                return _answer(url, 0, None, timeout)
            raise


def _open(request: urllib.request.Request, timeout: float) -> Any:
    """Open it, or `TimeoutError`.

    A socket's time-out is one for every address of a host, and none for the look-up of its name; so the whole is done
    aside, and given up when the time is over.
    """
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    outcome: queue.SimpleQueue[Any] = queue.SimpleQueue()
    waiting = threading.Lock()  # held by whoever decides whether the answer came in time
    given_up = threading.Event()

    def work() -> None:
        try:
            result: Any = opener.open(request, timeout=timeout)
        except Exception as error:
            result = error
        with waiting:
            if not given_up.is_set():
                outcome.put(result)
            elif hasattr(result, "close"):
                result.close()

    threading.Thread(target=work, name="nstcore download", daemon=True).start()
    try:
        result = outcome.get(timeout=timeout)
    except queue.Empty:
        with waiting:
            given_up.set()
        if outcome.empty():
            raise TimeoutError from None
        result = outcome.get()
    if isinstance(result, Exception):
        raise result
    return result


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Followed a few times, never away from http and https, never from https back to http."""

    max_redirections = _MOST_REDIRECTS
    max_repeats = 2

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        scheme = newurl.partition(":")[0].lower()
        if scheme not in ("http", "https") or (req.type == "https" and scheme == "http"):
            fp.close()
            raise urllib.error.URLError(f"it redirects to {shown(newurl)[:200]}; expected https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _version(response: Any) -> str | None:
    """What the server calls this version of the file: a strong ETag, else its date."""
    tag = response.headers.get("ETag")
    return tag if tag and tag.startswith('"') else response.headers.get("Last-Modified")


def _continues(response: Any, have: int, version: str | None) -> bool:
    """Whether a partial answer begins where we are, in the same version."""
    found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
    return found is not None and int(found[1]) == have and _version(response) in (version, None)


def _store_body(response: Any, url: str, entry: Entry, part: _Part, start: int, progress: Progress) -> None:
    """Append the body to the part, which has `start` bytes; `WeightsError` if it is too long or too short."""
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise WeightsError(
            f"{shown(url)}: expected the file as it is, got it encoded; give another address with --from"
        )
    total = start + response.length if response.length is not None else None
    limit = entry.nbytes or total or _LARGEST
    if (total is not None and total != limit) or limit > _LARGEST:
        part.discard()
        wanted = f"{entry.nbytes} bytes" if entry.nbytes else f"at most {_LARGEST} bytes"
        raise WeightsError(f"{shown(url)}: expected {wanted}, the server offers {total}; it is another file")
    _check_space(part.path.parent, entry, limit - start if limit != _LARGEST else 0)
    try:
        if start == 0:
            part.begin(url, _version(response))
        done = start
        with part.path.open("ab") as file:
            progress(done, total or entry.nbytes)
            while block := _read(response):
                done += len(block)
                if done > limit:
                    raise WeightsError(f"{shown(url)}: expected {limit} bytes, got more; thrown away")
                file.write(block)
                progress(done, total or entry.nbytes)
    except _Broken as error:
        raise error.reason from error
    except OSError as error:
        part.discard()
        reason = f"cannot be written: {error.strerror or error}"
        raise OutputError(f"{shown(part.path)}: {reason}; thrown away, free space or set NSTCORE_HOME") from error
    except WeightsError:
        part.discard()
        raise
    if done < (total or entry.nbytes or 0):
        raise OSError(f"it broke off after {done} of {total or entry.nbytes} bytes")


class _Broken(Exception):
    """An error of the network, told apart from one of the disk."""

    def __init__(self, reason: Exception) -> None:
        self.reason = reason


def _read(response: Any) -> bytes:
    try:
        return response.read1(_BLOCK)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise _Broken(error) from error


def _check_space(folder: Path, entry: Entry, missing: int) -> None:
    """`OutputError` unless what is missing and the converted file will both fit."""
    converted = 4 * sum(math.prod(shape) + shape[0] for shape in vgg.convolutions(entry.architecture).values())
    free = shutil.disk_usage(folder).free
    if free < missing + converted:
        need = f"expected {missing + converted} free bytes for {entry.name}, found {free}"
        raise OutputError(f"{shown(folder)}: {need}; free space or set NSTCORE_HOME")


def _check_address(url: str) -> None:
    if not re.fullmatch(r"https?://[!-~]+", url):
        raise OptionError(f"--from {shown(url)[:200]}: expected an http or https address, or a file")


def _reason(error: Exception, timeout: float) -> str:
    """One clear phrase for whatever the network raised."""
    if isinstance(error, urllib.error.HTTPError):
        if 300 <= error.code < 400:
            return "it redirects without end, or to where it must not"
        return f"the server answered {error.code} {shown(str(error.reason))[:100]}"
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return f"no answer within {timeout:g} s"
    if isinstance(cause, socket.gaierror):
        return "the name of the host cannot be looked up; is there a network?"
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {cause.verify_message}"
    text = (isinstance(cause, OSError) and cause.strerror) or str(cause) or type(cause).__name__
    return shown(" ".join(text.split()))[:200]
