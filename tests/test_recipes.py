"""Recipes: named settings."""

from __future__ import annotations

import pytest
from command_desk import desk_fixture, furniture_fixture, main  # noqa: F401

from nstcore import images
from nstcore.commands.settings import Settings, Source
from nstcore.commands.sources import RECIPES, read_toml, recipe, recipe_names, resolve


def test_the_recipes_are_there():
    assert {"paper", "crisp", "painterly", "texture-only", "photo", "crowson"} <= set(recipe_names())


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_says_what_it_is_and_none_of_its_settings_is_meaningless(name):
    assert len(read_toml(RECIPES / f"{name}.toml", "a recipe")["description"]) > 20
    source = recipe(name)
    assert source.values
    strict = Settings([Source(source.name, source.values, strict=True)])
    assert all(strict.given(option) for option in source.values)


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_paints(desk, name):
    arguments = ["--size", 40, "--iterations", 2, "--weights", "weights.h5", "--style-layers", "relu1_1"]
    arguments += ["--content-layers", "relu2_1", "--threads", 1, "--quiet", "-o", "out.png"]
    assert main("run", "photos/a.png", "art/x.png", "--recipe", name, *arguments) == 0
    made = images.read_metadata("out.png")["settings"]
    for option, value in recipe(name).values.items():
        if option not in ("size", "iterations"):
            expected = value if option != "style_scale" else [value]
            assert made[option] == expected, option


def test_the_list_of_recipes_can_be_typed_back(capsys):
    assert main("run", "--list-recipes") == 0
    for block in capsys.readouterr().out.split("\n\n"):
        name, description, options = (line.strip() for line in block.strip().splitlines())
        assert description
        words = options.split()
        flags = {flag.removeprefix("--").replace("-", "_") for flag in words[::2]}
        assert flags == recipe(name).values.keys()


def test_the_highest_place_that_names_a_recipe_chooses_it():
    low, high = Source("file", {"recipe": "paper"}), Source("", {"recipe": "photo"})
    settings = resolve([low, high], Source("example", {"size": 99, "seed": 4}))
    assert (settings["colors"], settings["optimizer"]) == ("luminance", "adam")
    assert settings["seed"] == 4
    assert settings["style_weight"] == recipe("photo").values["style_weight"]
    assert settings["size"] == 99


def test_without_pictures_the_recipe_comes_before_the_sizes_of_the_example_pair(desk, monkeypatch):
    seen = {}

    def stylize(content, style, **options):
        seen.update(options)
        raise MemoryError

    monkeypatch.setattr("nstcore.transfer.stylize", stylize)
    monkeypatch.setattr("nstcore.commands.sources.recipe", lambda *_: Source("recipe", {"size": 600}))
    assert main("run", "--recipe", "paper", "--weights", "weights.h5", "--quiet") == 1
    assert (seen["size"], seen["iterations"]) == (600, 150)
    seen.clear()
    assert main("run", "--weights", "weights.h5", "--quiet") == 1
    assert (seen["size"], seen["iterations"]) == (384, 150)
