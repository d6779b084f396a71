"""The whole objective: its gradient against differences, its conventions against their formulas."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from conftest import random_weights, smooth_picture

from nstcore import Objective, engines, ops
from nstcore.checks.gradcheck import check_directions, relative_error
from nstcore.conventions import CONVENTIONS
from nstcore.errors import LayerError, OptionError, ShapeError
from nstcore.objective import CONTENT_LAYERS, STYLE_LAYERS

CONTENT, STYLE = smooth_picture(33, 38, 1), smooth_picture(40, 27, 2)
PIXELS = smooth_picture(33, 38, 3).transpose(2, 0, 1).copy()
# One of each kind of tap, and several layers for each term
LAYERS = {
    "relu": {"content_layers": CONTENT_LAYERS, "style_layers": STYLE_LAYERS},
    "conv": {
        "content_layers": {"conv4_2": 0.7, "conv1_1": 0.1},
        "style_layers": {"conv1_1": 0.5, "conv3_1": 2.0, "conv5_1": 1.0},
    },
    "pool": {
        "content_layers": {"pool3": 1.0, "pool1": 0.2},
        "style_layers": {"pool1": 0.5, "pool2": 2.0, "pool4": 1.0},
    },
    "mixed": {
        "content_layers": {"relu4_2": 1.0, "pool4": 0.3},
        "style_layers": {"relu1_1": 1.0, "conv1_1": 0.5, "relu4_2": 1.0, "pool4": 0.2},
    },
}


def objective(weights, **options):
    options = {"dtype": "float64", "tv_weight": 0.3} | options
    return Objective(weights, CONTENT, STYLE, **options)


def value(f):
    return lambda x: f(x)[0].total


# crowson's network and losses have tests of their own: test_objective_style.py
GRAM_CONVENTIONS = [name for name, c in CONVENTIONS.items() if "gram" in c.style_losses]
EVERY = list(itertools.product(GRAM_CONVENTIONS, ops.POOLINGS, LAYERS))
# One in four, so chosen that every pair of options occurs
CASES = [case for i, case in enumerate(EVERY) if i % 4 == (i // 4 % 3 + i // 12) % 4]


@pytest.mark.parametrize(("convention", "pooling", "kind"), CASES)
def test_the_gradient_of_the_whole_objective_is_right(random_vgg19, convention, pooling, kind):
    f = objective(random_vgg19, convention=convention, pooling=pooling, **LAYERS[kind])
    terms, gradient = f(PIXELS)
    assert terms.total > 0
    check_directions(value(f), gradient.copy(), PIXELS, directions=1)


@pytest.mark.parametrize("padding", ["zero", "replicate"])
def test_the_gradient_is_right_for_every_padding(padding):
    f = objective(random_weights(padding=padding))
    _, gradient = f(PIXELS)
    check_directions(value(f), gradient.copy(), PIXELS)


def test_the_gradient_is_right_with_the_imagenet_weights(vgg19):
    f = objective(vgg19)
    _, gradient = f(PIXELS)
    check_directions(value(f), gradient.copy(), PIXELS)


def test_the_gradient_is_right_for_vgg16():
    f = objective(random_weights("vgg16"))
    _, gradient = f(PIXELS)
    check_directions(value(f), gradient.copy(), PIXELS)


USED = [
    "conv_backward",
    "relu_backward",
    "pool_backward",
    "moments_backward",
    "content_backward",
    "style_backward",
    "total_variation_backward",
    "preprocess_backward",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", USED)
def test_a_flipped_sign_in_any_backward_is_found(random_vgg19, monkeypatch, name):
    right = getattr(ops, name)
    monkeypatch.setattr(ops, name, lambda *a: -right(*a))
    f = objective(random_vgg19, style_weight=1.0, tv_weight=100.0)
    _, gradient = f(PIXELS)
    with pytest.raises(AssertionError, match="relative error"):
        check_directions(value(f), gradient.copy(), PIXELS)


def test_total_is_the_weighted_sum_of_its_terms(random_vgg19):
    layers = {"relu1_1": 0.5, "relu3_1": 2.0}
    f = objective(random_vgg19, style_layers=layers, content_weight=3.0, style_weight=7.0, tv_weight=0.2)
    terms, _ = f(PIXELS)
    assert terms.style == pytest.approx(sum(w * terms.style_layers[n] for n, w in layers.items()), rel=1e-12)
    assert terms.content == pytest.approx(terms.content_layers["relu4_2"], rel=1e-12)
    assert terms.total == pytest.approx(3 * terms.content + 7 * terms.style + 0.2 * terms.tv, rel=1e-12)
    expected = ops.total_variation_forward(PIXELS, 1 / PIXELS.size)
    assert terms.tv == pytest.approx(expected, rel=1e-12)


def features(weights, picture, taps):
    network = engines.create("reference", "float64").network(weights, taps, weights.pooling)
    network.forward(np.ascontiguousarray(picture.transpose(2, 0, 1)))
    return {tap: network.features(tap).reshape(network.features(tap).shape[0], -1) for tap in taps}


def published(convention, F, P, S):
    """The terms of one layer as losses.md states them, on raw Gram matrices of pictures of one size."""
    N, M = F.shape
    G, A = F @ F.T, S @ S.T
    raw, squares = ((G - A) ** 2).sum(), ((F - P) ** 2).sum()
    return {
        "relative": (squares / (P**2).sum(), raw / (A**2).sum()),
        "gatys2016": (squares / 2, raw / (4 * N**2 * M**2)),
        "gatys-code": (squares / (N * M), raw / (N**2 * M**2)),
        "johnson": (squares / (N * M), raw / (N**4 * M**2)),
    }[convention]


@pytest.mark.parametrize("convention", GRAM_CONVENTIONS)
def test_a_convention_is_its_published_formula(random_vgg19, convention):
    style = smooth_picture(33, 38, 2)  # the papers take both pictures at one size
    taps = ["relu2_1", "relu4_2"]
    x, c, s = (features(random_vgg19, p, taps) for p in (PIXELS.transpose(1, 2, 0), CONTENT, style))
    f = Objective(
        random_vgg19,
        CONTENT,
        style,
        dtype="float64",
        convention=convention,
        content_layers=("relu4_2",),
        style_layers=("relu2_1",),
    )
    terms, _ = f(PIXELS)
    content, _ = published(convention, x["relu4_2"], c["relu4_2"], s["relu4_2"])
    _, expected_style = published(convention, x["relu2_1"], c["relu2_1"], s["relu2_1"])
    assert terms.content_layers["relu4_2"] == pytest.approx(content, rel=1e-10)
    assert terms.style_layers["relu2_1"] == pytest.approx(expected_style, rel=1e-10)


@pytest.mark.parametrize(("one", "other"), list(itertools.permutations(GRAM_CONVENTIONS, 2)))
def test_equivalent_weights_make_the_same_loss_and_gradient(random_vgg19, one, other):
    f = objective(random_vgg19, convention=one)
    terms, gradient = f(PIXELS)
    gradient = gradient.copy()
    same, same_gradient = objective(random_vgg19, **f.equivalent(other))(PIXELS)
    assert same.total == pytest.approx(terms.total, rel=1e-10)
    assert relative_error(same_gradient, gradient) <= 1e-9


def test_known_equivalences_between_programs_hold():
    """Gatys' notebook is jcjohnson's with style 1000, content 1; a layer weight w there is w/N^2 here."""
    gatys, johnson = CONVENTIONS["gatys-code"], CONVENTIONS["johnson"]
    for N in (64, 512):
        assert johnson.style_scale(N, 1.0) == pytest.approx(gatys.style_scale(N, 1.0) / N**2)
    assert johnson.content_scale(64, 100, 1.0) == gatys.content_scale(64, 100, 1.0)


def test_the_relative_loss_of_the_picture_against_itself_is_zero(random_vgg19):
    f = Objective(random_vgg19, STYLE, STYLE, dtype="float64", tv_weight=0.0)
    terms, gradient = f(STYLE.transpose(2, 0, 1))
    assert terms.total == 0
    assert not gradient.any()


def test_the_mean_of_several_styles_is_taken(random_vgg19):
    taps = {"relu2_1": 1.0}
    other = smooth_picture(25, 44, 9)
    both = Objective(random_vgg19, CONTENT, [STYLE, other], dtype="float64", style_layers=taps, convention="gatys2016")
    terms, _ = both(PIXELS)
    found = [features(random_vgg19, p, ["relu2_1"])["relu2_1"] for p in (STYLE, other)]
    A = sum(F @ F.T / F.shape[1] for F in found) / 2
    F = features(random_vgg19, PIXELS.transpose(1, 2, 0), ["relu2_1"])["relu2_1"]
    expected = ((F @ F.T / F.shape[1] - A) ** 2).sum() / (4 * 128**2)
    assert terms.style_layers["relu2_1"] == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("constant", [0.0, 0.5, 1.0])
def test_constant_pictures_give_finite_losses_and_gradients(random_vgg19, constant):
    picture = np.full((16, 16, 3), constant)
    f = Objective(random_vgg19, picture, picture)
    terms, gradient = f(np.full((3, 16, 16), constant, np.float32))
    assert np.isfinite(terms.total)
    assert np.isfinite(gradient).all()


def test_a_term_of_weight_zero_is_not_computed(random_vgg19):
    f = objective(random_vgg19, style_weight=0.0)
    assert [s.name for s in f.network.steps][-1] == "conv4_2"
    terms, _ = f(PIXELS)
    assert terms.style == 0
    assert not terms.style_layers
    f = objective(random_vgg19, style_layers={"relu1_1": 1.0, "relu5_1": 0.0}, content_weight=0.0)
    assert [s.name for s in f.network.steps] == ["conv1_1"]


@pytest.mark.parametrize("device", ["cpu", "reference"])
def test_both_engines_agree_on_the_objective(random_vgg19, device):
    expected, gradient = objective(random_vgg19)(PIXELS)
    terms, mine = objective(random_vgg19, device=device, dtype="float32")(PIXELS.astype(np.float32))
    assert terms.total == pytest.approx(expected.total, rel=1e-4)
    assert relative_error(mine, gradient) <= 5e-3


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"convention": "gatys"}, OptionError),
        ({"style_weight": -1.0}, OptionError),
        ({"content_weight": float("nan")}, OptionError),
        ({"tv_weight": "much"}, OptionError),
        ({"style_layers": {"relu1_1": -0.5}}, OptionError),
        ({"style_layers": {"relu1_9": 1.0}}, LayerError),
        ({"style_layers": {"conv5_4": 1.0}}, LayerError),
        ({"style_layers": "relu1_1"}, OptionError),
        ({"content_layers": [3]}, LayerError),
        ({"content_weight": 0.0, "style_weight": 0.0}, OptionError),
        ({"pooling": "median"}, OptionError),
    ],
)
def test_options_that_make_no_sense_are_refused_in_one_line(random_vgg19, options, kind):
    with pytest.raises(kind) as caught:
        objective(random_vgg19, **options)
    assert "\n" not in str(caught.value)


def test_pixels_of_another_size_are_refused(random_vgg19):
    with pytest.raises(ShapeError, match=r"expected \(3, 33, 38\)"):
        objective(random_vgg19)(PIXELS[:, :20])


def test_pixels_from_0_to_255_are_refused(random_vgg19):
    with pytest.raises(ShapeError, match=r"pixels: expected floating point in \[0, 1\], got uint8; divide by 255"):
        objective(random_vgg19)((PIXELS * 255).astype(np.uint8))
