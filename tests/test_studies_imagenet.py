"""What the papers found, measured with the ImageNet VGG19 on the package's own pictures."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import ROOT

from nstcore import ops, studies
from nstcore.studies.reconstruct import pixel_error

EXAMPLES = ROOT / "nstcore" / "examples"
# Pixel errors of reconstructions, relative to the picture's deviation from its mean colour: 0.25 leaves a sixteenth of
# its variance unexplained, and 1 is a plain surface. What relu3_1 loses lies within the 4x4 pixels that one of its
# positions stands for: their means are nearly exact.
NEAR = {"relu1_1": 0.06, "relu2_1": 0.15, "relu3_1": 0.3}
MEANS = 0.08
FAR = {"relu4_1": 0.6, "relu5_1": 0.9}
MATCHED = 0.15  # feature error: the far ones are far although their features agree
# Root mean square over the layers of the relative distances of Gram matrices: one layer, two, ..., five
DISTANCES = (0.015, 0.025, 0.08, 0.08, 0.12)


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["max", "average"])
def test_a_reconstruction_is_near_down_to_relu3_1_and_further_with_depth(vgg19, pooling):
    picture, options = EXAMPLES / "content.jpg", {"weights": vgg19, "size": 96, "pooling": pooling}
    near = studies.reconstruct(picture, tuple(NEAR), iterations=200, **options)
    far = studies.reconstruct(picture, tuple(FAR), iterations=100, **options)
    errors = {panel.label: panel.numbers["pixel error"] for panel in (*near.panels, *far.panels)}
    matched = {panel.label: panel.numbers["feature error"] for panel in (*near.panels, *far.panels)}
    means = pixel_error(*(ops.block_mean_forward(x, 4) for x in (near.panels[-1].pixels, near.original)))
    print(f"{pooling}: pixels {errors}, features {matched}, relu3_1's means of 4x4 pixels {means}")
    assert np.all(np.diff(list(errors.values())) > 0)
    for layer, bound in NEAR.items():
        assert errors[layer] < bound, layer
    assert means < MEANS
    for layer, bound in FAR.items():
        assert errors[layer] > bound, layer
    assert max(matched.values()) < MATCHED


@pytest.mark.slow
def test_textures_from_noise_match_the_statistics_of_the_style(vgg19):
    study = studies.texture(EXAMPLES / "style.jpg", weights=vgg19, size=64, iterations=100)
    found = [panel.numbers["style distance"] for panel in study.panels]
    print(found)
    for panel, distance, bound in zip(study.panels, found, DISTANCES, strict=True):
        assert distance < bound, panel.label
