"""Whose colours: luminance and chrominance, and matching the colours of one picture to those of another."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import smooth_picture
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nstcore import images
from nstcore.errors import OptionError, ShapeError

IQ = np.array([[0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])  # rows sum to 0: differences of colours
METHODS = ("cholesky", "symmetric")


def picture(seed: int, height: int = 40, width: int = 50) -> np.ndarray:
    return np.ascontiguousarray(smooth_picture(height, width, seed).transpose(2, 0, 1))


def muted(seed: int) -> np.ndarray:
    """A picture whose colours stay away from the ends of the range."""
    return 0.5 + 0.3 * (picture(seed) - 0.5)


def moments(pixels: np.ndarray, weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    x, w = pixels.reshape(3, -1), None if weights is None else weights.ravel()
    return np.average(x, axis=1, weights=w), np.cov(x, aweights=w, ddof=0)


def applied(map_: tuple[np.ndarray, np.ndarray], pixels: np.ndarray) -> np.ndarray:
    return np.einsum("ij,jhw->ihw", map_[0], pixels) + map_[1][:, None, None]


def delta_e(one: np.ndarray, other: np.ndarray) -> float:
    """CIE 1976 difference of two sRGB colours; 1 is about what an eye can tell apart."""

    def lab(rgb):
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
        t = to_xyz @ linear / to_xyz.sum(axis=1)
        f = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
        return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])

    return float(np.linalg.norm(lab(one) - lab(other)))


def test_delta_e_is_that_of_the_literature():
    assert delta_e(np.ones(3), np.zeros(3)) == pytest.approx(100, abs=0.01)
    assert delta_e(np.array([1.0, 0, 0]), np.array([0, 1.0, 0])) == pytest.approx(170.6, abs=0.2)


def test_luminance_is_that_of_ntsc():
    assert images.luminance(np.eye(3)[:, :, None])[:, 0].tolist() == [0.299, 0.587, 0.114]
    assert images.luminance(picture(0).astype(np.float32)).dtype == np.float32


def test_at_another_luminance_within_the_gamut_i_and_q_stay_exactly():
    content = muted(0)
    Y = images.luminance(muted(1))
    result = images.with_luminance(content, Y)
    np.testing.assert_allclose(np.tensordot(IQ, result, 1), np.tensordot(IQ, content, 1), atol=1e-12)
    np.testing.assert_allclose(images.luminance(result), Y, atol=1e-12)


def test_beyond_the_gamut_luminance_and_hue_stay_and_a_channel_is_at_its_end():
    content = np.random.default_rng(0).random((3, 30, 30))
    Y = np.random.default_rng(1).random((30, 30))
    result = images.with_luminance(content, Y)
    np.testing.assert_allclose(images.luminance(result), Y, atol=1e-12)
    (i, q), (i_c, q_c) = np.tensordot(IQ, result, 1), np.tensordot(IQ, content, 1)
    np.testing.assert_allclose(i * q_c - q * i_c, 0, atol=1e-12)  # parallel
    assert (i * i_c + q * q_c).min() >= 0
    beyond = (i**2 + q**2) < (i_c**2 + q_c**2) * (1 - 1e-9)
    assert 0.1 < beyond.mean() < 0.9
    at_end = np.minimum(result, 1 - result).min(axis=0)
    np.testing.assert_allclose(at_end[beyond], 0, atol=1e-12)


@pytest.mark.parametrize("Y", [0.0, 0.5, 1.0, -3.0, 7.0])
@pytest.mark.parametrize("level", [0.0, 0.3, 1.0])
def test_grey_stays_grey_at_any_luminance(level, Y):
    result = images.with_luminance(np.full((3, 4, 5), level), np.full((4, 5), Y))
    np.testing.assert_allclose(result, np.clip(Y, 0, 1), atol=1e-12)


def test_the_content_at_its_own_luminance_is_the_content():
    content = np.random.default_rng(0).random((3, 20, 20))
    np.testing.assert_allclose(images.with_luminance(content, images.luminance(content)), content, atol=1e-12)


def test_matched_luminance_has_the_mean_and_contrast_of_the_content():
    style, content = picture(0), muted(1)
    matched = images.match_luminance(style, content)
    Y = images.luminance(content)
    assert matched.shape == style.shape[1:]
    assert (matched.mean(), matched.std()) == pytest.approx((Y.mean(), Y.std()), abs=1e-12)
    np.testing.assert_array_equal(matched, images.match_luminance(images.luminance(style), Y))
    np.testing.assert_allclose(images.match_luminance(np.full((3, 8, 8), 0.3), content), Y.mean(), atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("weighted", [False, True])
def test_linear_matching_gives_mean_and_covariance_of_the_content(method, weighted):
    style, content = picture(0), picture(1, 30, 45)
    w_s = np.random.default_rng(2).random((40, 50)) if weighted else None
    w_c = np.random.default_rng(3).random((30, 45)) if weighted else None
    matched = applied(images.linear_map(style, content, method, w_s, w_c), style)
    for got, expected in zip(moments(matched, w_s), moments(content, w_c), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_what_has_weight_0_has_no_say(method):
    style, content = picture(0), picture(1)
    w = np.ones((40, 50))
    w[:, 25:] = 0
    A, b = images.linear_map(style, content, method, w, w)
    expected = images.linear_map(style[..., :25], content[..., :25], method)
    np.testing.assert_allclose(A, expected[0], atol=1e-9)
    np.testing.assert_allclose(b, expected[1], atol=1e-9)


def test_the_two_forms_are_what_they_are_called():
    cholesky, _ = images.linear_map(picture(0), picture(1), "cholesky")
    np.testing.assert_allclose(np.triu(cholesky, 1), 0, atol=1e-12)
    assert np.diag(cholesky).min() > 0
    symmetric, _ = images.linear_map(picture(0), picture(1), "symmetric")
    order = [2, 0, 1]
    permuted, _ = images.linear_map(picture(0)[order], picture(1)[order], "symmetric")
    np.testing.assert_allclose(permuted, symmetric[np.ix_(order, order)], atol=1e-9)
    identity, b = images.linear_map(picture(0), picture(0), "symmetric")
    np.testing.assert_allclose(identity, np.eye(3), atol=1e-9)
    np.testing.assert_allclose(b, 0, atol=1e-9)


@pytest.mark.parametrize("method", [*METHODS, "histogram"])
@pytest.mark.parametrize("seed", range(3))
def test_matched_colours_differ_from_the_contents_by_a_delta_e_below_1_in_the_mean(method, seed):
    style, content = picture(seed), muted(seed + 10)
    matched = (
        images.match_histogram(style, content) if method == "histogram" else images.match_linear(style, content, method)
    )
    assert delta_e(style.mean(axis=(1, 2)), content.mean(axis=(1, 2))) > 2
    assert delta_e(matched.mean(axis=(1, 2)), content.mean(axis=(1, 2))) < 1


FLAT = {
    "black": np.zeros((3, 12, 12)),
    "white": np.ones((3, 12, 12)),
    "one colour": np.full((3, 12, 12), 0.3) * np.array([1.0, 2, 3])[:, None, None],
    "grey": np.repeat(picture(5, 12, 12)[:1], 3, axis=0),
    "one pixel": picture(5, 1, 1),
    "colours": picture(6, 12, 12),
}


@pytest.mark.parametrize("content", FLAT)
@pytest.mark.parametrize("style", FLAT)
def test_flat_and_grey_pictures_never_give_nan(style, content):
    s, c = FLAT[style], FLAT[content]
    results = [images.match_linear(s, c, method) for method in METHODS]
    results += [images.match_histogram(s, c), images.match_luminance(s, c)[None]]
    for result in results:
        assert np.isfinite(result).all()
        assert result.min() >= 0
        assert result.max() <= 1
        assert result.shape[1:] == s.shape[1:]
    for result in results[:3]:
        if content in ("black", "white", "one colour", "one pixel"):
            np.testing.assert_allclose(result, np.broadcast_to(c[:, :1, :1], s.shape), atol=1e-6)
        if style in ("black", "white", "one colour", "one pixel"):
            np.testing.assert_allclose(result.mean(axis=(1, 2)), c.mean(axis=(1, 2)), atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_the_colours_of_a_grey_content_are_grey(method):
    matched = images.match_linear(picture(0), 0.5 + 0.5 * (FLAT["grey"] - 0.5), method)
    assert np.ptp(matched, axis=0).max() < 1e-6
    assert matched.std() > 0.01


def test_histograms_match_exactly_where_values_are_distinct():
    style, content = picture(0), picture(1)
    matched = images.match_histogram(style, content)
    for m, s, c in zip(matched, style, content, strict=True):
        np.testing.assert_allclose(np.sort(m, axis=None), np.sort(c, axis=None), atol=1e-9)
        np.testing.assert_array_equal(np.argsort(m, axis=None), np.argsort(s, axis=None))


def test_a_histogram_with_ties_keeps_them_together_at_the_mean_of_their_ranks():
    style = np.repeat(np.array([[0.2, 0.2, 0.7, 0.7]])[None], 3, axis=0)
    content = np.repeat(np.array([[0.1, 0.3, 0.5, 0.6]])[None], 3, axis=0)
    np.testing.assert_allclose(images.match_histogram(style, content)[0, 0], [0.2, 0.2, 0.55, 0.55], atol=1e-12)


def test_weights_choose_whose_histogram_counts_and_all_pixels_are_mapped():
    style, content = picture(0), picture(1)
    w = np.zeros((40, 50))
    w[:20] = 1
    matched = images.match_histogram(style, content, w, w)
    half = images.match_histogram(style[:, :20], content[:, :20])
    np.testing.assert_allclose(matched[:, :20], half, atol=1e-9)
    for m, s in zip(matched, style, strict=True):
        assert np.diff(m.ravel()[np.argsort(s, axis=None)]).min() >= -1e-12  # monotone over the others too


@settings(deadline=None, max_examples=30)
@given(
    arrays(np.uint8, (3, 4, 5), elements=st.integers(0, 255)),
    arrays(np.uint8, (3, 3, 6), elements=st.integers(0, 255)),
)
def test_every_8_bit_picture_is_matched_in_range_and_in_the_mean(style, content):
    s, c = style / 255, content / 255
    matched = images.match_histogram(s, c)
    np.testing.assert_allclose(matched.mean(axis=(1, 2)), c.mean(axis=(1, 2)), atol=1e-9)
    for method in METHODS:
        A, b = images.linear_map(s, c, method)
        np.testing.assert_allclose(applied((A, b), s).mean(axis=(1, 2)), c.mean(axis=(1, 2)), atol=1e-6)
        assert np.isfinite(A).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_results_have_the_type_of_what_they_are_made_from(dtype):
    style, content = picture(0).astype(dtype), picture(1).astype(dtype)
    Y = images.luminance(style)
    for result in (
        Y,
        images.with_luminance(content, Y),
        images.match_luminance(style, content),
        images.match_linear(style, content),
        images.match_histogram(style, content),
    ):
        assert result.dtype == dtype


def test_what_does_not_fit_is_refused():
    style = picture(0)
    with pytest.raises(OptionError, match="cholesky or symmetric"):
        images.match_linear(style, style, "pca")
    with pytest.raises(OptionError, match="no pixel"):
        images.match_linear(style, style, style_weights=np.zeros((40, 50)))
    with pytest.raises(ShapeError, match="weights"):
        images.match_histogram(style, style, np.ones((4, 5)))
    with pytest.raises(ShapeError, match="luminance"):
        images.with_luminance(style, np.ones((4, 5)))
