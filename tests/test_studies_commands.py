"""`reconstruct`, `texture`, `features` and `ablate`, with a small random network."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest
from command_desk import (
    at_fixture,  # noqa: F401
    desk_fixture,  # noqa: F401
    furniture_fixture,  # noqa: F401
    interrupt,
    main,
    one_line,
)

from nstcore import images, studies
from nstcore.commands import features as features_command
from nstcore.commands import reconstruct as reconstruct_command
from nstcore.commands import study as study_commands
from nstcore.commands import texture as texture_command
from nstcore.errors import OutputError

MACHINE = ("--weights", "weights.h5", "--threads", "1")
QUICK = ("--size", "24", "--iterations", "3", "--layers", "relu1_1,relu2_1", *MACHINE)
AB = ("photos/a.png", "art/x.png", "-o", "ab", "--size", "24", "--iterations", "2", "--content-layers", "relu2_1")
AB = (*AB, "--layers", "relu1_1,relu2_1", "--ratios", "0.1,10", *MACHINE)


@pytest.fixture
def sheets(monkeypatch):
    """What the sheets were asked for."""
    asked = []
    real = images.contact_sheet

    def contact_sheet(pictures, labels, columns, title, foot):
        asked.append((pictures, labels, title))
        return real(pictures, labels, columns, title, foot=foot)

    monkeypatch.setattr(images, "contact_sheet", contact_sheet)
    return asked


def there() -> set[str]:
    """What was not on the desk before."""
    return {path.name for path in Path().iterdir()} - {"photos", "art", "mask.png", "weights.h5", "cache"}


@pytest.mark.parametrize(
    ("command", "function"),
    [(reconstruct_command, studies.reconstruct), (texture_command, studies.texture)]
    + [(features_command, f) for f in (studies.features, studies.grams, studies.patches)],
)
def test_the_defaults_of_a_command_are_those_of_its_function(command, function):
    signature = {name: p.default for name, p in inspect.signature(function).parameters.items()}
    assert {name: signature[name] for name in command.DEFAULTS} == command.DEFAULTS
    if "layers" in signature:
        assert signature["layers"] == study_commands.LAYERS
    if "channels" in signature:
        assert signature["channels"] == features_command.CHANNELS


def test_reconstruct_lays_out_a_sheet_and_says_the_numbers(desk, sheets, capsys):
    assert main("reconstruct", "photos/a.png", *QUICK) == 0
    ((pictures, labels, title),) = sheets
    assert labels[0] == "the picture"
    assert [label.split(":")[0] for label in labels[1:]] == ["relu1_1", "relu2_1"]
    assert "%, pixels" in labels[1]
    assert title == "a.png: what each layer still knows of it"
    np.testing.assert_array_equal(pictures[0], images.to_uint8(images.as_pixels("photos/a.png")))
    said = capsys.readouterr().out
    assert all(label in said for label in labels[1:])
    record = images.read_metadata("a-reconstruct.png")
    assert record["study"] == "reconstruct"
    assert record["complete"]
    assert record["settings"]["size"] == 24
    assert [set(panel) for panel in record["panels"]] == [{"label", "feature error", "pixel error"}] * 2
    assert there() == {"a-reconstruct.png"}


def test_an_earlier_sheet_keeps_its_name(desk):
    assert main("features", "photos/a.png", "--layer", "relu1_1", "--size", 24, *MACHINE, "--quiet") == 0
    before = Path("a-features.png").read_bytes()
    assert main("features", "photos/a.png", "--layer", "relu2_1", "--size", 24, *MACHINE, "--quiet") == 0
    assert Path("a-features.png").read_bytes() == before
    assert there() == {"a-features.png", "a-features-2.png"}


def test_a_picture_written_separately_can_be_made_again(desk, capsys):
    assert main("texture", "art/x.png", *QUICK, "--separate", "rows", "-o", "sheet.png", "--quiet") == 0
    assert {path.name for path in Path("rows").iterdir()} == {"relu1_1.png", "relu1_1-relu2_1.png"}
    assert main("rerun", "rows/relu1_1-relu2_1.png", "-o", "again.png") == 0
    assert "the pixels are identical" in capsys.readouterr().out


def test_without_a_picture_the_example_is_taken_and_named(desk, capsys):
    assert main("texture", *QUICK[:4], "--layers", "relu1_1", *MACHINE) == 0
    assert "The example picture: " in (said := capsys.readouterr().out)
    assert "style.jpg" in said
    assert there() == {"style-texture.png"}


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (("--layer", "relu2_1", "--channels", 5), 6),
        (("--gram", "--layer", "relu1_1,relu2_1"), 2),
        (("--patches", "--layer", "relu1_1", "--channels", 3), 4),
    ],
)
def test_features_of_every_kind(desk, sheets, options, count):
    assert main("features", "photos/a.png", *options, "--size", 24, *MACHINE, "-o", "s.png", "--quiet") == 0
    assert len(sheets[0][0]) == count
    assert images.read_metadata("s.png")["weights"]["sha256"]


def test_filters_need_no_picture(desk, sheets):
    assert main("features", "--filters", *MACHINE, "--quiet") == 0
    assert len(sheets[0][0]) == 64
    assert there() == {"filters.png"}


def test_ctrl_c_keeps_what_is_done_and_the_picture_at_hand(desk, at, capfd):
    at(8, interrupt)
    words = ("--optimizer", "adam", "--average", 0, "--iterations", 30)
    assert main("reconstruct", "photos/a.png", *QUICK, *words) == 130
    said = capfd.readouterr()
    assert "interrupted; what was done is in a-reconstruct.png" in said.err
    record = images.read_metadata("a-reconstruct.png")
    assert not record["complete"]
    assert [panel["label"] for panel in record["panels"]] == ["relu1_1"]
    assert record["panels"][0]["note"].startswith("interrupted after ")
    assert "of 30 iterations" in said.out
    assert there() == {"a-reconstruct.png"}


def test_ctrl_c_in_the_second_picture_leaves_the_first_as_it_is(desk, at):
    words = [*QUICK, "--optimizer", "adam", "--average", 0, "-o", "s.png", "--quiet"]
    at(4 + 2, interrupt)  # the first picture takes four evaluations
    assert main("reconstruct", "photos/a.png", *words) == 130
    first, second = images.read_metadata("s.png")["panels"]
    assert "note" not in first
    assert second["note"] == "interrupted after 1 of 3 iterations"


def test_ctrl_c_before_the_first_evaluation_leaves_nothing(desk, monkeypatch, capfd):
    from nstcore.commands.networks import Networks

    monkeypatch.setattr(Networks, "_load_vgg", lambda *_: interrupt())
    assert main("texture", "art/x.png", *QUICK) == 130
    assert capfd.readouterr().err == "nstcore: interrupted before there was anything to keep\n"
    assert there() == set()


def test_a_picture_that_fails_is_told_and_the_others_are_there(desk, at, capsys):
    def fail():
        raise MemoryError

    at(1, fail)
    assert main("reconstruct", "photos/a.png", *QUICK, "-o", "s.png", "--quiet") == 1
    assert "relu1_1: not enough memory" in one_line(capsys)
    record = images.read_metadata("s.png")
    assert [panel["label"] for panel in record["panels"]] == ["relu2_1"]
    assert not record["complete"]


def test_where_the_sheet_cannot_be_written_at_the_end_it_goes_elsewhere(desk, monkeypatch, capsys):
    real = images.write_picture

    def full(path, *arguments, **options):
        if Path(path).name == "s.png":
            raise OutputError("s.png: cannot be written: no space left on device; choose another place")
        real(path, *arguments, **options)

    monkeypatch.setattr(images, "write_picture", full)
    assert main("reconstruct", "photos/a.png", *QUICK, "-o", "s.png", "--quiet") == 1
    assert "no space left on device; the picture is in " in one_line(capsys)
    assert there() == {"nstcore-s.png"}


MISTAKES = {
    "a layer unheard of": (("reconstruct", "--layers", "relu9_9", *MACHINE), "relu9_9"),
    "a layer twice": (("texture", "--layers", "relu1_1,relu1_1", *MACHINE), "each layer once"),
    "weights of layers": (("reconstruct", "--layers", "relu1_1=2", *MACHINE), "names alone"),
    "a layer beyond the weights": (("features", "--layer", "relu3_1", *MACHINE), "end at conv2_1"),
    "no picture": (("reconstruct", "weights.h5", *QUICK), "weights.h5"),
    "an output that is the picture": (("texture", "art/x.png", *QUICK, "-o", "art/x.png"), "another name"),
    "an output of no kind": (("features", "--gram", *MACHINE, "-o", "s.txt"), ".png"),
    "a folder that is a file": (("texture", *QUICK, "--separate", "mask.png"), "--separate mask.png"),
    "an option of adam": (("reconstruct", *QUICK, "--learning-rate", "0.1"), "adam"),
    "two layers of maps": (("features", "--layer", "relu1_1,relu2_1", *MACHINE), "several are for --gram"),
    "no channel": (("features", "--channels", "0", *MACHINE), "1 or more"),
    "a scale unheard of": (("features", "--scale", "log", *MACHINE), "own, common"),
    "channels of Gram matrices": (("features", "--gram", "--channels", "3", *MACHINE), "no say in --gram"),
    "a picture of filters": (("features", "photos/a.png", "--filters", *MACHINE), "no say in --filters"),
    "deeper filters": (("features", "--filters", "--layer", "conv1_2", *MACHINE), "patches"),
    "two kinds": (("features", "--filters", "--gram", *MACHINE), "not allowed"),
    "a ratio of nothing": (("ablate", *AB, "--ratios", "0,1"), "above 0"),
    "a ratio twice": (("ablate", *AB, "--ratios", "1,1.0"), "each once"),
    "no content": (("ablate", *AB, "--content-weight", "0"), "--content-weight"),
    "only a content": (("ablate", "photos/a.png", *AB[2:]), "only CONTENT"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_refused_in_one_line_and_leaves_nothing(desk, capsys, case):
    arguments, expected = MISTAKES[case]
    before = sorted(desk.rglob("*"))
    assert main(*arguments, "--quiet") == 2
    assert expected in one_line(capsys)
    assert sorted(desk.rglob("*")) == before


def test_ablate_paints_every_set_of_layers_at_every_ratio_and_goes_on_where_it_was(desk, sheets, capsys):
    assert main("ablate", *AB, "--quiet") == 0
    ((pictures, labels, _),) = sheets
    assert labels == ["relu1_1, ratio 0.1", "relu1_1, ratio 10", "to relu2_1, ratio 0.1", "to relu2_1, ratio 10"]
    names = [f"{layers}_ratio={ratio}.png" for layers in ("relu1_1", "relu1_1-relu2_1") for ratio in ("0.1", "10")]
    assert {path.name for path in Path("ab").iterdir()} == {*names, "sheet.png"}
    made = images.read_metadata(Path("ab", names[2]))["settings"]
    assert (made["style_weight"], list(made["style_layers"])) == (10, ["relu1_1", "relu2_1"])
    Path("ab", names[1]).unlink()
    assert main("ablate", *AB) == 0
    assert "1 made, 3 kept" in capsys.readouterr().out
    for picture, name in zip(pictures, names, strict=True):
        np.testing.assert_array_equal(picture, images.to_uint8(images.as_pixels(Path("ab", name))))


def test_ablate_without_a_folder_makes_a_new_one_and_says_how_to_go_on(desk, at, capfd):
    arguments = [word for word in AB if word not in ("-o", "ab")]
    Path("a-x-ablate").mkdir()
    at(2, interrupt)
    assert main("ablate", *arguments, "--quiet") == 130
    assert "the same command with -o a-x-ablate-2 goes on with it" in capfd.readouterr().err
    assert main("ablate", *arguments, "-o", "a-x-ablate-2", "--quiet") == 0
    assert Path("a-x-ablate-2/sheet.png").is_file()
    assert not list(Path("a-x-ablate").iterdir())
