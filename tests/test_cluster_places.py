"""Where a cluster is, and what is said where there is none."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from cluster_desk import command, free_port
from command_desk import desk_fixture, furniture_fixture, main, one_line  # noqa: F401

from nstcore.commands import spread
from nstcore.commands.spread import cluster_of
from nstcore.engines.cluster import Cluster, ClusterEngine, serve
from nstcore.engines.cluster.address import Place, read_place
from nstcore.engines.cuda import gpu
from nstcore.engines.memory import free_memory
from nstcore.errors import DeviceError, OptionError
from nstcore.version import __version__

pytest.importorskip("distributed")


def test_a_place_is_workers_of_our_own_an_address_or_a_file(tmp_path):
    assert read_place("local:12") == Place(workers=12)
    assert read_place("tcp://host.name:8786") == Place(address="tcp://host.name:8786")
    assert read_place("tls://[::1]:1") == Place(address="tls://[::1]:1")
    (tmp_path / "s.json").write_text(json.dumps({"type": "Scheduler", "address": "tcp://10.0.0.1:8786"}))
    assert read_place(str(tmp_path / "s.json")) == Place(address="tcp://10.0.0.1:8786")


@pytest.mark.parametrize(
    "text",
    ["", "local", "local:0", "local:-1", "local:x", "tcp://host", "tcp://host:0", "tcp://host:65536", "udp://h:1", "."],
)
def test_what_is_no_place_is_refused(text):
    with pytest.raises(OptionError, match="cluster: expected local:N"):
        read_place(text)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"address": 3}', '{"address": "inproc://1"}', "\x00"])
def test_a_file_of_another_kind_is_refused(text, tmp_path):
    (tmp_path / "s").write_text(text)
    with pytest.raises(OptionError, match="expected"):
        read_place(str(tmp_path / "s"))


def test_without_the_library_one_line_says_what_to_install(desk, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    for words in (
        ["run", "photos/a.png", "art/x.png", "--weights", "weights.h5", "--cluster", "local:2"],
        ["worker", "tcp://127.0.0.1:8786"],
        ["worker", "--scheduler", "0"],
    ):
        assert main(*words) == 2
        assert 'pip install "nstcore[cluster]"' in one_line(capsys)


@pytest.mark.parametrize(
    "words",
    [
        ["run", "photos/a.png", "art/x.png", "--weights", "weights.h5", "--cluster", "nowhere"],
        ["worker"],
        ["worker", "local:2"],
        ["worker", "nowhere"],
        ["worker", "tcp://127.0.0.1:1", "--scheduler", "0"],
        ["worker", "tcp://127.0.0.1:1", "--threads", "0"],
        ["worker", "tcp://127.0.0.1:1", "--device", "abacus"],
        ["worker", "--scheduler", "127.0.0.1:70000"],
        ["worker", "--scheduler", "192.0.2.1:0"],
    ],
)
def test_what_cannot_be_is_one_line(words, desk, capsys):
    assert main(*words) == 2
    assert "expected" in one_line(capsys)


def test_a_worker_without_its_gpu_is_refused_before_it_joins(monkeypatch, capsys):
    monkeypatch.setattr(gpu, "_problem", lambda index: "CuPy finds no NVIDIA GPU; use --device cpu")
    monkeypatch.setattr(serve, "_Served", None)
    assert main("worker", "tcp://127.0.0.1:1", "--device", "cuda") == 2
    assert one_line(capsys).strip() == "nstcore: device cuda: CuPy finds no NVIDIA GPU; use --device cpu"


def test_nobody_there_is_one_line(monkeypatch):
    from nstcore.engines.cluster import connection

    monkeypatch.setattr(connection, "ANSWER", 0.5)
    with pytest.raises(
        DeviceError, match=r"expected a scheduler at tcp://127\.0\.0\.1:1, got no answer; start one with"
    ):
        Cluster("tcp://127.0.0.1:1")


def test_pictures_are_spread_where_several_name_one_cluster():
    one, other = ({"cluster": "local:2"}, {"cluster": "local:3"})
    jobs = [SimpleNamespace(settings=settings) for settings in (one, one, other, {"cluster": None})]
    assert cluster_of(jobs[:2]) == "local:2"
    assert cluster_of(jobs[:1]) is None
    assert cluster_of(jobs[:3]) is None
    assert cluster_of(jobs[3:] * 2) is None


def test_a_worker_plans_for_its_share_of_the_memory_and_for_its_own_version(tmp_path, monkeypatch):
    def plan(job, *_):
        return spread.Outcome(job, "made", str(free_memory(tmp_path)))

    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemAvailable: 9000 kB\n")
    monkeypatch.setattr(spread, "attempted", plan)
    monkeypatch.setattr(spread, "_studios", {})
    monkeypatch.chdir(tmp_path)
    given = "job", "1/1", str(tmp_path), "driver", True
    assert spread._paint(*given, 3, __version__) == ("made", str(3000 * 1024), 0.0)
    assert free_memory(tmp_path) == 9000 * 1024
    state, note, _ = spread._paint(*given, 3, "0.0.1")
    assert state == spread.FAILED
    assert note == f"the worker has nstcore {__version__}, this is 0.0.1"


def test_a_worker_listens_where_its_scheduler_reaches_it_over_ipv6():
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            pass
    except OSError:
        pytest.skip("this machine has no IPv6")
    assert serve._own_address("tcp://[::1]:8786") == "[::1]"


def test_a_worker_listens_where_its_scheduler_reaches_it(monkeypatch):
    assert serve._own_address("tcp://127.0.0.1:8786") == "127.0.0.1"
    assert serve._own_address("tls://localhost:8786") == "127.0.0.1"

    def nowhere(*_, **__):
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    with pytest.raises(DeviceError, match=r"^worker: expected a scheduler at tcp://nowhere:1, .*: Name or service not"):
        serve._own_address("tcp://nowhere:1")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes certificates with openssl")
def test_behind_certificates_of_dasks_own_configuration(tmp_path, monkeypatch):
    import dask
    import distributed  # noqa: F401 (its defaults)

    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    request = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    files = ["-keyout", key, "-out", certificate]
    subprocess.run(["openssl", *request.split(), *files], check=True, capture_output=True)
    given = {"ca-file": certificate}
    for who in ("client", "scheduler", "worker"):
        given |= {f"{who}.cert": certificate, f"{who}.key": key}
    settings = {f"distributed.comm.tls.{name}": str(file) for name, file in given.items()}
    settings["distributed.comm.require-encryption"] = "True"
    for name, value in settings.items():
        monkeypatch.setenv("DASK_" + name.upper().replace(".", "__").replace("-", "_"), value)
    port = free_port()
    words = f"-m distributed.cli.dask_scheduler --protocol tls --host 127.0.0.1 --port {port} --no-dashboard"
    scheduler = subprocess.Popen([sys.executable, *words.split()], stderr=subprocess.DEVNULL)
    address = f"tls://127.0.0.1:{port}"
    try:
        with (
            dask.config.set(settings),
            command("worker", address, "--device", "cpu", "--threads", 1, expect=b"a worker of tls://"),
            Cluster(address) as cluster,
        ):
            x = np.random.default_rng(1).random((3, 200, 170), np.float32)
            engine = ClusterEngine(cluster, side=128)
            np.testing.assert_array_equal(engine.numpy(engine.array(x)), x)
    finally:
        scheduler.kill()
        scheduler.wait()
