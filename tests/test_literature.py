"""The picture of the literature: Tuebingen in the manner of The Starry Night, as the ImageNet VGG19 sees it."""

from __future__ import annotations

import pytest
from style_distance import distances

import nstcore

# (weights, most of the style distance over relu1_1..relu5_1, most of its first four layers)
CASES = [("vgg19", 0.10, 0.05), ("builtin", 1.10, 0.30)]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "most", "most_of_four"), CASES)
def test_75_adam_iterations_reach_the_style(vgg19, shared_images, tmp_path, name, most, most_of_four):
    content = shared_images / "content" / "tuebingen_neckarfront.jpg"
    style = shared_images / "style" / "starry_night.jpg"
    weights = vgg19 if name == "vgg19" else nstcore.load_weights(name)
    result = nstcore.stylize(content, style, weights=weights, size=256, iterations=75)
    result.save(tmp_path / "out.png")
    before, after = distances(vgg19, content, style, [content, tmp_path / "out.png"], size=256)
    assert sum(before.style.values()) > 2  # 2.29: what the measure says of the content itself
    assert sum(after.style.values()) <= most
    assert sum(list(after.style.values())[:4]) <= most_of_four
