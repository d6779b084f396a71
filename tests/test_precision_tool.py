"""What tools/precision.py compares, and what it says of it."""

from __future__ import annotations

import math
import re

import numpy as np
import precision
import precision_study
import pytest
from bench import split
from conftest import ROOT, random_weights, smooth_picture
from PIL import Image
from precision_study import Errors, Painting, Study

from nstcore.commands.progress import Progress
from nstcore.engines.cuda import on_cpu
from nstcore.engines.cuda.precision import PRECISIONS
from nstcore.pretrained import write_weights

pytestmark = pytest.mark.slow

needs_stand_in = pytest.mark.skipif(on_cpu.problem() is not None, reason=str(on_cpu.problem()))


@pytest.fixture
def study():
    """A few layers and small pictures."""
    content, style = (smooth_picture(22, 26, seed).astype(np.float32) for seed in (1, 2))
    layers = {"content_layers": ["relu2_1"], "style_layers": ["relu1_1", "relu1_2"]}

    def make(precisions, steps=0):
        return Study(random_weights(), content, style, "cuda-on-cpu", precisions, steps, half=2, **layers)

    return make


@needs_stand_in
def test_float32_is_the_book_within_rounding_at_every_picture(study):
    found = list(study(["float32"]).errors())
    assert [e.picture for e in found] == ["content", "noise", "half way"]
    for e in found:
        assert e.precision == "float32"
        assert 0 < e.loss <= 8e-5
        assert 0 < e.gradient <= 1e-4
        assert e.free_gradient <= 5e-3
        assert e.loss <= e.free_loss + 1e-4
        assert set(e.terms) == {"relu2_1", "relu1_1", "relu1_2"}
        assert all(0 <= error <= 1e-3 for error in e.terms.values())
    assert found[0].terms["relu2_1"] == 0  # the content at itself


@pytest.mark.slow
@needs_stand_in
def test_fewer_bits_are_further_from_the_book(study):
    """bfloat16 rounds eight times as coarsely as float16 and tf32, all of them far more than float32."""
    noise = {e.precision: e for e in study(list(PRECISIONS)).errors() if e.picture == "noise"}
    assert noise["float32"].gradient < noise["tf32"].gradient < noise["bfloat16"].gradient
    assert noise["float16"].gradient < noise["bfloat16"].gradient
    for name, e in noise.items():
        assert e.gradient <= 10 * max(PRECISIONS[name].unit, 1e-5)


@needs_stand_in
def test_the_book_follows_the_decisions_of_the_engine_and_no_others(study, monkeypatch):
    """With the decisions of another picture the book's gradient is another."""
    one = study(["float32"])
    followed = next(one.errors()).gradient
    network = precision_study.ReferenceEngine("float64").network
    forward = None

    def astray(self, *arguments):
        found = network(*arguments)
        nonlocal forward
        forward = found.forward

        def flipped(pixels, decisions=None):
            if decisions is not None:
                decisions = {n: ~d if n == "relu1_1" else d for n, d in decisions.items()}
            forward(pixels, decisions=decisions)

        found.forward = flipped
        return found

    monkeypatch.setattr(precision_study.ReferenceEngine, "network", astray)
    assert next(study(["float32"]).errors()).gradient > 100 * followed


@needs_stand_in
def test_paintings_are_compared_as_they_are(study):
    one = study(["float32"], steps=2)
    steps = []

    class Counted(Progress):
        def __call__(self, done, total, note="", share=None):
            steps.append((done, total, note))

    found = list(one.paintings(Counted("step")))
    assert [p.name for p in found] == ["float32, the cpu engine", "float32"]
    assert steps == [(i + 1, 6, name) for i, name in enumerate(p.name for p in found for _ in range(3))]
    assert found[0].psnr(found[1]) > 60
    assert found[0].loss == pytest.approx(found[1].loss, rel=1e-4)
    terms, _ = one.book(found[1].pixels)
    assert found[1].loss == terms.total


def flat(name, value, loss=1.0):
    return Painting(name, np.full((3, 4, 5), value, np.float32), loss)


def test_paintings_are_apart_by_levels_and_decibels():
    a, b = flat("float32", 0.5), flat("tf32", 0.5 + 10 / 255, loss=1.02)
    assert a.levels(b) == pytest.approx(np.full((3, 4, 5), 10), rel=1e-5)
    assert a.psnr(b) == pytest.approx(20 * math.log10(255 / 10), rel=1e-5)
    assert a.psnr(a) == math.inf
    table = precision.painting_table([a, b], a)
    assert "| float32 | - | - | - | 1 | +0.00 |" in table
    assert "| tf32 | 28.1 | 10.0 | 10.00 | 1.02 | +2.00 |" in table


def test_every_error_is_in_the_tables():
    terms = {"relu4_2": 0.0, "relu1_1": 1.26e-3}
    found = [Errors("noise", "tf32", 1e-1, 2e-2, 3e-3, 4e-4, 5e-5, 6e-6, terms)]
    assert "| noise | tf32 | 1.0e-01 | 2.0e-02 | 3.0e-03 | 4.0e-04 | 5.0e-05 | 6.0e-06 |" in precision.error_table(
        found
    )
    table = precision.term_table(found)
    assert "| picture | precision | relu4_2 (content) | relu1_1 (style) |" in table
    assert "| noise | tf32 | 0.0e+00 | 1.3e-03 |" in table


def test_the_sheet_shows_every_painting_and_its_difference():
    a, b = flat("float32", 0.5), flat("tf32", 0.5 + 10 / 255)
    shown = np.asarray(precision.sheet([a, b], a))
    side, margin = precision.ENLARGED, precision.MARGIN
    assert shown.shape == (2 * (round(side * 4 / 5) + 2 * margin), 2 * (side + margin) + margin, 3)  # of 4 x 5 pixels
    middle = margin + 60
    lower = middle + shown.shape[0] // 2
    second = margin + side + margin + 60
    assert shown[middle, margin + 60].tolist() == [128] * 3
    assert shown[middle, second].tolist() == [138] * 3
    assert shown[lower, margin + 60].tolist() == [0] * 3
    assert shown[lower, second].tolist() == [80] * 3  # 8 x 10


# -- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--precisions", "tf32"], "expected float32"),
        (["--steps", "0", "--sheet", "sheet.png"], "--sheet: expected paintings, got --steps 0"),
        ([], "weights: expected the ImageNet VGG19 in the cache, found none; give --weights FILE"),
        (["--weights", "none.h5"], "none.h5"),
        (["--write", "none.md"], "none.md: expected a text file"),
        (["--sheet", "nowhere/sheet.png"], "nowhere"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line_before_anything_is_computed(
    tmp_path, monkeypatch, capsys, options, said
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NSTCORE_HOME", str(tmp_path / "empty"))
    assert precision.main(["--device", "cuda-on-cpu", *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("precision: ")
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.slow
@needs_stand_in
def test_the_command_compares_paints_and_writes(tmp_path, capsys):
    weights, readme, shown = tmp_path / "small.h5", tmp_path / "README.md", tmp_path / "sheet.png"
    write_weights(weights, random_weights())
    readme.write_text("before\n<!-- precision:book -->\nold\n<!-- /precision:book -->\nafter\n")
    options = ["--device", "cuda-on-cpu", "--precisions", "float32", "--size", "32", "--steps", "1"]
    paths = ["--weights", str(weights), "--sheet", str(shown), "--write", str(readme)]
    assert precision.main([*options, *paths]) == 0
    said, text = capsys.readouterr(), readme.read_text()
    assert "small.h5" in said.out
    assert str(tmp_path) not in said.out
    assert "old" not in text
    assert said.out.strip() in text
    assert "](sheet.png)" in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "| half way | float32 |" in text
    with Image.open(shown) as image:
        assert image.width > 2 * precision.ENLARGED


def test_the_section_is_in_the_readme():
    path = ROOT / "kernels" / "README.md"
    before, after = split(path, precision.NAME, precision.GROUP)
    text = path.read_text()
    section = text[len(before) : len(text) - len(after)]
    assert "tools/precision.py" in section, "run tools/precision.py --write"
    for shown in re.findall(r"!\[[^]]*\]\(([^)]*)\)", section):
        with Image.open(path.parent / shown) as image:
            assert image.width > 2 * precision.ENLARGED
