"""`fast`: one picture, several styles, folders; what is refused; and `run --init fast`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_desk import (  # noqa: F401  (fixtures)
    desk_fixture,
    furniture_fixture,
    main,
    no_new_folder_fixture,
    one_line,
    run,
)
from conftest import smooth_picture
from fast_nets import random_fast_weights

import nstcore
from nstcore import engines, fast, images
from nstcore.pretrained.fast.layout import write_fast_weights

PAIR = ("photos/a.png", "art/x.png")
QUICK = ("--size", 24, "--style-size", 40, "--threads", 1)


@pytest.fixture(scope="session")
def networks(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("networks")
    for model in fast.MODELS:
        write_fast_weights(folder / f"{model}.h5", random_fast_weights(model))
    return folder


@pytest.fixture(autouse=True)
def cached(desk, networks):
    """Both networks in the cache."""
    cache = desk / "cache" / "weights"
    cache.mkdir(parents=True)
    for path in networks.iterdir():
        (cache / path.name).symlink_to(path)


def paint(*arguments: object) -> int:
    return main("fast", *QUICK, *arguments)


def pixels(path: str | Path) -> np.ndarray:
    return images.load(path).pixels


# -- one picture ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", list(fast.MODELS))
def test_a_picture_is_painted_as_the_network_paints_it(desk, model, capsys):
    assert paint(*PAIR, "--model", model, "-o", "out.png") == 0
    said = capsys.readouterr()
    assert f"random-{model}" in said.out
    assert "out.png: 24x20, one pass in" in said.out
    net = fast.network(random_fast_weights(model), engines.create("cpu", "float32", 1))
    style = images.resize_pixels(pixels("art/x.png"), images.fit((20, 24), 40))
    expected = net.paint(images.resize_pixels(pixels("photos/a.png"), (20, 24)), net.look(style))
    np.testing.assert_array_equal(images.to_uint8(expected), images.to_uint8(pixels("out.png")))


def test_that_a_large_picture_is_being_written_is_said_before_it_is(desk, capsys, monkeypatch):
    monkeypatch.setattr("nstcore.commands.progress.LARGE", 100)
    monkeypatch.setattr(images, "write_picture", lambda *_, **__: print("written", file=sys.stderr))
    assert paint(*PAIR, "-o", "out.png") == 0
    said = capsys.readouterr().err.splitlines()
    assert said[said.index("written") - 1] == "nstcore: writing out.png, 24x20"


def test_the_style_is_seen_at_the_size_that_the_network_was_trained_with(desk):
    assert main("fast", *PAIR, "--size", 24, "-o", "usual.png") == 0
    side = images.fit((20, 24), round(256 * 24 / 20))[1]
    assert main("fast", *PAIR, "--size", 24, "--style-size", side, "-o", "same.png") == 0
    assert main("fast", *PAIR, "--size", 24, "--style-size", 64, "-o", "other.png") == 0
    np.testing.assert_array_equal(pixels("usual.png"), pixels("same.png"))
    assert (pixels("usual.png") != pixels("other.png")).any()


def test_without_pictures_the_example_pair_is_painted(desk, capsys):
    assert paint() == 0
    assert "The example pair" in capsys.readouterr().out
    assert Path("content-style-fast.png").is_file()
    assert paint("--quiet") == 0
    assert Path("content-style-fast-2.png").is_file(), "an earlier picture is never overwritten unasked"


def test_strength_goes_from_the_contents_own_look_to_the_styles(desk):
    for strength in (0, 0.5, 1):
        assert paint(*PAIR, "--strength", strength, "-o", f"{strength}.png", "--bits", 16) == 0
    net = fast.network(random_fast_weights("magenta"), engines.create("cpu", "float32", 1))
    content = images.resize_pixels(pixels("photos/a.png"), (20, 24))
    own = net.look(images.resize_pixels(content, images.target_size((20, 24), "short=256")))
    look = net.look(images.resize_pixels(pixels("art/x.png"), images.fit((20, 24), 40)))
    for strength in (0, 0.5, 1):
        expected = net.paint(content, strength * look + (1 - strength) * own)
        assert np.abs(pixels(f"{strength}.png") - expected).max() < 1e-4


def test_styles_blend_by_their_shares(desk):
    three = (PAIR[0], "art/x.png", "art/y.png")
    assert paint(*three, "-o", "equal.png") == 0
    assert paint(*three, "--style-blend", "2,2", "-o", "same.png") == 0
    assert paint(*three, "--style-blend", "1,0", "-o", "first.png") == 0
    assert paint(*PAIR, "-o", "alone.png") == 0
    np.testing.assert_array_equal(pixels("equal.png"), pixels("same.png"))
    np.testing.assert_array_equal(pixels("first.png"), pixels("alone.png"))
    assert (pixels("equal.png") != pixels("first.png")).any()


def test_alpha_and_orientation_are_the_contents(desk):
    from PIL import Image

    rgba = np.zeros((20, 24, 4), np.uint8)
    rgba[..., :3] = images.to_uint8(pixels("photos/a.png"))
    rgba[:, 12:, 3] = 255
    Image.fromarray(rgba).save("alpha.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    Image.fromarray(rgba[..., :3]).save("turned.jpg", exif=exif)
    assert paint("alpha.png", PAIR[1], "-o", "out.png") == 0
    alpha = images.load("out.png").alpha
    assert alpha is not None
    assert (alpha[:, :12] == 0).all()
    assert (alpha[:, 12:] == 1).all()
    assert paint("turned.jpg", PAIR[1], "-o", "upright.png") == 0
    assert pixels("upright.png").shape == (3, 24, 20)


def test_colours_may_be_the_contents(desk):
    assert paint(*PAIR, "--colors", "luminance", "-o", "out.png") == 0
    original = images.resize_pixels(pixels("photos/a.png"), (20, 24))
    painted = images.with_luminance(original, images.luminance(pixels("out.png")))
    assert np.abs(painted - pixels("out.png")).max() < 0.02


def test_a_picture_goes_from_standard_input_to_standard_output(desk):
    command = [sys.executable, "-m", "nstcore", "fast", *map(str, QUICK), "-", PAIR[1], "-o", "-"]
    done = subprocess.run(command, input=Path(PAIR[0]).read_bytes(), capture_output=True, env=environment())
    assert done.returncode == 0, done.stderr
    Path("piped.png").write_bytes(done.stdout)
    assert paint(*PAIR, "-o", "out.png") == 0
    np.testing.assert_array_equal(pixels("piped.png"), pixels("out.png"))


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(nstcore.__file__).parents[1])}


def test_a_picture_is_made_again_from_what_it_carries(desk, capsys):
    assert paint(*PAIR, "art/y.png", "--style-blend", "1,2", "--strength", 0.7, "-o", "out.png") == 0
    capsys.readouterr()
    assert main("rerun", "out.png") == 0
    assert "the pixels are identical to those of out.png" in capsys.readouterr().out
    carried = images.read_metadata("out-2.png")
    assert carried["settings"]["strength"] == 0.7
    assert carried["weights"]["model"] == "magenta"
    assert carried["complete"] is True


def test_made_again_with_another_network_is_refused(desk, capsys):
    assert paint(*PAIR, "-o", "out.png") == 0
    other = desk / "other.h5"
    write_fast_weights(other, random_fast_weights("magenta", 1))
    capsys.readouterr()
    assert main("rerun", "out.png", "--weights", other) == 2
    assert "expected those that out.png was made with" in one_line(capsys)
    assert main("rerun", "out.png", "--weights", other, "--anyway") == 0
    assert "the pixels differ" in capsys.readouterr().out


def test_the_python_function_gives_the_same_picture(desk):
    assert paint(*PAIR, "-o", "out.png") == 0
    result = nstcore.stylize_fast(*PAIR, size=24, style_size=40, threads=1)
    np.testing.assert_array_equal(result.image, images.to_uint8(pixels("out.png")))
    result.save("saved.png")
    np.testing.assert_array_equal(pixels("saved.png"), pixels("out.png"))
    arrays = [smooth_picture(20, 24, i) for i in range(2)]
    assert nstcore.stylize_fast(*arrays, size=16, weights=random_fast_weights("magenta")).image.shape == (13, 16, 3)


# -- folders --------------------------------------------------------------------------------------------------------


def test_a_folder_is_painted_into_a_folder(desk, capsys):
    from PIL import Image

    Image.fromarray(images.to_uint8(pixels("photos/a.png"))).save("photos/c.jpg")
    Image.fromarray(images.to_uint8(pixels("photos/a.png"))).save("photos/d.bmp")
    Path("photos/notes.txt").write_text("not a picture")
    assert paint("photos", PAIR[1], "-o", "painted") == 0
    assert "4 made" in capsys.readouterr().out
    assert sorted(os.listdir("painted")) == ["a.png", "b.png", "c.jpg", "d.png"]
    assert paint(*PAIR, "-o", "alone.png") == 0
    np.testing.assert_array_equal(pixels("painted/a.png"), pixels("alone.png"))


def test_what_is_there_is_kept_and_what_was_asked_otherwise_is_made_again(desk, capsys):
    assert paint("photos", PAIR[1], "-o", "painted") == 0
    os.remove("painted/b.png")
    before = Path("painted/a.png").stat().st_mtime_ns
    capsys.readouterr()
    assert paint("photos", PAIR[1], "-o", "painted") == 0
    assert "1 made, 1 kept" in capsys.readouterr().out
    assert Path("painted/a.png").stat().st_mtime_ns == before
    assert paint("photos", PAIR[1], "-o", "painted", "--strength", 0.5) == 0
    assert "2 made" in capsys.readouterr().out


def test_a_picture_that_cannot_be_read_does_not_stop_the_rest(desk, capsys):
    Path("photos/aa.png").write_bytes(b"no picture")
    assert paint("photos", PAIR[1], "-o", "painted") == 1
    said = capsys.readouterr()
    assert "2 made, 1 failed" in said.out
    assert "Traceback" not in said.err
    assert sorted(os.listdir("painted")) == ["a.png", "b.png"]


def test_a_folder_that_cannot_be_made_is_told(desk, capsys, no_new_folder):
    no_new_folder("painted")
    assert paint("photos", "art/x.png", "-o", "painted") == 1
    assert capsys.readouterr().err.count("painted: the folder cannot be made: read-only file system; choose") == 2


def test_ctrl_c_in_a_folder_keeps_what_is_done(desk, monkeypatch, capsys):
    whole = fast.FastNetwork.paint
    calls = []

    def interrupted(self, *arguments, **how):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return whole(self, *arguments, **how)

    monkeypatch.setattr(fast.FastNetwork, "paint", interrupted)
    assert paint("photos", PAIR[1], "-o", "painted") == 130
    said = capsys.readouterr()
    assert "1 made, 1 interrupted" in said.out
    assert "the same command goes on from here" in said.err
    assert os.listdir("painted") == ["a.png"]
    monkeypatch.undo()


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((*PAIR, "--strength", "2"), "--strength: expected a number from 0 to 1, got '2'"),
        ((*PAIR, "--strength", "nan"), "--strength: expected a number from 0 to 1"),
        ((*PAIR, "--style-blend", "1,2"), "--style-blend: expected one value for each of 1 styles, got 2"),
        ((*PAIR, "--weights", "weights.h5"), "weights.h5"),
        ((*PAIR, "--weights", "vgg19"), "python -m nstcore run --weights vgg19"),
        ((*PAIR, "--weights", "none.h5"), "none.h5: no such file"),
        ((*PAIR, "--weights", "adain", "--model", "magenta"), "expected its weights, got those of adain"),
        ((*PAIR, "--model", "other"), "magenta"),
        ((*PAIR, "-o", "out.xyz"), "out.xyz"),
        ((*PAIR, "-o", "photos/a.png"), "the output is photos/a.png itself"),
        ((*PAIR, "--device", "nothing"), "--device"),
        ((*PAIR, "--size", "99999999"), "make room"),
        (("photos/a.png",), "expected CONTENT and at least one STYLE"),
        (("none.png", "art/x.png"), "none.png: no such file"),
        (("none", "art/x.png", "-o", "painted"), "none: no such file or folder; expected a picture, or a folder of"),
        (("art/x.png", "weights.h5"), "weights.h5"),
        (("photos", "art/x.png", "-o", "weights.h5"), "expected a folder for the pictures of photos, got the file"),
        (("photos", "art/x.png", "-o", "-"), "expected a folder"),
        (("photos", "art/x.png", "-o", "photos"), "expected another folder than that of the contents"),
        (("cache", "art/x.png", "-o", "painted"), "cache: expected a folder with pictures"),
        (("photos", "none.png", "-o", "painted"), "none.png: no such file"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(desk, arguments, words, capsys):
    before = sorted(str(p) for p in desk.rglob("*"))
    assert paint(*arguments) == 2
    assert words in one_line(capsys)
    assert sorted(str(p) for p in desk.rglob("*")) == before


def test_a_network_that_is_not_there_says_how_to_get_it(desk, capsys):
    (desk / "cache" / "weights" / "magenta.h5").unlink()
    assert paint(*PAIR) == 2
    assert "python -m nstcore weights get magenta" in one_line(capsys)


def test_weights_of_a_one_pass_network_are_not_for_run(desk, capsys):
    assert run(*PAIR, "--weights", "magenta", "-o", "out.png") == 2
    assert "python -m nstcore fast" in one_line(capsys)


# -- as a start of a run --------------------------------------------------------------------------------------------


def test_a_run_may_start_from_the_pass(desk):
    assert run(*PAIR, "--init", "fast", "--iterations", 1, "-o", "out.png", "--device", "reference") == 0
    assert images.read_metadata("out.png")["start"]["name"] == "random-magenta"
    painted = nstcore.stylize_fast(*PAIR, size=24, device="reference", dtype="float32")
    painted.save("painted.tif", bits=16)
    assert run(*PAIR, "--init", "painted.tif", "--iterations", 1, "-o", "same.png", "--device", "reference") == 0
    assert np.abs(pixels("out.png") - pixels("same.png")).max() <= 1 / 255


def test_a_start_may_be_mixed_of_content_and_pass(desk, capsys):
    assert run(*PAIR, "--init", "content=0.5,fast=0.5", "-o", "out.png") == 0
    capsys.readouterr()
    assert main("rerun", "out.png") == 0
    assert "the pixels are identical" in capsys.readouterr().out


def test_a_run_that_starts_from_a_network_that_is_not_there_says_how_to_get_it(desk, capsys):
    (desk / "cache" / "weights" / "magenta.h5").unlink()
    assert run(*PAIR, "--init", "fast", "-o", "out.png") == 2
    assert "python -m nstcore weights get magenta" in one_line(capsys)
    assert not Path("out.png").exists()


def test_another_network_of_the_start_makes_another_picture(desk, capsys):
    assert run(*PAIR, "--init", "fast", "-o", "out.png") == 0
    assert run(*PAIR, "--init", "fast", "-o", "out.png", "--resume") == 0
    assert "kept" in capsys.readouterr().out
    cached = desk / "cache" / "weights" / "magenta.h5"
    cached.unlink()
    write_fast_weights(cached, random_fast_weights("magenta", 1))
    first = pixels("out.png")
    capsys.readouterr()
    assert main("rerun", "out.png", "--quiet") == 2
    assert "expected the network that painted the start of out.png" in one_line(capsys)
    assert run(*PAIR, "--init", "fast", "-o", "out.png", "--resume") == 0
    assert (pixels("out.png") != first).any()
