"""One file over HTTP: resumed where it broke off, never longer than it should be, given up when nothing comes.

Only http and https are spoken, through redirects too; proxies are those of the environment (http_proxy, https_proxy,
no_proxy). What the bytes are is not looked at: `download` checks them before anything is parsed.
"""

from __future__ import annotations

import http.client
import json
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import OutputError, WeightsError
from ..version import __version__
from .registry import PublishedFile
from .weights import shown

# Told the bytes that have come, and how many there will be, if that is known.
Progress = Callable[[int, int | None], None]

_BLOCK = 1 << 16
_LARGEST = 2 << 30  # bytes of a file whose size nobody states
_MOST_REDIRECTS = 5
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


@dataclass(frozen=True)
class Wanted:
    """A file that is to come: what it belongs to, and how many bytes that will take once it is converted."""

    name: str
    file: PublishedFile
    converted: int


def offline() -> bool:
    """Whether the environment forbids the network: NSTCORE_OFFLINE, set to anything but 0."""
    return os.environ.get("NSTCORE_OFFLINE", "") not in ("", "0")


class Part:
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


def from_first(urls: tuple[str, ...], wanted: Wanted, part: Part, timeout: float, progress: Progress) -> str:
    """Receive the file from the first address that gives it; returns that address."""
    for i, url in enumerate(urls, 1):
        try:
            _receive(url, wanted, part, timeout, progress)
            return url
        except WeightsError:
            if i == len(urls):
                raise
    raise AssertionError("there is at least one address")


def _receive(url: str, wanted: Wanted, part: Part, timeout: float, progress: Progress) -> None:
    """Bring the part to its full length."""
    have, version = part.state(url)
    if have and have == wanted.file.nbytes:
        return
    if offline():
        raise WeightsError("NSTCORE_OFFLINE is set: the network is not used; unset it, or give a copy with --from FILE")
    try:
        response = _answer(url, have, version, timeout)
        with response:
            if response.status == 206 and not _continues(response, have, version):
                have = -1
            else:
                _store_body(response, url, wanted, part, have if response.status == 206 else 0, progress)
        if have == -1:  # the server sent the wrong piece, or a piece of another version: all of it, then
            part.discard()
            with _answer(url, 0, None, timeout) as response:
                _store_body(response, url, wanted, part, 0, progress)
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


def _store_body(response: Any, url: str, wanted: Wanted, part: Part, start: int, progress: Progress) -> None:
    """Append the body to the part, which has `start` bytes; `WeightsError` if it is too long or too short."""
    nbytes = wanted.file.nbytes
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise WeightsError(
            f"{shown(url)}: expected the file as it is, got it encoded; give another address with --from"
        )
    total = start + response.length if response.length is not None else None
    limit = nbytes or total or _LARGEST
    if (total is not None and total != limit) or limit > _LARGEST:
        part.discard()
        size = f"{nbytes} bytes" if nbytes else f"at most {_LARGEST} bytes"
        raise WeightsError(f"{shown(url)}: expected {size}, the server offers {total}; it is another file")
    _check_space(part.path.parent, wanted, limit - start if limit != _LARGEST else 0)
    try:
        if start == 0:
            part.begin(url, _version(response))
        done = start
        with part.path.open("ab") as file:
            progress(done, total or nbytes)
            while block := _read(response):
                done += len(block)
                if done > limit:
                    raise WeightsError(f"{shown(url)}: expected {limit} bytes, got more; thrown away")
                file.write(block)
                progress(done, total or nbytes)
    except _Broken as error:
        raise error.reason from error
    except OSError as error:
        part.discard()
        reason = f"cannot be written: {error.strerror or error}"
        raise OutputError(f"{shown(part.path)}: {reason}; thrown away, free space or set NSTCORE_HOME") from error
    except WeightsError:
        part.discard()
        raise
    if done < (total or nbytes or 0):
        raise OSError(f"it broke off after {done} of {total or nbytes} bytes")


class _Broken(Exception):
    """An error of the network, told apart from one of the disk."""

    def __init__(self, reason: Exception) -> None:
        self.reason = reason


def _read(response: Any) -> bytes:
    try:
        return response.read1(_BLOCK)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise _Broken(error) from error


def _check_space(folder: Path, wanted: Wanted, missing: int) -> None:
    """`OutputError` unless what is missing and the converted file will both fit."""
    free = shutil.disk_usage(folder).free
    if free < missing + wanted.converted:
        need = f"expected {missing + wanted.converted} free bytes for {wanted.name}, found {free}"
        raise OutputError(f"{shown(folder)}: {need}; free space or set NSTCORE_HOME")


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
