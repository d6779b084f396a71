"""The artist's controls of a transfer: sizes on the way, averaging, colours, transparency, starts, what fits."""

from __future__ import annotations

import math

import numpy as np
import pytest
from conftest import random_weights, smooth_picture

import nstcore
from nstcore import engines, images
from nstcore.engines.memory import free_memory
from nstcore.errors import OptionError
from nstcore.optim import AdamState, LBFGSState
from nstcore.transfer import COLORS, estimate, ladder, start
from nstcore.transfer.pictures import Pictures
from nstcore.transfer.rung import BETAS, Optimizer, Painting, Progress, carried

CONTENT, STYLE = smooth_picture(40, 60, 1), smooth_picture(50, 45, 2)
SMALL = {"size": 48, "iterations": 4, "style_layers": ("relu1_1", "relu2_1"), "content_layers": ("relu2_2",)}


@pytest.fixture(scope="module")
def weights():
    return random_weights(deepest="conv2_2")


def paint(weights, content=CONTENT, style=STYLE, **options):
    return nstcore.stylize(content, style, weights=weights, **SMALL | options)


class Ridge:
    """L = sum |x - 1/2|: Adam's constant step jumps over the minimum for ever."""

    engine = engines.create("reference", "float64")

    def __call__(self, x):
        return nstcore.Terms(float(np.abs(x - 0.5).sum()), 0.0, 0.0, 0.0), np.sign(x - 0.5)

    def composed(self, x):
        return x


# -- the ladder -------------------------------------------------------------------------------------------------------


def test_sizes_grow_by_the_root_of_two_and_end_at_the_asked_one():
    rungs = ladder.climb((384, 512), "auto", 300, 16)
    assert [r.width for r in rungs] == [128, 181, 256, 362, 512]
    assert all(r.width / r.height == pytest.approx(4 / 3, rel=0.01) for r in rungs)
    assert [r.cost for r in rungs] == pytest.approx([1 / 16, 1 / 8, 1 / 4, 1 / 2, 1], rel=0.01)


@pytest.mark.parametrize("iterations", [1, 7, 100, 301])
def test_all_sizes_together_cost_what_the_full_size_would(iterations):
    rungs = ladder.climb((512, 512), "auto", iterations, 16)
    assert all(r.iterations >= 1 for r in rungs)
    work = sum(r.iterations * r.cost for r in rungs)
    assert abs(work - iterations) <= (1 if iterations > 1 else sum(r.cost for r in rungs))


def test_larger_sizes_get_more_evaluations():
    counts = [r.iterations for r in ladder.climb((384, 512), "auto", 300, 16)]
    assert counts == sorted(counts)
    assert counts[-1] > 0.75 * 300


@pytest.mark.parametrize(("size", "choice", "first"), [(511, "auto", 511), (512, "auto", 128), (1024, "off", 1024)])
def test_auto_climbs_from_512_pixels_on(size, choice, first):
    assert ladder.climb((size, size), choice, 10, 16)[0].width == first


def test_a_size_too_small_for_the_layers_is_left_out():
    assert ladder.climb((100, 1600), "auto", 10, 32)[0].height == 35
    assert ladder.climb((40, 1600), 20, 10, 16)[0].height == 20


@pytest.mark.parametrize("wrong", ["steep", 0, True, 2.5])
def test_a_ladder_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(OptionError, match="ladder"):
        ladder.climb((512, 512), wrong, 10, 16)


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_a_ladder_paints_every_size_and_the_loss_falls_at_each(weights, optimizer):
    seen = []
    options = {"iterations": 20, "ladder": 24, "optimizer": optimizer, "init": "noise"}
    result = paint(weights, on_step=seen.append, **options)
    sizes = [s.size for s in seen]
    assert sorted(set(sizes)) == [24, 34, 48]
    assert sizes == sorted(sizes)
    assert [s.share for s in seen] == sorted(s.share for s in seen)
    assert seen[-1].share <= 1
    for size in set(sizes):
        losses = [s.terms.total for s in seen if s.size == size]
        assert min(losses[1:]) < losses[0]
    # What was painted small is carried on: the full size begins lower than the noise does there
    assert losses[0] < paint(weights, init="noise").losses[0].total or max(sizes) != size
    assert result.image.shape == (32, 48, 3)


def test_the_full_size_starts_from_what_was_painted_smaller(weights):
    seen = []
    paint(weights, on_step=seen.append, ladder=24, iterations=20, init="noise")
    first = next(s.terms.total for s in seen if s.size == 48)
    assert first < 0.5 * paint(weights, init="noise").losses[0].total


def test_an_interrupt_on_the_way_keeps_the_picture_at_its_size(weights):
    def interrupt(step):
        if step.size == 34 and step.iteration > 3:
            raise KeyboardInterrupt

    result = paint(weights, on_step=interrupt, ladder=24, iterations=20)
    assert result.interrupted
    assert max(result.pixels.shape) == 34


def test_a_ladder_gives_the_same_bits_again(weights):
    first, second = (paint(weights, ladder=24, iterations=6, init="noise", seed=3).pixels for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("t", [1, 30])
def test_adams_state_is_carried_as_one_update_with_gradients_of_the_new_size(t):
    """Constant averages stay what they are after Adam's corrections, divided by the growth k and by k^2."""
    objective = Ridge()
    objective.shape = (3, 6, 8)
    m, v = np.full((3, 6, 8), 0.3 * (1 - BETAS[0] ** t)), np.full((3, 6, 8), 0.5 * (1 - BETAS[1] ** t))
    found = carried(AdamState(m, v, t), "adam", objective, (12, 16))
    assert found.t == 1
    assert found.m.shape == found.v.shape == (3, 12, 16)
    np.testing.assert_allclose(found.m / (1 - BETAS[0]), 0.3 / 4, rtol=1e-5)
    np.testing.assert_allclose(found.v / (1 - BETAS[1]), 0.5 / 16, rtol=1e-5)


def test_pairs_are_carried_as_they_are():
    objective = Ridge()
    objective.shape = (3, 12, 16)
    s, y = (smooth_picture(12, 16, seed).transpose(2, 0, 1) + 0.5 for seed in (1, 2))
    found = carried(LBFGSState([(s, y)]), "lbfgs", objective, (24, 32))
    ((s_next, y_next),) = found.pairs
    assert s_next.shape == (3, 24, 32)
    assert (s_next * y_next).sum() == pytest.approx(4 * (s * y).sum(), rel=0.01)
    assert carried(None, "lbfgs", objective, (24, 32)) is None
    assert carried(LBFGSState([(s, y)]), "adam", objective, (24, 32)) is None


# -- averaging --------------------------------------------------------------------------------------------------------


def go_on(painting, state):
    return False


def no_other():
    """No higher precision."""


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_the_average_of_adams_iterates_is_taken_where_its_loss_is_lower(decay):
    progress = Progress([ladder.Rung(4, 5, 60, 1.0)], None)
    painting = Painting(Ridge(), Optimizer("adam", 0.05, 20, decay), progress, 0, lambda p: p, go_on, no_other)
    begun = []
    painting.paint(np.random.default_rng(0).random((3, 4, 5)), None, begun.append)
    painting.settle()
    best = min(t.total for t in progress.losses)
    assert painting.terms.total < 0.7 * best if decay else painting.terms.total == best
    assert np.abs(painting.pixels() - 0.5).sum() == pytest.approx(painting.terms.total)
    assert begun == [painting]


def test_the_average_is_not_taken_where_a_single_iterate_is_better(weights):
    averaged, plain = (paint(weights, average=decay, iterations=40) for decay in (0.99, 0.0))
    np.testing.assert_array_equal(averaged.pixels, plain.pixels)


# -- colours ----------------------------------------------------------------------------------------------------------


def chrominance(pixels):
    """I and Q of NTSC."""
    rows = np.array([[0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    return np.tensordot(rows, pixels, 1)


def test_luminance_transfer_keeps_the_contents_chrominance(weights):
    content = 0.25 + 0.5 * CONTENT  # nothing leaves the gamut
    result = paint(weights, content, colors="luminance", iterations=8)
    original = images.resize_pixels(images.as_pixels(content), result.pixels.shape[1:])
    inside = (result.pixels > 1e-6).all(0) & (result.pixels < 1 - 1e-6).all(0)
    assert inside.mean() > 0.9
    np.testing.assert_allclose(chrominance(result.pixels)[:, inside], chrominance(original)[:, inside], atol=2e-3)
    assert np.abs(images.luminance(result.pixels) - images.luminance(original)).max() > 0.02


@pytest.mark.parametrize("colors", COLORS)
@pytest.mark.parametrize("grey", ["content", "style", "both"])
def test_a_grey_picture_never_gives_nan(weights, colors, grey):
    flat = np.full((40, 60, 3), 0.4)
    content, style = (flat if grey in (name, "both") else p for name, p in (("content", CONTENT), ("style", STYLE)))
    result = paint(weights, content, style, colors=colors, iterations=2)
    assert np.isfinite(result.pixels).all()
    assert math.isfinite(result.terms.total)


@pytest.mark.parametrize("colors", ["cholesky", "symmetric", "histogram"])
def test_a_matched_style_has_the_contents_mean_colour(colors):
    style = Pictures(0.2 + 0.6 * CONTENT, [0.2 + 0.6 * STYLE], colors).styles(60)[0]
    np.testing.assert_allclose(style.mean((0, 1)), (0.2 + 0.6 * CONTENT).mean((0, 1)), atol=0.01)


# -- transparency, styles' sizes --------------------------------------------------------------------------------------


def test_alpha_comes_back_in_the_result(weights, tmp_path):
    alpha = np.zeros((40, 60))
    alpha[:, 20:] = 1
    result = paint(weights, np.dstack([CONTENT, alpha]))
    assert result.image.shape == (32, 48, 4)
    np.testing.assert_allclose(result.alpha, images.resize_mask(alpha, (32, 48)), atol=1e-6)
    result.save(tmp_path / "out.png")
    assert images.load(tmp_path / "out.png").alpha.min() == 0


def test_a_style_has_its_own_scale_or_its_own_size():
    pictures = Pictures(CONTENT, [STYLE, STYLE], style_scale=[1.0, 0.5], style_size=[None, 20])
    assert pictures.style_sizes(60) == [(60, 54), (20, 18)]
    assert Pictures(CONTENT, [STYLE], style_scale=0.5).style_sizes(60) == [(30, 27)]


@pytest.mark.parametrize(
    "wrong",
    [{"style_scale": 0}, {"style_scale": [1, 2, 3]}, {"style_size": 2.5}, {"style_size": 0}, {"colors": "mine"}],
)
def test_pictures_that_make_no_sense_are_refused(wrong):
    with pytest.raises(OptionError) as caught:
        Pictures(CONTENT, [STYLE, STYLE], **wrong)
    assert "\n" not in str(caught.value)


# -- starts -----------------------------------------------------------------------------------------------------------


def test_a_mixture_is_the_weighted_sum_of_its_parts():
    content, styles = CONTENT.transpose(2, 0, 1), [STYLE.transpose(2, 0, 1)]
    parts = start.parts_of("content=3,gray=1")
    assert parts == {"content": 0.75, "gray": 0.25}
    mixture = start.start(parts, content, styles, (1.0,), 0, pytest.fail)
    np.testing.assert_allclose(mixture, 0.75 * content + 0.125, atol=1e-6)


def test_noise_of_the_styles_statistics_has_its_mean_and_covariance():
    style = 0.35 + 0.3 * STYLE.transpose(2, 0, 1)
    noise = start.start({"statistics": 1.0}, np.zeros((3, 200, 200)), [style], (1.0,), 0, pytest.fail).reshape(3, -1)
    np.testing.assert_allclose(noise.mean(1), style.reshape(3, -1).mean(1), atol=0.01)
    expected = np.cov(style.reshape(3, -1))
    assert np.abs(np.cov(noise) - expected).max() < 0.05 * expected.max()


@pytest.mark.parametrize("wrong", ["content=0,noise=1", "content=x", "content=1,blue=1", "=1", "content=1,"])
def test_a_start_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(OptionError, match="init"):
        start.parts_of(wrong)


# -- what fits --------------------------------------------------------------------------------------------------------


def test_fit_paints_smaller_where_memory_is_short(weights, monkeypatch):
    monkeypatch.setattr("nstcore.engines.base.free_memory", lambda: 40_000_000)
    result = paint(weights, fit=True, size=400, iterations=1)
    assert 40 < max(result.pixels.shape) < 400
    assert max(result.pixels.shape) == result.metadata["sizes"][-1]["width"]


def test_lbfgs_records_the_history_that_fits(weights, monkeypatch):
    settings = {"optimizer": "lbfgs", "size": 150, "iterations": 20}
    most = estimate(CONTENT, STYLE, weights=weights, calibrate=False, **SMALL | settings).plan.needed
    monkeypatch.setattr("nstcore.engines.base.free_memory", lambda: int(most / 0.95))
    result = paint(weights, fit=True, **settings)
    assert 5 <= result.metadata["settings"]["history"] < 20
    assert max(result.pixels.shape) == 150


def test_what_does_not_fit_is_refused_before_anything_is_computed(weights, monkeypatch):
    monkeypatch.setattr("nstcore.engines.base.free_memory", lambda: 40_000_000)
    with pytest.raises(OptionError, match="let --fit do so"):
        paint(weights, size=400, on_start=lambda *_: pytest.fail("it began"))


def test_free_memory_honours_the_limits_of_containers(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    write("proc/meminfo", "MemTotal: 16 kB\nMemAvailable: 9000 kB\n")
    assert free_memory(tmp_path) == 9000 * 1024
    write("sys/fs/cgroup/memory.max", "max\n")
    write("sys/fs/cgroup/memory.current", "1000000\n")
    assert free_memory(tmp_path) == 9000 * 1024
    write("sys/fs/cgroup/memory.max", "3000000\n")
    write("sys/fs/cgroup/memory.stat", "anon 5\ninactive_file 400000\n")
    assert free_memory(tmp_path) == 2_400_000
    assert free_memory() > 0
