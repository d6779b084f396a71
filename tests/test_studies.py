"""The studies of `nstcore.studies`, held against the book with a small random network."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import random_weights, smooth_picture

import nstcore
from nstcore import engines, images, studies, vgg
from nstcore.errors import LayerError, OptionError
from nstcore.studies.reconstruct import pixel_error

LAYERS = ("relu1_1", "relu2_1")


@pytest.fixture(scope="module")
def small():
    """A network to conv2_1."""
    return random_weights(deepest="conv2_1")


@pytest.fixture(scope="module")
def picture():
    return smooth_picture(20, 24)


def seen_by_the_book(weights, taps, pixels):
    network = engines.create("reference", "float64").network(weights, taps, weights.pooling)
    network.forward(np.asarray(pixels, np.float64))
    return network


def test_the_errors_of_a_reconstruction_are_those_of_its_picture(small, picture):
    study = studies.reconstruct(picture, LAYERS, weights=small, size=24, iterations=5, threads=1)
    p = picture.transpose(2, 0, 1)
    for panel, layer in zip(study.panels, LAYERS, strict=True):
        F, P = (seen_by_the_book(small, (layer,), x).features(layer) for x in (panel.pixels, p))
        assert panel.label == layer
        assert panel.numbers["feature error"] == pytest.approx(np.linalg.norm(F - P) / np.linalg.norm(P), rel=1e-3)
        spread = p - p.mean(axis=(1, 2), keepdims=True)
        apart = np.linalg.norm(panel.pixels - p) / np.linalg.norm(spread)
        assert panel.numbers["pixel error"] == pytest.approx(apart, rel=1e-3)
        assert panel.metadata["settings"]["init"] == "noise"


def test_a_reconstruction_comes_nearer_with_more_iterations(small, picture):
    def error(iterations):
        study = studies.reconstruct(picture, ("relu1_1",), weights=small, size=24, iterations=iterations, threads=1)
        return study.panels[0].numbers["pixel error"]

    assert error(40) < 0.1 < error(1)


def test_the_pixel_error_is_0_for_the_picture_and_1_for_its_mean_colour():
    p = smooth_picture(16, 20).transpose(2, 0, 1)
    mean = np.broadcast_to(p.mean(axis=(1, 2), keepdims=True), p.shape)
    assert pixel_error(p, p) == 0
    assert pixel_error(mean, p) == pytest.approx(1)
    half = np.ones(p.shape[1:])
    half[:, 10:] = 0
    changed = np.where(half > 0, p, 0)  # where nothing counts
    assert pixel_error(changed, p, half) == 0
    assert pixel_error(np.full_like(p, 0.75), np.full_like(p, 0.5)) == pytest.approx(0.25)


@pytest.mark.parametrize("loss", ["gram", "centred", "mean-std", "w2"])
def test_a_texture_has_a_row_for_each_first_layers_and_comes_near_their_statistics(small, picture, loss):
    study = studies.texture(
        picture, LAYERS, weights=small, size=24, iterations=100, style_loss=loss, tv_weight=0, threads=1
    )
    assert [panel.label for panel in study.panels] == ["relu1_1", "relu1_1 to relu2_1"]
    assert [set(panel.numbers) for panel in study.panels] == [
        {"style distance", *layers} for layers in studies.prefixes(LAYERS)
    ]
    assert max(panel.numbers["style distance"] for panel in study.panels) < 0.1
    assert study.metadata["settings"]["style_loss"] == loss


def test_the_distance_of_a_texture_is_that_of_its_gram_matrices(small, picture):
    study = studies.texture(picture, LAYERS, weights=small, size=24, iterations=2, threads=1)
    here, aim = (seen_by_the_book(small, LAYERS, x) for x in (study.panels[1].pixels, picture.transpose(2, 0, 1)))
    for layer in LAYERS:
        G, A = (np.asarray(network.gram(layer)) / network.positions(layer) for network in (here, aim))
        expected = np.linalg.norm(G - A) / np.linalg.norm(A)
        assert study.panels[1].numbers[layer] == pytest.approx(expected, rel=1e-3)


def test_the_strongest_channels_are_those_of_the_gram_matrix_s_diagonal(small, picture):
    study = studies.features(picture, "relu2_1", 7, weights=small, size=24, threads=1)
    network = seen_by_the_book(small, ("relu2_1",), picture.transpose(2, 0, 1))
    diagonal = np.diag(np.asarray(network.gram("relu2_1"))) / network.positions("relu2_1")
    order = np.argsort(-diagonal)[:7]
    assert [panel.label for panel in study.panels] == [f"channel {i}" for i in order]
    strengths = [panel.numbers["strength"] for panel in study.panels]
    np.testing.assert_allclose(strengths, np.sqrt(diagonal[order]), rtol=1e-4)
    F = network.features("relu2_1")
    for panel, i in zip(study.panels, order, strict=True):
        white = np.quantile(F[i], 0.99)
        np.testing.assert_allclose(panel.pixels, np.repeat(np.clip(F[i] / white, 0, 1)[None], 3, 0), atol=1e-4)


def test_maps_may_share_a_scale_and_before_the_relu_0_is_grey(small, picture):
    own = studies.features(picture, "conv1_1", 64, weights=small, size=24, threads=1)
    common = studies.features(picture, "conv1_1", 64, scale="common", weights=small, size=24, threads=1)
    network = seen_by_the_book(small, ("conv1_1",), picture.transpose(2, 0, 1))
    F = network.features("conv1_1")
    white = np.quantile(np.abs(F), 0.99)
    for panel in common.panels:
        i = int(panel.label.split()[1])
        np.testing.assert_allclose(panel.pixels[0], np.clip(0.5 + 0.5 * F[i] / white, 0, 1), atol=1e-4)
    assert any(not np.array_equal(a.pixels, b.pixels) for a, b in zip(own.panels, common.panels, strict=True))


def test_gram_matrices_are_shown_whole_and_in_the_network_s_order(small, picture):
    study = studies.grams(picture, LAYERS, weights=small, size=24, threads=1)
    assert [panel.pixels.shape for panel in study.panels] == [(3, 64, 64), (3, 128, 128)]
    network = seen_by_the_book(small, LAYERS, picture.transpose(2, 0, 1))
    G = np.asarray(network.gram("relu2_1")) / network.positions("relu2_1")
    shown = study.panels[1].pixels[0]
    np.testing.assert_allclose(shown, np.clip(np.sqrt(G / np.quantile(G, 0.99)), 0, 1), atol=1e-3)
    assert study.panels[1].numbers["largest"] == pytest.approx(G.max(), rel=1e-4)


def test_a_patch_is_the_receptive_field_of_the_largest_value(small, picture):
    study = studies.patches(picture, "relu2_1", 128, weights=small, size=24, threads=1)
    side, _ = vgg.receptive_field("vgg19", "relu2_1")
    F = seen_by_the_book(small, ("relu2_1",), picture.transpose(2, 0, 1)).features("relu2_1")
    inside = 0
    for panel in study.panels:
        assert panel.pixels.shape == (3, side, side)
        top, left = panel.numbers["row"] - side // 2, panel.numbers["column"] - side // 2
        if 0 <= top <= 20 - side and 0 <= left <= 24 - side:
            inside += 1
            expected = picture[top : top + side, left : left + side].transpose(2, 0, 1)
            np.testing.assert_allclose(panel.pixels, expected, atol=1e-6)
            channel = int(panel.label.split()[1])
            row, column = panel.numbers["row"] // 2, panel.numbers["column"] // 2
            assert F[channel, row, column] == pytest.approx(F[channel].max(), rel=1e-5)
    assert inside > 10


def test_a_filter_is_shown_as_it_acts_on_red_green_and_blue(small):
    study = studies.filters(small)
    assert len(study.panels) == 64
    w, _ = small.filters["conv1_1"]
    for panel, filter_ in zip(study.panels, w, strict=True):
        weight = (panel.pixels - 0.5) * 2 * panel.numbers["largest"]  # of R, G, B in [0, 1]
        expected = filter_[::-1] * 255 / np.array([57.5, 57.0, 58.0])[:, None, None]  # the network reads B, G, R
        np.testing.assert_allclose(weight, expected, rtol=1e-4, atol=1e-5)


def test_filters_beyond_the_first_have_no_colours_and_are_refused(small):
    with pytest.raises(OptionError, match=r"conv1_1, whose filters read colours.*patches"):
        studies.filters(small, "conv2_1")


def test_a_layer_that_is_not_there_is_refused_before_anything_is_computed(small, picture, monkeypatch):
    monkeypatch.setattr(nstcore.Objective, "__call__", lambda *_: pytest.fail("something was computed"))
    for study in (studies.reconstruct, studies.texture):
        with pytest.raises(LayerError, match="relu3_1"):
            study(picture, ("relu1_1", "relu3_1"), weights=small, size=24)
        with pytest.raises(OptionError, match="at least one layer"):
            study(picture, (), weights=small, size=24)


def test_the_share_of_the_work_grows_to_the_whole(small, picture):
    moments = []
    studies.reconstruct(picture, LAYERS, weights=small, size=24, iterations=4, threads=1, on_step=moments.append)
    shares = [moment.share for moment in moments]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)
    assert [(m.part, m.parts, m.label) for m in (moments[0], moments[-1])] == [(0, 2, "relu1_1"), (1, 2, "relu2_1")]


def test_a_foot_is_shown_whole_below_the_sheet():
    tile = np.zeros((40, 60, 3), np.uint8)
    plain, short, long = (
        images.contact_sheet([tile], ["x"], 1, foot=foot) for foot in (None, "word", "many more words " * 10)
    )
    assert plain.shape[0] < short.shape[0] < long.shape[0] - 8 * 11
    np.testing.assert_array_equal(long[: plain.shape[0]], plain)
    assert (long[plain.shape[0] :] < 128).any()
