"""The script that draws the example pair, and the pair that ships."""

import draw_examples
import numpy as np
import pytest
from conftest import ROOT
from examples import content
from PIL import Image

SHIPPED = {"content": (768, 512), "style": (640, 512)}
SCALE = 0.125

pytestmark = pytest.mark.slow  # drawing takes four seconds


@pytest.fixture(scope="module")
def small():
    return {name: getattr(draw_examples, name).draw(SCALE) for name in SHIPPED}


@pytest.mark.parametrize("name", SHIPPED)
def test_a_small_version_has_its_share_of_the_shipped_size(small, name):
    width, height = SHIPPED[name]
    assert small[name].dtype == np.uint8
    assert small[name].shape == (height * SCALE, width * SCALE, 3)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_pictures_use_the_range_of_values_without_clipping(small, name):
    values = small[name]
    assert np.percentile(values, 1) < 50
    assert np.percentile(values, 99) > 200
    assert np.mean((values == 0) | (values == 255)) < 0.02


def test_the_same_seed_draws_the_same_pictures(small, tmp_path):
    draw_examples.main(["--out", str(tmp_path), "--scale", str(SCALE)])
    for name, picture in small.items():
        again = tmp_path / "again.jpg"
        Image.fromarray(picture).save(again, quality=draw_examples.QUALITY, optimize=True)
        assert (tmp_path / f"{name}.jpg").read_bytes() == again.read_bytes()


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_picture_is_what_the_script_draws_only_larger(small, name):
    path = ROOT / "nstcore" / "examples" / f"{name}.jpg"
    assert path.stat().st_size <= 250 * 1024
    with Image.open(path) as image:
        assert (image.size, image.mode) == (SHIPPED[name], "RGB")
        reduced = np.asarray(image.resize((16, 16), Image.Resampling.BOX), float)
    drawn = np.asarray(Image.fromarray(small[name]).resize((16, 16), Image.Resampling.BOX), float)
    assert np.corrcoef(reduced.ravel(), drawn.ravel())[0, 1] > 0.9


def test_the_sky_is_above_and_the_shipped_mask_is_what_the_script_draws():
    sky = content.sky(SCALE)
    assert sky[0].mean() > 250
    assert not sky[-1].any()
    with Image.open(ROOT / "nstcore" / "examples" / "sky.png") as image:
        assert (image.size, image.mode) == (SHIPPED["content"], "L")
        reduced = np.asarray(image.resize(sky.shape[::-1], Image.Resampling.BOX), float)
    assert np.abs(reduced - sky).mean() < 8


def test_a_scale_out_of_range_is_refused_in_one_line(capsys):
    with pytest.raises(SystemExit) as stop:
        draw_examples.main(["--scale", "0"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].count("--scale") == 1
