"""Options: one table, several places to give them, and what comes first."""

from __future__ import annotations

import inspect

import pytest
from command_desk import OPTIONS as QUICK_OPTIONS
from command_desk import desk_fixture, furniture_fixture, main, one_line, run  # noqa: F401

import nstcore
from nstcore import conventions, engines, fast, images, transfer
from nstcore.commands import kinds, one_pass, studio
from nstcore.commands.kinds import show
from nstcore.commands.options import GROUPS, OPTIONS
from nstcore.commands.settings import Settings, Source
from nstcore.commands.sources import from_table, read
from nstcore.errors import OptionError
from nstcore.objective import EDGES
from nstcore.objective.statistics import STYLE_LOSSES
from nstcore.transfer.tiles import MEMORIES

PARAMETERS = {
    name: parameter
    for function in (nstcore.Objective.__init__, nstcore.stylize)
    for name, parameter in inspect.signature(function).parameters.items()
}


@pytest.mark.parametrize("name", [n for n, o in OPTIONS.items() if o.scope == "picture"])
def test_the_default_of_an_option_is_that_of_the_python_api(name):
    option = OPTIONS[name]
    assert PARAMETERS[option.api_name].default == option.default


def test_every_option_of_the_python_api_has_one_of_the_command_line():
    ours = {"self", "content", "style", "engine", "on_start", "on_step", "statistics", "options", "network"}
    ours |= {"stop", "snapshot", "snapshot_every", "resume"}  # what the commands give there is not what was given them
    assert PARAMETERS.keys() - ours == {o.api_name for o in OPTIONS.values() if o.scope in ("picture", "machine")} - {
        "offline",
        "cluster",
    }


def test_the_words_of_an_option_are_those_of_the_program():
    assert kinds.INITS == transfer.INITS
    assert studio.FAST_WEIGHTS == transfer.FAST_WEIGHTS
    assert tuple(fast.MODELS) == one_pass.MODELS
    words = {name: option.kind.words for name, option in OPTIONS.items() if isinstance(option.kind, kinds.Choice)}
    assert words == {
        "colors": transfer.COLORS,
        "guide_edges": EDGES,
        "convention": tuple(conventions.CONVENTIONS),
        "style_loss": STYLE_LOSSES,
        "pooling": ("max", "average", "l2"),
        "optimizer": transfer.OPTIMIZERS,
        "pyramid": transfer.PYRAMIDS,
        "device": engines.DEVICES,
        "precision": engines.PRECISIONS,
        "memory": MEMORIES,
    }


@pytest.mark.parametrize("command", ["run", "sweep"])
def test_help_shows_every_option_in_its_group_with_its_unit_and_default(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(command, "--help") == 0
    text = " ".join(capsys.readouterr().out.split())
    for title, options in GROUPS.items():
        at = text.index(f" {title}: {options[0].flag}")
        for option in options:
            assert option.describe().replace("%%", "%") in text[at:]
            assert f"in {option.unit} (default: " in option.describe() or not option.unit


VALUES = {
    "size": ["512", 512, "content", "short=300", "area=2.5"],
    "fit": [True, "false"],
    "init": ["noise", "content=0.8,noise=0.2", "dir/a.png", "a.png=0.5,noise=0.5"],
    "style_blend": ["2,1", [2, 1], 3],
    "style_scale": ["1,0.5", 0.5],
    "style_size": ["700,auto", [700, "auto"], 600],
    "region": ["m.png", ["m.png", "n.png,all"], [["m.png", "s.png", "none"]]],
    "content_layers": ["relu4_2", "relu3_1=0.5,relu4_2", ["relu4_2"], {"relu4_2": 2}],
    "ladder": ["auto", "off", 64],
    "average": [0, "0.5"],
    "bits": [16, "8"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in VALUES.items() for value in values])
def test_a_value_is_read_back_from_its_own_text(name, value):
    option = OPTIONS[name]
    first = read(option, value, name)
    assert read(option, show(first), name) == first


BAD_VALUES = {
    "size": ["big", "short=", "area=-1", "wide=3", 0, True, 1.5],
    "iterations": ["many", 0, 2.5, True],
    "learning_rate": [0, "nan", "inf", -1, True],
    "average": [1, -0.1],
    "style_blend": ["1,", "a", [-1], []],
    "style_scale": ["0", "1,0"],
    "style_size": ["0", "1.5"],
    "region": ["", "a.png,,b.png", [[]], 3],
    "style_layers": ["relu1_1,,", "relu1_1=x", "relu1_1,relu1_1", {}, [], {"relu1_1": -1}, 4],
    "fit": ["maybe", 1],
    "bits": [12, "x"],
    "quality": [0, 101],
    "ladder": ["on", 0],
    "pooling": ["min", 3],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD_VALUES.items() for value in values])
def test_a_value_that_does_not_fit_is_refused_by_name(name, value):
    with pytest.raises(OptionError, match=f"^here: expected .*, got {'.*'}"):
        read(OPTIONS[name], value, "here")


def settings_of(path):
    """What a picture says of how it was made."""
    return images.read_metadata(path)["settings"]


def test_the_command_line_comes_before_the_settings_file_before_the_recipe(desk):
    (desk / "s.toml").write_text('recipe = "painterly"\ntv-weight = 0.25\nstyle_weight = 3\n')
    assert run("photos/a.png", "art/x.png", "-o", "out.png", "--settings", "s.toml", "--style-weight", 7) == 0
    made = settings_of("out.png")
    assert (made["style_weight"], made["tv_weight"], made["pooling"], made["size"]) == (7, 0.25, "average", 24)


def test_a_settings_file_names_pictures_relative_to_itself(desk):
    folder = desk / "sub"
    folder.mkdir()
    pictures = 'content = "../photos/a.png"\nstyle = ["../art/x.png", "../art/y.png"]\noutput = "out.png"\n'
    (folder / "s.toml").write_text(
        pictures + 'weights = "../weights.h5"\nstyle-blend = [2, 1]\nprotect = "../mask.png"'
    )
    assert main("run", "--settings", "sub/s.toml", *QUICK_OPTIONS, "--quiet") == 0
    assert settings_of(folder / "out.png")["style_blend"] == pytest.approx([2 / 3, 1 / 3])


def test_layers_may_be_a_table(desk):
    (desk / "s.toml").write_text("[style-layers]\nrelu1_1 = 2.0\nrelu2_1 = 0.5\n")
    arguments = ["--settings", "s.toml", "--size", 24, "--iterations", 1, "--weights", "weights.h5"]
    assert main("run", "photos/a.png", "art/x.png", "-o", "o.png", "--content-layers", "relu2_1", *arguments) == 0
    assert settings_of("o.png")["style_layers"] == {"relu1_1": 2.0, "relu2_1": 0.5}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("style-wieght = 3", "did you mean style-weight?"),
        ("zzz = 3", "expected one of"),
        ("size = [", "TOML"),
        ("size = true", "s.toml: size: expected a long side"),
        ('recipe = "papre"', "paper"),
    ],
)
def test_a_settings_file_with_a_mistake_is_refused_in_one_line(desk, capsys, text, expected):
    (desk / "s.toml").write_text(text)
    assert main("run", "photos/a.png", "art/x.png", "-o", "out.png", "--settings", "s.toml") == 2
    assert expected in one_line(capsys)


def test_a_settings_file_that_is_not_there_is_refused_in_one_line(desk, capsys):
    assert main("run", "photos/a.png", "art/x.png", "--settings", "none.toml") == 2
    assert "none.toml" in one_line(capsys)


TWO = ("photos/a.png", "art/x.png", "art/y.png")
COMBINATIONS = {
    "history of adam": (["--history", "5"], "lbfgs"),
    "learning rate of lbfgs": (["--optimizer", "lbfgs", "--learning-rate", "0.1"], "adam"),
    "average of lbfgs": (["--optimizer", "lbfgs", "--average", "0.9"], "adam"),
    "learning rate with a recipe of lbfgs": (["--recipe", "paper", "--learning-rate", "0.1"], "adam"),
    "16 bits in JPEG": (
        ["--bits", "16", "-o", "out.jpg"],
        "--bits 16 is for PNG and TIFF; name out.jpg so, or leave it out",
    ),
    "quality of PNG": (["--quality", "90"], "--quality is for JPEG and WebP; name "),
    "one blend weight for two styles": (["--style-blend", "1"], "each of 2 styles"),
    "three scales for two styles": (["--style-scale", "1,2,3"], "each of 2 styles"),
    "one mask for two styles": (["--region", "mask.png,all"], "each style"),
    "edges without masks": (["--guide-edges", "inside"], "--region or --protect"),
    "scale and size": (
        ["--style-scale", "2", "--style-size", "30"],
        "--style-scale has no say beside --style-size; leave that out, or ",
    ),
    "a snapshot that is none": (["--snapshot", "mask.png"], "mask.png: expected a snapshot of nstcore for --snapshot"),
    "a mask that is missing": (["--protect", "nothing.png"], "--protect"),
    "jobs with pictures": (["--jobs", "jobs.toml"], "CONTENT"),
    "an unknown recipe": (["--recipe", "none"], "painterly"),
    "the output is the content": (["-o", "photos/a.png"], "itself"),
}


@pytest.mark.parametrize("case", COMBINATIONS)
def test_a_wrong_combination_is_refused_in_one_line(desk, capsys, case):
    arguments, expected = COMBINATIONS[case]
    before = sorted(desk.rglob("*"))
    assert main("run", *TWO, *arguments) == 2
    assert expected in one_line(capsys)
    assert sorted(desk.rglob("*")) == before


def test_what_a_higher_place_makes_meaningless_is_left_out():
    recipe = Source("recipe", {"optimizer": "lbfgs", "history": 7}, strict=False)
    file = Source("s.toml", {"history": 9})
    assert Settings([recipe, file])["history"] == 9
    above = Settings([recipe, file, Source("", {"optimizer": "adam", "average": 0.5})])
    assert "history" not in above.keywords()
    assert above.keywords() == {"optimizer": "adam", "average": 0.5}
    with pytest.raises(OptionError, match=r"s\.toml: history is a setting of lbfgs"):
        Settings([Source("recipe", {"optimizer": "adam"}), file])


def test_only_what_was_given_is_passed_on_under_the_names_of_the_python_api(tmp_path):
    given = {"region": ["m.png,s.png", "n.png,all"], "size": 99, "precision": "float64", "bits": 16}
    settings = Settings([from_table(given, "s", tmp_path)])
    m, n, s = (str(tmp_path / name) for name in ("m.png", "n.png", "s.png"))
    assert settings.keywords() == {"regions": [(m, [s]), (n, ["all"])], "size": 99}


def test_two_requests_are_alike_only_if_the_pictures_would_be():
    def record(**values):
        return Settings([Source("", values)]).record(lambda path: path.upper())

    assert record(size=512) == record()
    assert record(device="cpu", threads=3, save_every=2, recipe="x") == record()
    assert record(protect="m.png")["protect"] == "M.PNG"
    for values in ({"size": 100}, {"bits": 16}, {"precision": "float64"}, {"style_weight": 2.0}, {"seed": 1}):
        assert record(**values) != record()
