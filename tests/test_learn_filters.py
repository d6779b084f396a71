"""The scripts behind the built-in filters: the drawings, the learning, the measure, and the file that ships."""

import draw_training
import learn_filters
import numpy as np
import pytest
import style_distance
from conftest import ROOT, SHARED

import nstcore
from nstcore import ops, vgg
from nstcore.pretrained import convert

TINY = {"conv1_1": (8, 3, 3, 3), "conv1_2": (12, 8, 3, 3), "conv2_1": (16, 12, 3, 3)}
LARGEST_FILE = 15 * 2**20


@pytest.fixture(scope="module")
def drawings():
    return draw_training.pictures(seed=5, count=12, size=64)


@pytest.fixture(scope="module")
def recipe():
    return learn_filters.Recipe(count=12, size=64, patches=3000, components=64, iterations=4)


@pytest.fixture(scope="module")
def learned(drawings, recipe):
    return learn_filters.learn(drawings, 0, recipe, TINY)


def test_drawings_are_pictures_that_differ(drawings):
    assert drawings.shape == (12, 3, 64, 64)
    assert drawings.dtype == np.float32
    assert drawings.min() >= 0
    assert drawings.max() <= 1
    assert min(one.std() for one in drawings) > 0.01
    assert len({one.tobytes() for one in drawings}) == 12


def test_a_drawing_depends_on_its_seed_and_number_alone(drawings):
    again = draw_training.pictures(seed=5, count=2, size=64)
    np.testing.assert_array_equal(again, drawings[:2])
    assert not np.array_equal(draw_training.pictures(seed=6, count=1, size=64), drawings[:1])


def test_drawings_have_the_spectrum_and_the_muted_colours_of_natural_pictures(drawings):
    luminance = drawings.mean(axis=1)
    power = np.mean([np.abs(np.fft.fft2(one - one.mean())) ** 2 for one in luminance], axis=0)
    f = np.fft.fftfreq(64)
    radius = np.hypot(f[:, None], f[None])
    band = (radius > 2 / 64) & (radius < 0.4)
    slope = np.polyfit(np.log(radius[band]), 0.5 * np.log(power[band]), 1)[0]
    assert -1.7 < slope < -0.7, "amplitude ~ 1/f"

    covariance = np.cov(drawings.transpose(1, 0, 2, 3).reshape(3, -1))
    grey = np.full(3, 3**-0.5)
    assert grey @ covariance @ grey > 0.7 * np.trace(covariance), "luminance varies most"


def test_saving_writes_every_drawing_and_a_contact_sheet(drawings, tmp_path):
    draw_training.save(drawings[:3], tmp_path / "new")
    names = sorted(file.name for file in (tmp_path / "new").iterdir())
    assert names == ["000.png", "001.png", "002.png", "contact_sheet.png"]
    read = nstcore.images.as_pixels(tmp_path / "new" / "001.png")
    np.testing.assert_allclose(read, drawings[1], atol=0.5 / 255 + 1e-6)


def test_the_convolution_of_the_script_is_the_books():
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 5, 11, 7), np.float32), rng.standard_normal((4, 5, 3, 3), np.float32)
    expected = np.stack([ops.conv_forward(one.astype(float), w.astype(float), padding="replicate") for one in x])
    np.testing.assert_allclose(learn_filters.convolve(x, w), expected, atol=1e-5)


def test_the_pooling_of_the_script_is_the_books():
    x = np.random.default_rng(0).standard_normal((2, 3, 6, 8), np.float32)
    expected = np.stack([ops.average_pool_forward(one) for one in x])
    np.testing.assert_allclose(learn_filters.average_pool(x), expected, atol=1e-6)


def test_patches_are_neighbourhoods_of_the_features():
    x = np.arange(2 * 3 * 6 * 5, dtype=np.float32).reshape(2, 3, 6, 5)
    p = learn_filters.sample_patches(x, 20, np.random.default_rng(0)).reshape(20, 3, 3, 3)
    for n, one in enumerate(p):
        where = np.argwhere(x[n // 10] == one[0, 0, 0])
        assert len(where) == 1, "the first ten patches are of the first picture, the others of the second"
        _, r, c = where[0]
        np.testing.assert_array_equal(one, x[n // 10][:, r : r + 3, c : c + 3])


def test_the_largest_eigenpairs_are_those_of_the_whole_decomposition():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((120, 120)))[0]
    spectrum = np.arange(1, 121.0) ** -2
    a = ((basis * spectrum) @ basis.T).astype(np.float32)
    for count in (10, 100):  # by subspace iteration, and exactly
        e, V = learn_filters.largest_eigenpairs(a, count, np.random.default_rng(1))
        np.testing.assert_allclose(e, spectrum[:count][::-1], rtol=0.1)
        np.testing.assert_allclose(e[-5:], spectrum[:5][::-1], rtol=1e-3)
        np.testing.assert_allclose(V.T @ V, np.eye(count), atol=1e-3)
        assert np.abs(V.T @ basis[:, :count][:, ::-1]).diagonal()[-5:].min() > 0.99


def test_kmeans_finds_planted_directions():
    rng = np.random.default_rng(0)
    planted = np.linalg.qr(rng.standard_normal((6, 6)))[0].astype(np.float32)
    z = np.repeat(planted, 50, axis=0) + 0.05 * rng.standard_normal((300, 6), np.float32)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    d = learn_filters.spherical_kmeans(z, 12, 10, np.random.default_rng(1))
    np.testing.assert_allclose(np.linalg.norm(d, axis=1), 1, atol=1e-5)
    assert (planted @ d.T).max(axis=1).min() > 0.95


def test_learning_twice_gives_the_same_filters_and_another_seed_others(drawings, recipe, learned):
    again = learn_filters.learn(drawings, 0, recipe, TINY)
    other = learn_filters.learn(drawings, 1, recipe, TINY)
    for name, (w, b) in learned.items():
        assert w.shape == TINY[name]
        np.testing.assert_array_equal(w, again[name][0])
        np.testing.assert_array_equal(b, again[name][1])
        assert not np.allclose(w, other[name][0])


def test_every_learned_filter_answers_with_mean_one(drawings, learned):
    p = learn_filters.PREPROCESSING
    for one in _features(drawings, learned, p):
        np.testing.assert_allclose(one.mean(axis=(0, 2, 3)), 1, rtol=1e-2)


def _features(pictures, filters, p):
    """Features (N, K, H, W) of every layer, through the book; average pooling before each new block."""
    layers = [[ops.preprocess_forward(one, p.channel_order, p.range, p.mean, p.std) for one in pictures]]
    for name, (w, b) in filters.items():
        x = layers[-1]
        if name.endswith("_1") and len(layers) > 1:
            x = [ops.average_pool_forward(one) for one in x]
        layers.append([ops.relu_forward(ops.conv_forward(one, w, b, "replicate")) for one in x])
    return [np.stack(one) for one in layers[1:]]


def test_the_shipped_file_is_small_whole_and_says_where_it_comes_from():
    path = ROOT / "weights" / "builtin.h5"
    weights = nstcore.load_weights(path)
    assert path.stat().st_size <= LARGEST_FILE
    assert list(weights.filters) == [s.name for s in vgg.steps_for("vgg19", ["conv5_1"]) if s.kind == "conv"]
    assert weights.provenance["source"].startswith("tools/learn_filters.py seed ")
    assert weights.provenance["licence"] == "MIT"
    assert weights.provenance["storage"] == "int8"
    assert weights.preprocessing == learn_filters.PREPROCESSING


@pytest.mark.slow
def test_the_shipped_filters_answer_evenly_to_drawings_that_they_were_not_learned_from():
    weights = nstcore.load_weights(ROOT / "weights" / "builtin.h5")
    fresh = draw_training.pictures(seed=999, count=8, size=64)
    first_blocks = {name: w for name, w in weights.filters.items() if name < "conv4"}
    for name, one in zip(first_blocks, _features(fresh, first_blocks, weights.preprocessing), strict=True):
        mean = one.mean(axis=(0, 2, 3))
        assert 0.3 < np.median(mean) < 3, name
        assert np.mean(mean == 0) < 0.1, f"{name}: filters that never answer"


@pytest.fixture(scope="module")
def measured():
    """The built-in network's own view of a style, a content, and pictures between them."""
    content, style = (one.transpose(1, 2, 0) for one in draw_training.pictures(seed=3, count=2, size=48))
    weights = nstcore.load_weights(ROOT / "weights" / "builtin.h5")
    pictures = [content, style, 0.5 * (content + style)]
    return style_distance.distances(weights, content, style, pictures, size=48)


def test_the_measure_is_zero_for_the_picture_that_it_measures_from(measured):
    content, style, _ = measured
    assert content.content == 0
    assert set(style.style.values()) == {0.0}
    assert max(style.patches.values()) == pytest.approx(0, abs=1e-5)


def test_the_measure_grows_with_the_distance(measured):
    content, style, between = measured
    assert sum(content.style.values()) > sum(between.style.values()) > 0
    assert style.content > between.content > 0
    assert all(content.patches[layer] > between.patches[layer] > 0 for layer in content.patches)


def test_the_measure_refuses_a_missing_picture_in_one_line(tmp_path, capsys):
    builtin = str(ROOT / "weights" / "builtin.h5")
    code = style_distance.main([builtin, str(tmp_path / "none.png"), "b.png", "c.png"])
    printed = capsys.readouterr()
    assert code == 2
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert "none.png" in printed.err


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data (ImageNet VGG19 and pictures)")
def test_the_measure_agrees_with_the_figures_of_an_independent_program(tmp_path):
    """Expected: the same distances computed with PyTorch from the same files."""
    weights = convert(SHARED / "vgg19_uint8_tfjs", tmp_path / "vgg19.h5")
    content = SHARED / "images" / "content" / "tuebingen_neckarfront.jpg"
    style = SHARED / "images" / "style" / "starry_night.jpg"
    (found,) = style_distance.distances(weights, content, style, [content])
    expected = [0.260477, 0.211206, 0.336066, 0.401855, 1.072608, 0.465584, 0.464056]
    assert [*found.style.values(), *found.patches.values()] == pytest.approx(expected, rel=1e-3)
    assert found.content == 0
