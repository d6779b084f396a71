"""The folder of compiled kernels has a limit, and what is in use stays."""

from __future__ import annotations

import os

import pytest

from nstcore.engines.cuda import cache


@pytest.fixture
def kernels(tmp_path, monkeypatch):
    """Ten files of 100 bytes, the first used longest ago."""
    monkeypatch.setenv("NSTCORE_HOME", str(tmp_path))
    cache.folder().mkdir()
    files = [cache.folder() / f"{i}.so" for i in range(10)]
    for i, path in enumerate(files):
        path.write_bytes(bytes(100))
        os.utime(path, (1e9 + i, 1e9 + i))
    return files


def test_within_the_limit_nothing_goes(kernels):
    cache.prune(1000)
    assert all(path.exists() for path in kernels)


def test_beyond_the_limit_what_was_used_longest_ago_goes_down_to_half(kernels):
    cache.use(kernels[0])
    cache.prune(999)
    assert [path.exists() for path in kernels] == [True] + [False] * 6 + [True] * 3


def test_a_folder_that_is_not_there_and_a_file_that_has_gone_are_no_trouble(tmp_path, monkeypatch):
    monkeypatch.setenv("NSTCORE_HOME", str(tmp_path / "nowhere"))
    cache.prune(0)
    cache.use(tmp_path / "gone.so")


def test_the_folder_of_the_process_alone_is_one_and_there():
    assert cache.own_folder() == cache.own_folder()
    assert cache.own_folder().is_dir()
