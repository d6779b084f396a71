"""The artist's controls of the objective: style losses, blends, masks, transparency, crowson's network."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import random_weights, smooth_picture

from nstcore import Objective, engines, ops, vgg
from nstcore.checks.gradcheck import check_directions, relative_error
from nstcore.conventions import CONVENTIONS
from nstcore.engines.cuda import on_cpu
from nstcore.engines.reference import ReferenceEngine
from nstcore.errors import OptionError
from nstcore.objective import EDGES
from nstcore.objective.guides import propagate
from nstcore.objective.statistics import EPSILON, STYLE_LOSSES

CONTENT, STYLE, OTHER = smooth_picture(33, 38, 1), smooth_picture(40, 27, 2), smooth_picture(25, 44, 9)
PIXELS = smooth_picture(33, 38, 3).transpose(2, 0, 1).copy()
MASK = np.clip(2 * smooth_picture(33, 38, 5)[..., 0] - 0.5, 0, 1)
STYLE_MASK = np.clip(2 * smooth_picture(20, 31, 6)[..., 0] - 0.4, 0, 1)
HALF = np.zeros((33, 38))
HALF[:, :16] = 1
TAPS = ("relu1_1", "relu2_1", "relu3_1")
# Differences of a loss with roots of covariances have the noise of eigenvalues: a longer step, and no layer with fewer
# positions than channels
STEP = {"w2": 1e-4}
FULL_RANK = ("relu1_1", "relu2_1")


@pytest.fixture(scope="module")
def weights():
    return random_weights(deepest="conv3_1")


def objective(weights, content=CONTENT, style=STYLE, **options):
    options = {"content_layers": ("relu2_2",), "style_layers": TAPS, "tv_weight": 0.3} | options
    return Objective(weights, content, style, dtype="float64", device="reference", **options)


def check(f, step=1e-6):
    terms, gradient = f(PIXELS)
    assert terms.style > 0
    check_directions(lambda x: f(x)[0].total, gradient.copy(), PIXELS, directions=1, step=step)


TWO_REGIONS = [(MASK, [STYLE_MASK, "all"]), (1 - MASK, ["none", STYLE_MASK])]


@pytest.mark.parametrize("loss", STYLE_LOSSES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"style": [STYLE, OTHER], "style_blend": [3, 1], "regions": TWO_REGIONS},
        {"content": np.dstack([CONTENT, MASK]), "protect": HALF * 0.7},
    ],
    ids=["plain", "regions", "alpha and protect"],
)
def test_the_gradient_is_right_for_every_style_loss(weights, loss, options):
    layers = FULL_RANK if loss == "w2" else TAPS
    check(objective(weights, style_loss=loss, style_layers=layers, **options), STEP.get(loss, 1e-6))


@pytest.mark.parametrize("edges", EDGES)
def test_the_gradient_is_right_however_masks_come_down(weights, edges):
    check(objective(weights, style=[STYLE, OTHER], regions=TWO_REGIONS, guide_edges=edges))


@pytest.mark.parametrize("pooling", ops.POOLINGS)
def test_the_gradient_is_right_in_the_convention_of_crowson(weights, pooling):
    check(objective(weights, convention="crowson", pooling=pooling, style_layers=FULL_RANK), STEP["w2"])


@pytest.mark.skipif(on_cpu.problem() is not None, reason=str(on_cpu.problem()))
@pytest.mark.parametrize("loss", ["centred", "mean-std"])
def test_a_loss_that_a_device_computes_has_the_books_value_and_the_right_gradient(loss):
    """Along the gradient, where a difference is largest: float32 features leave few digits of it."""
    options = {"style_loss": loss, "style_layers": ("relu1_1",), "content_layers": ("relu1_1",), "tv_weight": 0.0}
    pictures = random_weights(deepest="conv1_1"), CONTENT, [STYLE, OTHER]
    engine = engines.create("cuda-on-cpu", "float32")
    f, book = (Objective(*pictures, engine=e, regions=TWO_REGIONS, **options) for e in (engine, ReferenceEngine()))
    pixels = PIXELS.astype(np.float32)
    (terms, held), (expected, exact) = f(pixels), book(pixels)
    gradient = engine.numpy(held).astype(np.float64)
    assert terms.style == pytest.approx(expected.style, rel=1e-5)
    assert relative_error(gradient, exact) <= 1e-4
    step = 1e-3 / np.abs(gradient).max() * gradient
    above, below = (f((PIXELS + side * step).astype(np.float32))[0].total for side in (1, -1))
    assert (above - below) / 2 == pytest.approx(np.vdot(gradient, step), rel=1e-3)


@pytest.mark.parametrize("name", ["covariance_backward", "mean_std_backward", "w2_backward"])
def test_a_flipped_sign_in_a_style_loss_is_found(weights, monkeypatch, name):
    loss = {"covariance_backward": "centred", "mean_std_backward": "mean-std", "w2_backward": "w2"}[name]
    module = {"covariance_backward": "style_centred"}.get(name)
    place = ops if module is None else __import__(f"nstcore.ops.{module}", fromlist=[name])
    right = getattr(place, name)
    monkeypatch.setattr(place, name, lambda *a: tuple(-d for d in right(*a)))
    f = objective(weights, style_loss=loss, tv_weight=0.0, content_weight=0.0)
    _, gradient = f(PIXELS)
    with pytest.raises(AssertionError, match="relative error"):
        check_directions(lambda x: f(x)[0].total, gradient.copy(), PIXELS, directions=1, step=1e-4)


def features(weights, picture, tap):
    network = engines.create("reference", "float64").network(weights, [tap], weights.pooling)
    network.forward(np.ascontiguousarray(picture.transpose(2, 0, 1)))
    F = network.features(tap)
    return F.reshape(F.shape[0], -1)


def test_every_style_loss_is_its_formula_relative_to_a_style_of_nothing(weights):
    F, S = features(weights, PIXELS.transpose(1, 2, 0), "relu2_1"), features(weights, STYLE, "relu2_1")
    f, s = ({"mean": a.mean(1), "second": a @ a.T / a.shape[1], "C": np.cov(a, bias=True)} for a in (F, S))
    squares = np.trace(s["second"])
    eps = 1e-4 * squares / len(S) * np.eye(len(S))
    sigma = [np.sqrt(np.diag(m["C"] + eps)) for m in (f, s)]
    root = ops.matrix_sqrt_forward(s["C"] + eps)[0]
    cross = ops.matrix_sqrt_forward(root @ (f["C"] + eps) @ root)[0]
    means = ((f["mean"] - s["mean"]) ** 2).sum()
    expected = {
        "gram": ((f["second"] - s["second"]) ** 2).sum() / (s["second"] ** 2).sum(),
        "centred": ((f["C"] - s["C"]) ** 2).sum() / (s["C"] ** 2).sum(),
        "mean-std": (means + ((sigma[0] - sigma[1]) ** 2).sum()) / squares,
        "w2": (means + np.trace(f["C"] + s["C"] + 2 * eps - 2 * cross)) / squares,
    }
    for loss in STYLE_LOSSES:
        terms, _ = objective(weights, style_loss=loss, style_layers=("relu2_1",))(PIXELS)
        assert terms.style == pytest.approx(expected[loss], rel=1e-8), loss


def test_w2_has_a_gradient_where_rounding_leaves_a_covariance_without_a_root(weights):
    """Why it takes eigenvalues, on the host: by products alone (Newton-Schulz) there is none, however many its digits.

    Ten thousand times as strong as a plain style, a layer of few positions has rounding errors above its epsilon.
    """
    F = features(weights, PIXELS.transpose(1, 2, 0), "relu3_1")
    (N, M), mean = F.shape, F.mean(axis=1)
    second = (F @ F.T / M).astype(np.float32).astype(np.float64)
    eps = EPSILON * np.trace(second) / 1e4 / N
    assert M < N
    C = ops.covariance_forward(second, mean) + eps * np.eye(N)
    assert np.linalg.eigvalsh(C)[0] < 0
    root, trace = ops.w2_target(second / 1e4, mean / 100, eps)
    loss, cache = ops.w2_forward(second, mean, root, mean / 100, trace, 1.0, eps)
    assert 0 < loss < np.trace(second)
    assert all(np.isfinite(d).all() for d in ops.w2_backward(cache))
    Y, Z = root @ C @ root, np.eye(N)
    Y /= np.linalg.norm(Y)
    with np.errstate(all="ignore"):
        for _ in range(60):
            T = (3 * np.eye(N) - Z @ Y) / 2
            Y, Z = Y @ T, T @ Z
    assert not np.isfinite(Y).any()


def test_crowson_is_its_published_formula(weights):
    """W2 over N, weights 256, 64, 16 over their sum, mean squared content, nine-point total variation."""
    relative = objective(weights, style_loss="w2", tv_weight=1.0)
    terms, _ = relative(PIXELS)
    f = objective(weights, convention="crowson", tv_weight=None)
    # The same network for both: what differs then are the constants
    f.network, f._adapted = relative.network, None
    assert f.settings()["style_layers"] == pytest.approx(
        {tap: 0.6 * w / 336 for tap, w in zip(TAPS, (256, 64, 16), strict=True)}
    )
    assert (f.content_weight, f.style_weight, f.tv_weight) == (0.015, 1.0, 2.0)
    theirs, _ = f(PIXELS)
    straight, both = (ops.total_variation_forward(PIXELS, 1 / PIXELS.size, d) for d in (0.0, 1.0))
    assert theirs.tv == pytest.approx(2 * (straight / 3 + (both - straight) / 12), rel=1e-12)
    assert terms.tv == pytest.approx(straight, rel=1e-12)


def test_crowson_scales_poolings_and_repeats_the_border_at_the_first_convolution_only(weights):
    f = objective(weights, convention="crowson", pooling="average")
    network = f.network
    network.forward(PIXELS)
    mine = network.features("relu2_1")
    x = ops.preprocess_forward(PIXELS, *network.preprocessing)
    for i, conv in enumerate(("conv1_1", "conv1_2", "conv2_1")):
        w, b = (a.astype(np.float64) for a in weights.filters[conv])
        if conv == "conv2_1":
            x = 2.0 * ops.average_pool_forward(x)
        x = ops.relu_forward(ops.conv_forward(x, w, b, "replicate" if i == 0 else "zero"))
    assert relative_error(mine, x) <= 1e-7  # the filters with the factor in them are float32


@pytest.mark.parametrize("loss", STYLE_LOSSES)
def test_the_blend_is_linear_in_the_statistics_of_the_styles(weights, loss):
    both = objective(weights, style=[STYLE, OTHER], style_blend=[3, 1], style_loss=loss)
    parts = [features(weights, picture, "relu3_1") for picture in (STYLE, OTHER)]
    F = np.hstack([np.sqrt(w / p.shape[1]) * p for w, p in zip((0.75, 0.25), parts, strict=True)])
    mean = sum(w * p.mean(1) for w, p in zip((0.75, 0.25), parts, strict=True))
    found = both._style[0]["relu3_1"].loss
    assert len(F) == found.N
    if loss == "gram":
        M = found.M
        assert relative_error(np.asarray(found._gram) * found._divisor / M, F @ F.T) <= 1e-12
    else:
        assert relative_error(found._mean, mean) <= 1e-12
    if loss == "centred":
        assert relative_error(found._covariance, F @ F.T - np.outer(mean, mean)) <= 1e-10


def test_a_style_of_blend_weight_zero_does_not_enter(weights):
    alone, _ = objective(weights)(PIXELS)
    with_other, _ = objective(weights, style=[STYLE, OTHER], style_blend=[2, 0])(PIXELS)
    assert with_other == alone


def test_features_outside_a_region_get_no_gradient_and_inside_another_style_does_not_reach(weights):
    """A step edge at column 16: with `inside`, no position that sees the other side counts."""
    options = {"content_weight": 0.0, "tv_weight": 0.0, "guide_edges": "inside", "style": [STYLE, OTHER]}
    left = [(HALF, ["all", "none"])]
    _, gradient = objective(weights, regions=left, **options)(PIXELS)
    assert np.abs(gradient[:, :, :16]).max() > 0
    np.testing.assert_array_equal(gradient[:, :, 16:], 0)
    right = [(HALF, ["all", "none"]), (1 - HALF, ["none", "all"])]
    changed = PIXELS.copy()
    changed[:, :, 16:] = 0.5
    f = objective(weights, regions=right, **options)
    before, after = (f(x)[1][:, :, :16].copy() for x in (PIXELS, changed))
    np.testing.assert_array_equal(before, after)


def test_regions_that_cover_the_picture_with_one_style_change_little_of_the_whole(weights):
    """Shares of the area: the same style in both halves weighs as much as in the whole."""
    whole, _ = objective(weights)(PIXELS)
    halves, _ = objective(weights, regions=[(HALF, ["all"]), (1 - HALF, ["all"])])(PIXELS)
    assert halves.style >= whole.style  # the parts' statistics average to the whole's, the square is convex
    assert halves.style <= 3 * whole.style


def test_protected_pixels_stay_as_the_content_is_and_get_no_gradient(weights):
    f = objective(weights, protect=HALF)
    _, gradient = f(PIXELS)
    np.testing.assert_array_equal(gradient[:, :, :16], 0)
    assert np.abs(gradient[:, :, 16:]).min() > 0
    composed = f.composed(PIXELS)
    np.testing.assert_allclose(composed[:, :, :16], CONTENT.transpose(2, 0, 1)[:, :, :16], atol=1e-7)
    np.testing.assert_array_equal(composed[:, :, 16:], PIXELS[:, :, 16:])


def test_transparent_parts_do_not_enter_the_statistics(weights):
    """Whatever colours lie beyond the receptive fields of what is visible, nothing changes."""
    options = {"guide_edges": "inside", "tv_weight": 0.0}
    f = objective(weights, content=np.dstack([CONTENT, HALF]), **options)
    changed = PIXELS.copy()
    changed[:, :, 16:] = 0.3
    (before, gradient), gradient = f(PIXELS), f(PIXELS)[1].copy()
    after, other = f(changed)
    assert after.style == before.style
    assert after.content == before.content
    np.testing.assert_array_equal(other, gradient)
    np.testing.assert_array_equal(gradient[:, :, 16:], 0)


def test_transparent_parts_of_a_style_do_not_enter(weights):
    visible = np.zeros(STYLE.shape[:2])
    visible[:, :16] = 1
    changed = STYLE.copy()
    changed[:, 16:] = 0.9
    one, other = (
        objective(weights, style=np.dstack([s, visible]), guide_edges="inside")(PIXELS)[0] for s in (STYLE, changed)
    )
    assert one.style == other.style


@pytest.mark.parametrize("tap", ["relu1_1", "conv2_1", "pool2", "relu3_1"])
def test_guides_come_down_as_receptive_fields_say(tap):
    """`inside` is 1 where the whole receptive field is white, `all` is 0 where none of it is."""
    mask = np.zeros((33, 38), np.float32)
    mask[5:22, 3:30] = 1
    steps = vgg.steps_for("vgg19", ["relu3_1"])
    size, stride = vgg.receptive_field("vgg19", tap)
    reach = (size - stride) // 2
    found = {edges: propagate(mask, steps, [tap], edges)[tap] for edges in EDGES}
    for p, q in np.ndindex(found["inside"].shape):
        rows = slice(max(0, p * stride - reach), (p + 1) * stride + reach)
        columns = slice(max(0, q * stride - reach), (q + 1) * stride + reach)
        field = mask[rows, columns]
        assert found["inside"][p, q] == field.min()
        assert found["all"][p, q] == field.max()
        own = mask[p * stride : (p + 1) * stride, q * stride : (q + 1) * stride]
        assert found["simple"][p, q] == pytest.approx(own.mean() ** 2, abs=1e-6)


def test_statistics_of_a_style_are_measured_once(weights, monkeypatch):
    cache: dict = {}
    first, _ = objective(weights, statistics=cache)(PIXELS)
    assert len(cache) == 1
    network = objective(weights, statistics=cache).network
    monkeypatch.setattr(type(network), "grams", None)  # measuring again would call it
    objective(weights, statistics=cache, style_loss="w2")
    monkeypatch.undo()
    again, _ = objective(weights, statistics=cache)(PIXELS)
    assert again == first
    objective(weights, statistics=cache, style=OTHER)
    assert len(cache) == 2


def test_a_cache_of_statistics_forgets_what_was_not_used_for_longest(weights, monkeypatch):
    monkeypatch.setattr("nstcore.objective.statistics.REMEMBERED", 2)
    cache: dict = {}
    for style in (STYLE, OTHER):
        objective(weights, statistics=cache, style=style)
    first, second = cache
    objective(weights, statistics=cache, style=STYLE)
    objective(weights, statistics=cache, style=CONTENT)
    assert first in cache
    assert second not in cache
    assert len(cache) == 2


def test_the_falloff_keeps_the_sum_of_the_weights(weights):
    found = objective(weights, style_falloff=4.0).style_layers
    assert sum(found.values()) == pytest.approx(3)
    assert found["relu1_1"] / found["relu2_1"] == pytest.approx(4)
    given = objective(weights, style_layers={"relu2_1": 2.0, "relu1_1": 1.0}, style_falloff=2.0).style_layers
    assert given["relu1_1"] == pytest.approx(given["relu2_1"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"style_loss": "gramm"}, "gram, centred, mean-std, w2"),
        ({"style_loss": "w2", "convention": "johnson"}, "relative takes them all"),
        ({"style_blend": [1, 2]}, "1 weights"),
        ({"style_blend": [0]}, "above 0"),
        ({"style_falloff": 0}, "above 0"),
        ({"guide_edges": "soft"}, "simple, inside, all"),
        ({"regions": [(MASK, ["all", "all"])]}, "each of the 1 styles"),
        ({"regions": [(MASK, []), (MASK, [])]}, "as many"),
        ({"regions": [(MASK, ["none"])]}, "protect"),
        ({"regions": [(0 * MASK, ["all"])]}, "white"),
        ({"protect": np.ones((4, 4))}, "the picture: expected some of it to be opaque and not protected"),
        ({"content": np.dstack([CONTENT, 0 * CONTENT[..., 0]])}, "the picture: expected some of it to be opaque"),
        ({"style": [OTHER, np.dstack([STYLE, 0 * STYLE[..., 0]])]}, "style 2: expected some of it to be opaque"),
    ],
)
def test_controls_that_make_no_sense_are_refused_in_one_line(weights, options, message):
    with pytest.raises(OptionError, match=message) as caught:
        objective(weights, **options)
    assert "\n" not in str(caught.value)


def test_a_region_too_thin_for_every_layer_is_refused(weights):
    thin = np.zeros((33, 38))
    thin[:, 10] = 1
    with pytest.raises(OptionError, match="guide_edges simple"):
        objective(weights, regions=[(thin, ["all"])], guide_edges="inside", style_layers=("relu3_1",))


def test_no_weights_make_crowsons_loss_in_another_convention(weights):
    assert objective(weights).equivalent("crowson") is None
    assert objective(weights, convention="crowson").equivalent("relative") is None
    assert set(CONVENTIONS) == {"relative", "gatys2016", "gatys-code", "johnson", "crowson"}
