"""`sweep`: the product of some values, and the sheet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command_desk import (
    OPTIONS,
    desk_fixture,  # noqa: F401
    furniture_fixture,  # noqa: F401
    main,
    no_new_folder_fixture,  # noqa: F401
    one_line,
)

import nstcore
from nstcore import images

BASE = ("photos/a.png", "art/x.png", "-o", "sweep", "--weights", "weights.h5", *OPTIONS)
TWO = ("--over", "style-weight=1,100", "--over", "pooling=max,average,l2")


@pytest.fixture
def sheets(monkeypatch):
    """What the contact sheets were asked for."""
    asked = []
    real = images.contact_sheet

    def contact_sheet(pictures, labels, columns, title, foot):
        asked.append((pictures, labels, columns, title))
        return real(pictures, labels, columns, title, foot=foot)

    monkeypatch.setattr(images, "contact_sheet", contact_sheet)
    return asked


def test_every_combination_is_painted_and_named_by_its_values(desk, sheets):
    assert main("sweep", *BASE, *TWO, "--quiet") == 0
    names = [f"style-weight={w}_pooling={p}" for w in (1, 100) for p in ("max", "average", "l2")]
    assert {path.name for path in Path("sweep").iterdir()} == {f"{name}.png" for name in names} | {"sheet.png"}
    ((pictures, labels, columns, title),) = sheets
    assert columns == 3
    assert labels[4] == "style-weight 100, pooling average"
    assert title == "a - x"
    made = images.read_metadata("sweep/style-weight=100_pooling=average.png")["settings"]
    assert (made["style_weight"], made["pooling"]) == (100, "average")
    for picture, name in zip(pictures, names, strict=True):
        np.testing.assert_array_equal(picture, images.to_uint8(images.as_pixels(f"sweep/{name}.png")))


def test_a_sweep_goes_on_where_it_was(desk, sheets, capsys):
    assert main("sweep", *BASE, "--over", "seed=1,2", "--init", "noise", "--quiet") == 0
    assert main("sweep", *BASE, "--over", "seed=1,2,3", "--init", "noise") == 0
    assert "1 made, 2 kept" in capsys.readouterr().out
    assert [columns for _, _, columns, _ in sheets] == [2, 3]


def test_a_cell_that_fails_is_labelled_and_the_rest_is_there(desk, sheets, monkeypatch, capsys):
    evaluate, count = nstcore.Objective.__call__, iter(range(1000))

    def fail_first(self, pixels):
        if next(count) == 0:
            raise MemoryError
        return evaluate(self, pixels)

    monkeypatch.setattr(nstcore.Objective, "__call__", fail_first)
    assert main("sweep", *BASE, "--over", "tv-weight=0,1", "--quiet") == 1
    assert "not enough memory" in one_line(capsys)
    pictures, labels, _, _ = sheets[0]
    assert labels == ["tv-weight 0: failed", "tv-weight 1"]
    assert np.ptp(pictures[0]) == 0
    assert pictures[0].shape == pictures[1].shape


def test_values_with_commas_take_semicolons(desk, sheets):
    arguments = [word for word in BASE if word not in ("--style-layers", "relu1_1")]
    assert main("sweep", *arguments, "--over", "style-layers=relu1_1;relu1_1,relu2_1", "--quiet") == 0
    assert sheets[0][1] == ["style-layers relu1_1", "style-layers relu1_1,relu2_1"]
    found = images.read_metadata("sweep/style-layers=relu1_1-relu2_1.png")["settings"]["style_layers"]
    assert list(found) == ["relu1_1", "relu2_1"]


def test_a_sweep_is_small_and_short_unless_told_otherwise_and_takes_recipes(desk, monkeypatch):
    seen = []

    def stylize(content, style, **options):
        seen.append(options)
        raise MemoryError

    monkeypatch.setattr("nstcore.transfer.stylize", stylize)
    assert main("sweep", "-o", "s", "--weights", "weights.h5", "--over", "recipe=photo,painterly", "--quiet") == 1
    assert [options["size"] for options in seen] == [256, 256]
    assert [options["iterations"] for options in seen] == [100, 100]
    assert [options.get("colors") for options in seen] == ["luminance", None]
    assert not Path("s/sheet.png").exists()


MISTAKES = {
    "no value": (["--over", "size"], "OPTION=V1,V2"),
    "an unknown option": (["--over", "sise=1,2"], "did you mean size?"),
    "a value that does not fit": (["--over", "pooling=max,min"], "average"),
    "a value twice": (["--over", "seed=1,1"], "once"),
    "an option twice": (["--over", "seed=1,2", "--over", "seed=3"], "each option once"),
    "an option that is given": (["--over", "size=24,32"], "--size"),
    "a wrong combination": (["--over", "history=3,4"], "lbfgs"),
    "a layer too many": (["--over", "guide-edges=inside,all"], "--region"),
    "no axis": ([], "--over"),
}


def test_a_folder_that_cannot_be_made_is_refused(desk, capsys, no_new_folder):
    no_new_folder("sweep")
    assert main("sweep", *BASE, *TWO, "--quiet") == 2
    assert "sweep: the folder cannot be made: read-only file system; choose another place" in one_line(capsys)


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_refused_before_the_first_picture(desk, capsys, case):
    arguments, expected = MISTAKES[case]
    before = sorted(desk.rglob("*"))
    assert main("sweep", *BASE, *arguments) == 2
    assert expected in one_line(capsys)
    assert sorted(desk.rglob("*")) == before
