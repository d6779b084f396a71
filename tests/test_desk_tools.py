"""The tools that measure and show the artist's desk."""

from __future__ import annotations

import runpy
import shlex
import sys
from pathlib import Path

import compare_ladder
import draw_gallery
import pytest
from conftest import ROOT
from test_transfer_desk import CONTENT, SMALL, STYLE, weights  # noqa: F401  (fixture)

from nstcore import Terms, engines, images
from nstcore.cli import parser
from nstcore.commands.sources import from_arguments, resolve
from nstcore.errors import NstcoreError
from nstcore.transfer import stylize

PAIR = (Path("photo.jpg"), Path("painting.jpg"))


def test_the_gallery_in_the_readme_is_that_of_the_recipes():
    text = draw_gallery.README.read_text()
    assert draw_gallery.section() in text, "run tools/draw_gallery.py"
    for name in draw_gallery.names():
        shown = images.read_picture(ROOT / draw_gallery.FOLDER / f"{name}.jpg")
        assert max(shown.shape) == draw_gallery.SHOWN


@pytest.mark.parametrize("name", draw_gallery.names())
def test_the_gallerys_commands_can_be_typed(name):
    args = parser().parse_args(shlex.split(draw_gallery.command(name)))
    assert resolve([from_arguments(args)])["size"] == 512


def fake(monkeypatch, ladder, single):
    """Runs that end at the given (content, style) distances; of the single size by style weight."""

    def paint(content, style, **options):
        found = ladder if options["ladder"] == 128 else single[options["style_weight"]]
        result = type("Result", (), {})()
        result.terms = Terms(0.0, *found, 0.0)
        return result

    monkeypatch.setattr(compare_ladder, "stylize", paint)


def test_the_ladder_is_compared_at_its_own_content_distance(monkeypatch):
    fake(monkeypatch, (0.4, 0.05), {5.0: (0.2, 0.4), 10.0: (0.8, 0.1), 20.0: (0.9, 0.09)})
    found = compare_ladder.compare(PAIR, None, None, 512, 10)
    assert (found.content, found.ladder) == (0.4, 0.05)
    assert found.single == pytest.approx(0.2)  # half way between, in logarithms


def test_a_content_distance_beyond_those_of_the_single_size_is_refused(monkeypatch):
    fake(monkeypatch, (1.4, 0.05), {5.0: (0.2, 0.4), 10.0: (0.8, 0.1), 20.0: (0.9, 0.09)})
    with pytest.raises(NstcoreError, match="outside"):
        compare_ladder.compare(PAIR, None, None, 512, 10)


def test_looks_are_compared_at_one_size(weights, monkeypatch):  # noqa: F811
    layers = {name: SMALL[name] for name in ("content_layers", "style_layers")}
    monkeypatch.setattr(compare_ladder, "SMALL", 24)
    monkeypatch.setattr(compare_ladder, "LARGE", 48)
    monkeypatch.setattr(compare_ladder, "stylize", lambda *a, **o: stylize(*a, **o | layers))
    objective = compare_ladder.Objective
    monkeypatch.setattr(compare_ladder, "Objective", lambda *a, **o: objective(*a, **o | layers))
    small, large, between = compare_ladder.looks((CONTENT, STYLE), weights, engines.create("cpu"), 20, ladder="off")
    assert 0 < small.style < 1
    assert 0 < between.style < large.style + small.style + 1
    assert list(small.style_layers) == list(SMALL["style_layers"])


@pytest.mark.parametrize("tool", ["bench_memory", "gpu_child"])
def test_scripts_that_others_start_say_what_they_are(monkeypatch, capsys, tool):
    path = str(ROOT / "tools" / f"{tool}.py")
    monkeypatch.setattr(sys, "argv", [path, "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(path, run_name="__main__")
    assert end.value.code == 0
    assert "process of its own" in " ".join(capsys.readouterr().out.split())
