"""Downloads from a server on this machine: whole, broken, wrong, slow, redirected; the cache is whole or as it was."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import random_weights
from weights_files import refused, write_keras
from weights_server import Server

from nstcore import vgg
from nstcore.errors import OptionError, OutputError
from nstcore.pretrained import download, load_weights, places, read_weights, receive, registry
from nstcore.pretrained.download import fetch
from nstcore.pretrained.readers import keras
from nstcore.pretrained.registry import PublishedFile, Registry, VggEntry


@pytest.fixture
def payload(tmp_path, monkeypatch) -> bytes:
    """A Keras file of a small network under the name of vgg19; larger than one block of the download."""
    monkeypatch.setitem(vgg.ARCHITECTURES, "vgg19", ((1, 40), (3, 50)))
    return write_keras(tmp_path / "keras.h5", random_weights(deepest="conv2_3")).read_bytes()


@pytest.fixture
def server(payload):
    with Server(payload) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.closing.set()
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """A cache of one's own, a network, and no proxy."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.delenv("NSTCORE_OFFLINE", raising=False)
    monkeypatch.setenv("NSTCORE_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "weights"


def one(payload: bytes, *urls: str, **changes: object) -> Registry:
    """A registry of one entry, named small."""
    known = {"nbytes": len(payload), "hashes": {"md5": hashlib.md5(payload).hexdigest()}}
    known |= {key: changes.pop(key) for key in ("nbytes", "hashes") if key in changes}
    facts: dict[str, object] = {
        "name": "small",
        "kind": "vgg",
        "architecture": "vgg19",
        "files": (PublishedFile("published.h5", urls, **known),),
        "container": "keras_h5",
        "preprocessing": keras.PREPROCESSING,
        "padding": "zero",
        "pooling": "max",
        "licence": "a licence",
        "note": "a note",
    }
    return Registry({"small": VggEntry(**{**facts, **changes})})  # type: ignore[arg-type]


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def get_refused(known: Registry, error=None, **options) -> str:
    call = lambda: fetch("small", registry=known, **{"timeout": 5.0, **options})  # noqa: E731
    return refused(call, **({"error": error} if error else {}))


def test_a_whole_file_is_checked_converted_and_the_cache_holds_nothing_else(server, payload, cache):
    seen = []
    url = server.url("whole")
    path = fetch("small", registry=one(payload, url), progress=lambda done, total: seen.append((done, total)))
    assert path == cache / "small.h5"
    assert files(cache) == ["small.h5"]
    weights = read_weights(path)
    assert weights.name == "small"
    assert weights.provenance["source"] == "published.h5"
    assert weights.provenance["source_url"] == url
    assert weights.provenance["source_sha256"] == hashlib.sha256(payload).hexdigest()
    assert weights.provenance["licence"] == "a licence"
    assert seen[0] == (0, len(payload))
    assert seen[-1] == (len(payload), len(payload))
    assert len(seen) > 2


@pytest.mark.parametrize("path", ["whole", "no-ranges", "wrong-piece", "no-length"])
def test_a_download_that_breaks_off_is_kept_and_resumed(server, payload, cache, path):
    known = one(payload, server.url(path))
    server.cut = len(payload) // 2
    message = get_refused(known)
    assert f"broke off after {len(payload) // 2} of {len(payload)} bytes" in message
    assert f"kept in {cache / '.small.download'}: the same command resumes it" in message
    assert files(cache) == [".small.download", ".small.download.json"]
    seen = []
    fetch("small", registry=known, progress=lambda done, _: seen.append(done))
    assert server.requests[1][1:] == (f"bytes={len(payload) // 2}-", '"1"')
    assert seen[0] == (len(payload) // 2 if path == "whole" else 0)
    assert files(cache) == ["small.h5"]
    assert read_weights(cache / "small.h5").provenance["source_sha256"] == hashlib.sha256(payload).hexdigest()


@pytest.mark.parametrize("path", ["whole", "no-if-range"])
def test_a_file_that_changed_on_the_server_is_fetched_from_its_beginning(server, payload, cache, path):
    known = one(payload, server.url(path))
    server.content, server.tag = bytes(len(payload)), '"0"'
    server.cut = 1000
    get_refused(known)
    server.content, server.tag = payload, '"1"'
    fetch("small", registry=known)
    assert files(cache) == ["small.h5"]


def test_a_part_of_another_address_is_not_continued(server, payload, cache):
    server.cut = 1000
    get_refused(one(payload, server.url("whole")))
    fetch("small", registry=one(payload, server.url("no-ranges")))
    assert server.requests[1][1] is None


def test_a_part_that_is_longer_than_the_file_is_begun_anew(server, payload, cache):
    known = one(payload, server.url("whole"), nbytes=None)
    server.cut = 1000
    get_refused(known)
    with (cache / ".small.download").open("ab") as part:
        part.write(payload)
    fetch("small", registry=known)
    assert [request[1] for request in server.requests] == [None, f"bytes={1000 + len(payload)}-", None]
    assert files(cache) == ["small.h5"]


def test_wrong_bytes_are_thrown_away_before_anything_is_parsed(server, payload, cache, monkeypatch):
    monkeypatch.setattr(download, "convert_entry", lambda *_, **__: pytest.fail("parsed before it was checked"))
    message = get_refused(one(payload, server.url("wrong-bytes")))
    assert f"expected md5 {hashlib.md5(payload).hexdigest()}, got" in message
    assert "thrown away, nothing was converted" in message
    assert files(cache) == []


@pytest.mark.parametrize(
    ("path", "nbytes", "words"),
    [
        ("longer", True, "the server offers"),
        ("length-lies", True, "the server offers"),
        ("length-lies", False, "expected md5"),
        ("longer-without-length", True, "got more; thrown away"),
        ("encoded", True, "got it encoded"),
        ("missing", True, "the server answered 404"),
        ("loop", True, "redirects without end"),
        ("to-file", True, "redirects"),
        ("to-ftp", True, "it redirects to ftp://127.0.0.1/x"),
        ("no-http", True, "SSH-2.0-nothing"),
    ],
)
def test_what_is_not_the_file_is_one_line_and_leaves_nothing(server, payload, cache, path, nbytes, words):
    cache.mkdir(parents=True)
    (cache / "small.h5").write_text("precious")
    url = server.url(path)
    message = get_refused(one(payload, url, nbytes=len(payload) if nbytes else None))
    assert words in message
    assert url in message
    assert files(cache) == ["small.h5"]
    assert (cache / "small.h5").read_text() == "precious"


def test_a_redirect_is_followed(server, payload, cache):
    fetch("small", registry=one(payload, server.url("redirect")))
    assert [request[0] for request in server.requests] == ["/redirect", "/whole"]
    assert files(cache) == ["small.h5"]


def test_a_redirect_from_https_to_http_is_refused():
    request = receive.urllib.request.Request("https://127.0.0.1/x")
    with pytest.raises(receive.urllib.error.URLError, match="expected https"), socket.socket() as answer:
        receive._Redirects().redirect_request(request, answer, 302, "Found", {}, "http://127.0.0.1/x")


@pytest.mark.parametrize("path", ["silent", "stalls"])
def test_a_server_that_says_nothing_is_given_up(server, payload, cache, path):
    began = time.monotonic()
    message = get_refused(one(payload, server.url(path)), timeout=0.3)
    assert "no answer within 0.3 s" in message
    assert time.monotonic() - began < 2
    assert ("resumes it" in message) == (path == "stalls")


def test_a_look_up_of_a_name_that_hangs_is_given_up(payload, monkeypatch):
    done = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: done.wait(5) and [])
    began = time.monotonic()
    assert "no answer within 0.3 s" in get_refused(one(payload, "http://published.invalid/x"), timeout=0.3)
    assert time.monotonic() - began < 2
    done.set()


def test_nobody_at_the_address_is_one_line(payload, cache):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert "refused" in get_refused(one(payload, f"http://127.0.0.1:{port}/x"))
    assert not cache.parent.exists()  # nor an empty folder


def test_the_second_address_serves_where_the_first_does_not(server, payload, cache):
    fetch("small", registry=one(payload, server.url("missing"), server.url("whole")))
    assert read_weights(cache / "small.h5").provenance["source_url"] == server.url("whole")


def test_the_proxy_of_the_environment_is_used(server, payload, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url("").rstrip("/"))
    fetch("small", registry=one(payload, "http://published.invalid/whole"))
    assert server.requests[0][0] == "http://published.invalid/whole"


def test_offline_means_offline(server, payload, monkeypatch):
    monkeypatch.setenv("NSTCORE_OFFLINE", "1")
    assert "NSTCORE_OFFLINE is set" in get_refused(one(payload, server.url("whole")))
    assert server.requests == []


def test_a_full_disk_is_one_line_and_leaves_room(server, payload, cache, monkeypatch):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(payload) // 2, limits[1]))  # a write beyond it fails
    try:
        message = get_refused(one(payload, server.url("whole")), error=OutputError)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert ".small.download: cannot be written" in message
    assert files(cache) == []
    usage = receive.shutil.disk_usage(".")._replace(free=1000)
    monkeypatch.setattr(receive.shutil, "disk_usage", lambda _: usage)
    assert "free bytes for small, found 1000" in get_refused(one(payload, server.url("whole")), error=OutputError)
    assert files(cache) == []


def test_a_download_that_could_not_be_converted_for_want_of_room_is_not_fetched_again(
    server, payload, cache, monkeypatch
):
    known = one(payload, server.url("whole"))
    (cache / "small.h5").mkdir(parents=True)
    assert "the whole download is kept" in get_refused(known, error=OutputError)
    (cache / "small.h5").rmdir()
    monkeypatch.setenv("NSTCORE_OFFLINE", "1")
    fetch("small", registry=known)
    assert len(server.requests) == 1
    assert files(cache) == ["small.h5"]


def test_a_file_with_the_right_hash_that_no_reader_takes_leaves_nothing(server, payload, cache):
    server.content = b"\x89HDF\r\n\x1a\n and nothing"
    assert "damaged or cut short" in get_refused(one(server.content, server.url("whole")))
    assert files(cache) == []


# ---- where it comes from


def test_a_local_copy_is_checked_and_converted(payload, cache, tmp_path):
    fetch("small", source=str(tmp_path / "keras.h5"), registry=one(payload))
    assert files(cache) == ["small.h5"]
    assert (tmp_path / "keras.h5").read_bytes() == payload
    known = one(payload, hashes={"sha256": "0" * 64})
    assert "expected sha256 000" in get_refused(known, source=str(tmp_path / "keras.h5"))
    assert "no such file" in get_refused(known, source=str(tmp_path / "none"))
    assert "no such file" in get_refused(known, source=str(tmp_path))


def test_a_mirror_serves_what_the_registry_knows(server, payload, cache):
    fetch("small", source=server.url("whole"), registry=one(payload, server.url("missing")))
    assert [request[0] for request in server.requests] == ["/whole"]


def test_names_and_addresses_that_make_no_sense_are_refused(payload):
    known = one(payload)
    assert "expected one of small" in refused(lambda: fetch("large", registry=known))
    assert "no address is known (a note)" in get_refused(known)
    for source in ("file:///etc/passwd", "ftp://127.0.0.1/x", "http://127.0.0.1/a b", "http://"):
        assert "expected an http or https address" in get_refused(known, error=OptionError, source=source)
    for timeout in (0, -1, float("nan"), float("inf")):
        assert "expected seconds above 0" in get_refused(known, error=OptionError, timeout=timeout)


# ---- one at a time


def lock(cache: Path, pid: int, host: str = socket.gethostname()) -> Path:
    cache.mkdir(parents=True, exist_ok=True)
    path = cache / ".small.lock"
    path.write_text(json.dumps({"host": host, "pid": pid}))
    return path


def dead() -> int:
    """The number of a process that has ended."""
    return int(subprocess.check_output([sys.executable, "-c", "import os; print(os.getpid())"]))


def test_a_second_process_is_turned_away_and_the_first_is_not_disturbed(server, payload, cache):
    path = lock(cache, os.getpid())
    assert f"another process is fetching them; wait for it, or if there is none, remove {path}" in get_refused(
        one(payload, server.url("whole"))
    )
    assert server.requests == []
    assert files(cache) == [".small.lock"]


@pytest.mark.parametrize("kind", ["dead", "old", "elsewhere"])
def test_a_lock_that_nobody_holds_any_more_is_taken_away(server, payload, cache, kind):
    known = one(payload, server.url("whole"))
    path = lock(
        cache, dead() if kind == "dead" else os.getpid(), "another" if kind == "elsewhere" else socket.gethostname()
    )
    if kind == "elsewhere":
        assert "another process" in get_refused(known)
    if kind != "dead":
        os.utime(path, (time.time() - 3600,) * 2)
    fetch("small", registry=known)
    assert files(cache) == ["small.h5"]


# ---- auto


@pytest.fixture
def published(server, payload, monkeypatch) -> Server:
    """The registry's vgg19 is the server's file."""
    known = one(payload, server.url("whole"), name="vgg19")
    known = Registry({"vgg19": known.entries["small"]})
    monkeypatch.setattr(registry, "default_registry", lambda: known)
    monkeypatch.setattr(download, "default_registry", lambda: known)
    return server


def test_auto_downloads_only_when_it_is_told_to(published, cache, monkeypatch, tmp_path):
    monkeypatch.setattr(places, "builtin_path", lambda: tmp_path / "builtin.h5")
    assert "builtin.h5" in refused(load_weights)  # it went for the built-in file
    assert published.requests == []
    assert load_weights(download=True).name == "vgg19"
    assert load_weights(download=True).name == "vgg19"
    assert load_weights().name == "vgg19"
    assert len(published.requests) == 1


def test_auto_says_why_it_fell_back_and_a_name_does_not_fall_back(published, tmp_path, monkeypatch):
    monkeypatch.setattr(places, "builtin_path", lambda: tmp_path / "builtin.h5")
    published.content = bytes(len(published.content))
    failures = []
    assert "builtin.h5" in refused(lambda: load_weights(download=True, on_failure=failures.append))
    assert "expected md5" in str(failures[0])
    assert "expected md5" in refused(lambda: load_weights("vgg19", download=True))
    monkeypatch.setenv("NSTCORE_OFFLINE", "1")
    assert "found no file" in refused(lambda: load_weights("vgg19", download=True))
    assert len(published.requests) == 2
