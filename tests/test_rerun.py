"""`rerun`: a picture made again from what it says of itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command_desk import (
    OPTIONS,
    desk_fixture,  # noqa: F401
    furniture_fixture,  # noqa: F401
    main,
    one_line,
    run,
)
from conftest import random_weights

import nstcore
from nstcore import disk, images
from nstcore.engines.cpu import CpuEngine
from nstcore.pretrained import write_weights

TWO = ("photos/a.png", "art/x.png", "art/y.png")
KINDS = {
    "as it comes": [],
    "lbfgs from noise": ["--optimizer", "lbfgs", "--history", 3, "--init", "noise", "--seed", 5],
    "a blend of scaled styles": ["--style-blend", "1,2,3", "--style-scale", "1,1.5,0.9"],
    "styles of their own size": ["--style-size", "20,auto,30"],
    "masks": ["--region", "mask.png,all,none,mask.png", "--protect", "left.png", "--guide-edges", "all"],
    "a region for each style": ["--region", "mask.png", "--region", "left.png", "--region", "photos/a.png"],
    "a start from a file": ["--init", "photos/b.png"],
    "a start of several parts": ["--init", "photos/b.png=0.5,noise=0.25,content=0.25"],
    "colours of the content": ["--colors", "symmetric"],
    "falling weights of layers": ["--style-layers", "relu1_1,relu2_1", "--style-falloff", 2],
    "crowson's convention": ["--convention", "crowson", "--pooling", "average"],
    "a ladder": ["--size", 40, "--ladder", 20],
    "an area": ["--size", "area=0.0005"],
    "as much as fits": ["--fit"],
    "without content": ["--content-weight", 0, "--init", "statistics"],
    "16 bits": ["--bits", 16],
}


@pytest.mark.parametrize("kind", KINDS)
def test_it_comes_out_the_same(desk, capsys, kind):
    images.write_picture(desk / "left.png", 1 - images.as_pixels("mask.png"))
    # given last, an option of the kind comes before the quick one
    made = ["run", *TWO, "photos/b.png", *OPTIONS, "--weights", "weights.h5", "-o", "out.png", "--quiet", *KINDS[kind]]
    assert main(*made) == 0
    assert main("rerun", "out.png") == 0
    assert "the pixels are identical to those of out.png" in capsys.readouterr().out
    assert images.load("out-2.png").bits == (16 if kind == "16 bits" else 8)
    old, new = (images.read_metadata(name) for name in ("out.png", "out-2.png"))
    assert new["losses"] == old["losses"]


@pytest.fixture
def out(desk) -> Path:
    """out.png, from photos/a.png and art/x.png."""
    assert run("photos/a.png", "art/x.png", "-o", "out.png", "--quiet") == 0
    return desk / "out.png"


def test_inputs_are_found_beside_the_picture_too(out, desk, monkeypatch, capsys):
    away = desk / "elsewhere"
    away.mkdir()
    monkeypatch.chdir(away)
    assert main("rerun", out, "--weights", desk / "weights.h5", "-o", "again.png") == 0
    (away / "flat").mkdir()
    for name in ("out.png", "photos/a.png", "art/x.png", "weights.h5"):
        (away / "flat" / Path(name).name).write_bytes((desk / name).read_bytes())
    assert main("rerun", "flat/out.png", "--weights", "flat/weights.h5") == 0
    assert capsys.readouterr().out.count("identical") == 2
    assert (away / "flat" / "out-2.png").exists()


def test_a_picture_that_the_python_api_saved_can_be_made_again(desk, capsys):
    weights = nstcore.load_weights("weights.h5")
    options = {"size": 24, "iterations": 2, "content_layers": ("relu2_1",), "style_layers": {"relu1_1": 0.3}}
    content = images.to_uint8(images.as_pixels("photos/a.png"))
    result = nstcore.stylize(content, ["art/x.png"], weights=weights, device="cpu", threads=1, **options)
    result.save("api.tif", bits=16)
    assert main("rerun", "api.tif", "--weights", "weights.h5") == 2
    assert "--content FILE" in one_line(capsys)
    assert main("rerun", "api.tif", "--weights", "weights.h5", "--content", "photos/a.png") == 0
    assert "identical" in capsys.readouterr().out
    assert images.load("api-2.tif").bits == 16


def test_another_picture_in_the_place_of_an_input_is_refused(out, capsys):
    Path("art/x.png").write_bytes(Path("art/y.png").read_bytes())
    assert main("rerun", out) == 2
    said = one_line(capsys)
    assert "style art/x.png" in said
    assert "--style FILE" in said
    assert main("rerun", out, "--anyway") == 0
    assert "the pixels differ" in capsys.readouterr().out


def test_a_missing_input_is_named_with_the_way_out(out, capsys):
    Path("photos/a.png").rename("photos/moved.png")
    assert main("rerun", out) == 2
    said = one_line(capsys)
    assert "content photos/a.png: no such file" in said
    assert "--content FILE" in said
    assert main("rerun", out, "--content", "photos/moved.png") == 0
    assert "identical" in capsys.readouterr().out


def test_a_missing_mask_is_named(desk, capsys):
    assert run("photos/a.png", "art/x.png", "-o", "out.png", "--protect", "mask.png", "--quiet") == 0
    Path("mask.png").unlink()
    assert main("rerun", "out.png") == 2
    assert "protect mask.png: no such file" in one_line(capsys)


def test_other_weights_are_refused(out, desk, capsys):
    Path("weights.h5").unlink()
    write_weights(desk / "weights.h5", random_weights(deepest="conv2_1", seed=1))
    assert main("rerun", out, "--offline") == 2
    said = one_line(capsys)
    assert "weights.h5 is random, SHA-256" in said
    assert "--weights FILE" in said
    assert main("rerun", out, "--offline", "--anyway") == 0
    assert "the pixels differ" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["out.jpg", "out.webp"])
def test_what_is_stored_approximately_cannot_be_compared(desk, capsys, name):
    assert run("photos/a.png", "art/x.png", "-o", name, "--quality", 80, "--quiet") == 0
    assert main("rerun", name) == 0
    assert "approximately" in capsys.readouterr().out
    again = Path(name).with_stem("out-2")
    assert again.exists()
    assert images.read_metadata(again)["request"]["settings"]["quality"] == "80"


def test_an_interrupted_picture_is_made_whole(desk, capsys, monkeypatch):
    evaluate, count = nstcore.Objective.__call__, iter(range(1000))

    def interrupted(self, pixels):
        if next(count) == 2:
            raise KeyboardInterrupt
        return evaluate(self, pixels)

    monkeypatch.setattr(nstcore.Objective, "__call__", interrupted)
    assert run("photos/a.png", "art/x.png", "-o", "out.png") == 130
    assert main("rerun", "out.png") == 0
    assert "ended before its time (interrupted)" in capsys.readouterr().out
    assert images.read_metadata("out-2.png")["complete"]


def test_the_picture_itself_is_never_written_over(out, capsys):
    before = out.read_bytes()
    assert main("rerun", "out.png", "-o", "./out.png") == 2
    assert "another name" in one_line(capsys)
    assert out.read_bytes() == before


@pytest.mark.parametrize("name", ["none.png", "photos/a.png"])
def test_a_picture_without_settings_is_refused_in_one_line(desk, capsys, name):
    assert main("rerun", name) == 2
    assert name in one_line(capsys)


@pytest.mark.parametrize("large", [False, True])
def test_a_changed_pixel_is_told(out, capsys, large, monkeypatch):
    if large:
        monkeypatch.setattr(images, "LARGE", 0)
        monkeypatch.setattr(disk, "STRIP_BYTES", 900)
        assert main("rerun", out, "-o", "same.png") == 0
        assert "identical" in capsys.readouterr().out
    record, pixels = images.read_metadata(out), images.as_pixels(out).copy()
    pixels[0, 0, 0] = 1 - pixels[0, 0, 0]
    images.write_picture(out, pixels, record)
    assert main("rerun", out) == 0
    said = capsys.readouterr().out
    assert f"{1 / np.size(pixels):.1%} of the values" in said
    assert f"{np.abs(pixels[0, 0, 0] * 2 - 1) * 255:.1f}/255 at most" in said


def test_a_change_of_alpha_alone_is_told(desk, capsys):
    seen = images.as_pixels("photos/a.png")
    images.write_picture("clear.png", seen, alpha=np.full(seen.shape[1:], 0.5, np.float32))
    assert run("clear.png", "art/x.png", "-o", "out.png", "--quiet") == 0
    record, loaded = images.read_metadata("out.png"), images.load("out.png")
    loaded.alpha[-1, -1] = 1
    images.write_picture("out.png", loaded.pixels, record, alpha=loaded.alpha)
    assert main("rerun", "out.png") == 0
    assert "the pixels differ from those of out.png: 0.0% of the values" in capsys.readouterr().out


def test_what_fitted_the_memory_then_is_made_at_that_size_now(desk, capsys, monkeypatch):
    with monkeypatch.context() as then:
        then.setattr(CpuEngine, "memory", lambda self: 15_000_000)
        assert run("photos/a.png", "art/x.png", "-o", "out.png", "--fit", "--size", 200, "--quiet") == 0
    made = images.as_pixels("out.png").shape
    assert 24 < max(made) < 200
    assert main("rerun", "out.png") == 0
    assert "identical" in capsys.readouterr().out
