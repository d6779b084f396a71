"""Large pictures are held against their pictures in small sizes, too."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import random_weights, smooth_picture

import nstcore
from nstcore import Objective, images, ops
from nstcore.checks.gradcheck import check_directions, relative_error
from nstcore.errors import OptionError
from nstcore.transfer import pyramid
from nstcore.transfer.ladder import climb

CONTENT, STYLE = smooth_picture(70, 83, 1), smooth_picture(64, 90, 2)
PIXELS = smooth_picture(70, 83, 3).transpose(2, 0, 1).copy()
MASK = smooth_picture(35, 41, 4)[..., 0]
LAYERS = {"content_layers": ("relu3_1",), "style_layers": ("relu1_1", "relu2_1")}


@pytest.fixture(scope="module")
def weights():
    return random_weights(deepest="conv3_1")


def objective(weights, content=CONTENT, **options):
    return Objective(weights, content, STYLE, **({"dtype": "float64", "pyramid": (2, 4)} | LAYERS | options))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"protect": MASK},
        {"content": np.dstack([CONTENT, smooth_picture(70, 83, 5)[..., 0]])},
        {"regions": [(MASK, ["all"]), (1 - MASK, [MASK])]},
        {"style_loss": "mean-std", "pooling": "average"},
    ],
    ids=["plain", "protect", "alpha", "regions", "mean-std"],
)
def test_its_gradient_is_right(weights, options):
    f = objective(weights, **options)
    _, gradient = f(PIXELS)
    check_directions(lambda x: f(x)[0].total, gradient.copy(), PIXELS, directions=2)


def test_a_level_is_the_objective_of_the_block_means(weights):
    terms, gradient = objective(weights)(PIXELS)
    alone, own = objective(weights, pyramid=())(PIXELS)
    expected, total = own.copy(), alone.total
    for k in (2, 4):
        content, style = (ops.block_mean_forward(a.transpose(2, 0, 1), k).transpose(1, 2, 0) for a in (CONTENT, STYLE))
        small = Objective(weights, content, style, dtype="float64", **LAYERS)
        level, dy = small(ops.block_mean_forward(PIXELS, k))
        assert terms.levels[k].total == pytest.approx(level.total, rel=1e-12)
        expected += ops.block_mean_backward(dy, k, PIXELS.shape)
        total += level.total
    assert terms.total == pytest.approx(total, rel=1e-12)
    assert relative_error(gradient, expected) < 1e-12
    assert (terms.content, terms.style, terms.tv) == (alone.content, alone.style, alone.tv)


def test_every_engine_has_it(weights):
    reference, gradient = objective(weights)(PIXELS)
    gradient = gradient.copy()
    terms, found = objective(weights, device="cpu", dtype="float32")(PIXELS.astype(np.float32))
    assert terms.total == pytest.approx(reference.total, rel=1e-5)
    assert relative_error(found, gradient) < 5e-3  # decisions near ties flip in float32


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"optimizer": "lbfgs"}])
def test_the_gpus_kernels_have_every_control_of_the_desk_at_once(weights, options):
    """Protected parts, regions, transparency, ladder and pyramid together, on the stand-in and by the book."""
    content = np.dstack([smooth_picture(66, 70, 1), smooth_picture(66, 70, 6)[..., 0]])

    def paint(device):
        return nstcore.stylize(
            content,
            [STYLE, CONTENT],
            weights=weights,
            device=device,
            dtype="float32",
            size=64,
            iterations=2,
            ladder=40,
            regions=[(MASK, ["all", "none"]), (1 - MASK, [MASK, "all"])],
            protect=MASK**8,
            style_loss="w2",
            **LAYERS,
            **options,
        )

    on_cpu, book = paint("cuda-on-cpu"), paint("reference")
    assert on_cpu.terms.total == pytest.approx(book.terms.total, rel=1e-3)
    assert np.abs(on_cpu.pixels - book.pixels).mean() < 2e-3


@pytest.mark.parametrize(
    ("size", "blocks"),
    [
        ((384, 512), ()),
        ((500, 639), ()),
        ((480, 641), (3,)),
        ((768, 1024), (4,)),
        ((1536, 2048), (3, 8)),
        ((4096, 3072), (4, 16)),
        ((8192, 8192), (6, 32)),
        ((60, 4096), (3,)),
        ((40, 4096), ()),
    ],
)
def test_levels_go_down_to_256_pixels_a_quarter_at_a_time(size, blocks):
    assert pyramid.blocks(size, [(1000, 1000)], 16) == blocks


def test_no_level_is_smaller_than_the_network_can_read():
    assert pyramid.blocks((1024, 1024), [(1024, 1024), (40, 90)], 16) == ()
    assert pyramid.blocks((1024, 1024), [(50, 90)], 16) == (3,)


def test_sizes_with_levels_cost_what_their_pixels_cost():
    rungs = climb((1024, 1024), 512, 100, 16, lambda size: pyramid.blocks(size, [size], 16))
    assert [r.blocks for r in rungs] == [(), (3,), (4,)]
    assert [r.cost for r in rungs] == pytest.approx(
        [1 / 4 / (17 / 16), (724 / 1024) ** 2 * (10 / 9) / (17 / 16), 1], rel=1e-3
    )


def test_it_is_for_the_relative_convention_and_can_be_left_out(weights, monkeypatch):
    monkeypatch.setattr(pyramid, "SMALLEST", 16)
    options = {"weights": weights, "size": 80, "iterations": 1, "ladder": "off"} | LAYERS
    found = {
        name: nstcore.stylize(CONTENT, STYLE, **options, **given)
        for name, given in {"auto": {}, "off": {"pyramid": "off"}, "paper": {"convention": "gatys2016"}}.items()
    }
    assert {name: list(r.terms.levels) for name, r in found.items()} == {"auto": [3], "off": [], "paper": []}
    assert found["auto"].metadata["sizes"][0]["blocks"] == [3]
    assert not np.array_equal(found["auto"].pixels, found["off"].pixels)
    with pytest.raises(OptionError, match="pyramid: expected one of auto, off, got 'on'"):
        nstcore.stylize(CONTENT, STYLE, **options, pyramid="on")


def test_with_levels_no_weights_mean_the_same_in_another_convention(weights):
    assert objective(weights).equivalent("gatys2016") is None
    assert objective(weights, pyramid=()).equivalent("gatys2016") is not None


def test_block_means_of_the_content_are_its_own_level(weights):
    """At the content itself the content term is 0 at every level, whatever the sizes."""
    terms, _ = objective(weights)(images.as_pixels(CONTENT).astype(np.float64))
    assert terms.content == 0
    assert all(level.content < 1e-12 for level in terms.levels.values())
