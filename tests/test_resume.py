"""Snapshots: a run that goes on from one ends as if nothing had happened."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from conftest import random_weights, smooth_picture

import nstcore
from nstcore.errors import OptionError, OutputError, SnapshotError
from nstcore.transfer import snapshot as snapshots

CONTENT, STYLE = (smooth_picture(h, w, seed) for h, w, seed in ((40, 60, 1), (50, 45, 2)))
WAYS = {
    "adam": {"iterations": 8},
    "adam without an average": {"iterations": 8, "average": 0.0},
    "lbfgs": {"iterations": 8, "optimizer": "lbfgs", "history": 3},
    "adam, ladder": {"iterations": 6, "ladder": 24},
    "lbfgs, ladder": {"iterations": 6, "ladder": 24, "optimizer": "lbfgs"},
    "protected, two styles": {"iterations": 6, "style": [STYLE, CONTENT], "protect": smooth_picture(20, 20, 3)},
    "the colours of the content": {"iterations": 5, "colors": "luminance", "init": "noise", "ladder": 34},
}


@pytest.fixture(scope="module")
def weights():
    return random_weights(deepest="conv3_1")


def paint(weights, **options):
    given = {
        "size": 48,
        "style": STYLE,
        "style_layers": ("relu1_1", "relu2_1"),
        "content_layers": ("relu3_1",),
        "threads": 1,
    } | options
    return nstcore.stylize(CONTENT, given.pop("style"), weights=weights, **given)


def after(evaluations):
    """A `stop` that says yes when it is asked for the n-th time."""
    asked = itertools.count(1)
    return lambda: next(asked) >= evaluations


def same(one, other):
    np.testing.assert_array_equal(other.pixels, one.pixels)
    assert other.losses == one.losses
    assert other.terms == one.terms
    assert other.status == one.status


@pytest.mark.parametrize("way", WAYS)
def test_a_run_cut_anywhere_ends_as_the_whole_one_bit_for_bit(way, weights, tmp_path):
    whole, file = paint(weights, **WAYS[way]), tmp_path / "s.h5"
    for cut in (1, 2, 5, 9):
        first = paint(weights, **WAYS[way], snapshot=file, stop=after(cut))
        if not first.interrupted:
            break
        assert len(first.losses) < len(whole.losses) + 1
        with snapshots.open_snapshot(file) as (record, _):
            before = record["seconds"]
        rest = paint(weights, **WAYS[way], snapshot=file, resume=True)
        same(whole, rest)
        assert rest.metadata["resumed"] == 1
        assert rest.seconds > before > 0
    assert cut > 1


def test_a_run_cut_at_every_step_ends_as_the_whole_one(weights, tmp_path):
    options, file = WAYS["lbfgs, ladder"], tmp_path / "s.h5"
    whole = paint(weights, **options)
    result = paint(weights, **options, snapshot=file, stop=after(1))
    cuts = 0
    while result.interrupted:
        cuts += 1
        result = paint(weights, **options, snapshot=file, resume=True, stop=after(2))
    same(whole, result)
    assert cuts >= 8
    assert result.metadata["resumed"] == cuts


def test_snapshots_are_written_now_and_then_and_change_nothing(weights, tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(
        nstcore.transfer.loop, "write_snapshot", lambda path, record, arrays: written.append((record, list(arrays)))
    )
    result = paint(weights, iterations=8, snapshot=tmp_path / "s.h5", snapshot_every=1e-9)
    assert 1 <= len(written) <= 9
    assert written[0][1] == ["x", "best", "m", "v"]  # no average before the first iterate
    same(paint(weights, iterations=8), result)
    written.clear()
    paint(weights, iterations=8, snapshot=tmp_path / "s.h5", snapshot_every=0)
    assert not written


def test_writing_takes_a_twentieth_of_the_time_at_most(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(snapshots.time, "monotonic", lambda: now[0])
    clock = snapshots.Clock(10.0)
    assert not clock.due
    now[0] += 10
    assert clock.due
    clock.wrote(3.0)
    now[0] += 59
    assert not clock.due
    now[0] += 1
    assert clock.due


def test_a_disk_that_takes_no_snapshot_does_not_end_the_run(weights, tmp_path, monkeypatch):
    def full(*_):
        raise OutputError("no space left on device")

    monkeypatch.setattr(nstcore.transfer.loop, "write_snapshot", full)
    notes = []
    result = paint(
        weights,
        iterations=4,
        snapshot=tmp_path / "s.h5",
        snapshot_every=1e-9,
        on_step=lambda step: step.note and notes.append(step.note),
    )
    assert "no snapshot this time: no space left on device" in notes
    assert result.metadata["events"] == ["no snapshot this time: no space left on device"] * len(
        result.metadata["events"]
    )
    same(paint(weights, iterations=4), result)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"style_weight": 3.0}, "style weight 10, not 3"),
        ({"seed": 7}, "seed 0, not 7"),
        ({"size": 56}, "size 48x32 pixels, not 56x37 pixels"),
        ({"iterations": 9}, "iterations 8, not 9"),
        ({"style": CONTENT}, "another style"),
        ({"init": "content=0.9,noise=0.1"}, "init content, not content=0.9,noise=0.1"),
        ({"style_layers": {"relu1_1": 1, "relu2_1": 0.5}}, "style layers"),
        ({"optimizer": "lbfgs"}, "optimizer adam, not lbfgs"),
    ],
)
def test_a_snapshot_of_other_settings_is_refused_with_the_difference(changed, words, weights, tmp_path):
    file = tmp_path / "s.h5"
    paint(weights, iterations=8, snapshot=file, stop=after(3))
    with pytest.raises(SnapshotError, match="expected a snapshot of this very run") as refused:
        paint(weights, **({"iterations": 8} | changed), snapshot=file, resume=True)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_snapshot_of_other_weights_is_refused(weights, tmp_path):
    paint(weights, iterations=8, snapshot=tmp_path / "s.h5", stop=after(3))
    with pytest.raises(SnapshotError, match="another weights"):
        paint(random_weights(deepest="conv3_1", seed=1), iterations=8, snapshot=tmp_path / "s.h5", resume=True)


def test_on_another_machine_a_run_goes_on_and_says_that_the_bits_differ(weights, tmp_path):
    paint(weights, iterations=6, snapshot=tmp_path / "s.h5", stop=after(3))
    rest = paint(weights, iterations=6, snapshot=tmp_path / "s.h5", resume=True, device="reference")
    assert any("will not be the same bit for bit" in event for event in rest.metadata["events"])
    assert len(rest.losses) == 7


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "text", "head", "missing"])
def test_a_damaged_snapshot_is_refused_in_one_line(damage, weights, tmp_path):
    file = tmp_path / "s.h5"
    paint(weights, iterations=4, snapshot=file, stop=after(2))
    whole = file.read_bytes()
    changed = bytearray(whole)
    changed[len(whole) // 2] ^= 1
    {
        "cut": lambda: file.write_bytes(whole[:-1]),
        "flip": lambda: file.write_bytes(changed),
        "empty": lambda: file.write_bytes(b""),
        "text": lambda: file.write_text("a snapshot"),
        "head": lambda: file.write_bytes(b"x" + whole[1:]),
        "missing": file.unlink,
    }[damage]()
    with pytest.raises(SnapshotError) as refused:
        paint(weights, iterations=4, snapshot=file, resume=True)
    assert "\n" not in str(refused.value)


def test_to_resume_takes_a_snapshot(weights):
    with pytest.raises(OptionError, match="resume: expected a snapshot"):
        paint(weights, resume=True)


@pytest.mark.parametrize("way", ["adam", "lbfgs"])
def test_what_fitted_then_is_taken_whatever_fits_now(way, weights, tmp_path, monkeypatch):
    options, file = WAYS[way] | {"fit": True, "size": 60}, tmp_path / "s.h5"
    plain = nstcore.transfer.prepare.planned

    def smaller(tile, fit, wanted, engine, needs_of):
        needs = needs_of(engine)
        return engine, needs, needs.plan((32, 48), 2) if fit else needs.plan(wanted, 2)

    monkeypatch.setattr(nstcore.transfer.prepare, "planned", smaller)
    whole = paint(weights, **options)
    first = paint(weights, **options, snapshot=file, stop=after(4))
    assert first.pixels.shape == (3, 32, 48)
    monkeypatch.setattr(nstcore.transfer.prepare, "planned", plain)
    same(whole, paint(weights, **options, snapshot=file, resume=True))
