"""How far pictures are from a style and a content, as a network sees them: the measure of the built-in filters.

    python tools/style_distance.py WEIGHTS CONTENT STYLE PICTURE [PICTURE ...] [--size 256]

WEIGHTS is a weights file or name; the figures in `weights/README.md` are of the ImageNet VGG19, whatever painted the
pictures. With G, A the Gram matrices of picture and style divided by their positions, F, P the features of picture and
content, every picture gets one line:

    style      sum over relu1_1, relu2_1, relu3_1, relu4_1, relu5_1 of sum (G - A)^2 / sum A^2, its five terms, and the
               first four summed
    content    sum (F - P)^2 / sum P^2 at relu4_2
    patches    at relu3_1 and relu4_1: mean cosine distance from the picture's 3x3 feature patches to the nearest of the
               style's, so 0 if the picture is a patchwork of the style [1]_

The style distance alone hardly tells a dull picture from a painterly one; the patch distance does, a little.

References
----------
.. [1] Li, Wand, "Combining Markov random fields and convolutional neural networks for image synthesis", CVPR 2016.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from nstcore import engines, images
from nstcore.errors import NstcoreError
from nstcore.pretrained import Weights, load_weights

STYLE_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
CONTENT_LAYER = "relu4_2"
PATCH_LAYERS = ("relu3_1", "relu4_1")
MOST_PATCHES = 3000  # of each picture; from larger pictures a fixed random choice


@dataclass(frozen=True)
class Distances:
    """Of one picture; `style` and `patches` by layer."""

    style: dict[str, float]
    content: float
    patches: dict[str, float]

    def __str__(self) -> str:
        terms = list(self.style.values())
        return (
            f"style {sum(terms):.3f} = {' + '.join(f'{t:.3f}' for t in terms)} (first four {sum(terms[:4]):.3f}), "
            f"content {self.content:.3f}, patches {' '.join(f'{d:.3f}' for d in self.patches.values())}"
        )


def distances(
    weights: Weights,
    content: images.Picture,
    style: images.Picture,
    pictures: Iterable[images.Picture],
    size: int = 256,
) -> list[Distances]:
    """Distances of every picture.

    Parameters
    ----------
    weights : Weights
        Reaching relu5_1.
    content, style : picture
        Brought to a long side of `size` pixels.
    pictures : iterable of pictures
        Brought to the content's size.
    """
    network = engines.create("cpu").network(
        weights, dict.fromkeys((*STYLE_LAYERS, CONTENT_LAYER, *PATCH_LAYERS)), weights.pooling
    )

    def features(picture: images.Picture, shape: tuple[int, int] | None = None) -> dict[str, np.ndarray]:
        pixels = images.as_pixels(picture)
        resized = images.resize_pixels(pixels, shape or images.fit(pixels.shape[1:], size))
        network.forward(images.as_pixels(images.to_uint8(resized)))  # in 8 bits, as a resized file would be
        return {tap: network.features(tap) for tap in network.taps}

    content_pixels = images.as_pixels(content)
    shape = images.fit(content_pixels.shape[1:], size)
    P = features(content)[CONTENT_LAYER]
    of_style = features(style)
    A = {layer: gram(of_style[layer]) for layer in STYLE_LAYERS}
    out = []
    for picture in pictures:
        F = features(picture, shape)
        out.append(
            Distances(
                style={layer: relative(gram(F[layer]), A[layer]) for layer in STYLE_LAYERS},
                content=relative(F[CONTENT_LAYER], P),
                patches={layer: patch_distance(F[layer], of_style[layer]) for layer in PATCH_LAYERS},
            )
        )
    return out


def gram(F: np.ndarray) -> np.ndarray:
    """F F^T / M of features (N, H, W), M = H*W."""
    F = F.reshape(len(F), -1)
    return F @ F.T / np.float32(F.shape[1])


def relative(a: np.ndarray, b: np.ndarray) -> float:
    """sum (a - b)^2 / sum b^2, summed in float64."""
    return float(np.square(a - b, dtype=np.float64).sum() / np.square(b, dtype=np.float64).sum())


def patch_distance(F: np.ndarray, S: np.ndarray) -> float:
    """Mean over the patches of F (N, H, W) of the cosine distance to the nearest patch of S (N, H', W')."""
    return 1.0 - float((unit_patches(F) @ unit_patches(S).T).max(axis=1).mean())


def unit_patches(F: np.ndarray) -> np.ndarray:
    """(n, N*9) 3x3 patches of features (N, H, W), of length 1."""
    p = np.lib.stride_tricks.sliding_window_view(F, (3, 3), axis=(1, 2))
    p = p.transpose(1, 2, 0, 3, 4).reshape(-1, len(F) * 9)
    p = p[np.random.default_rng(0).permutation(len(p))[:MOST_PATCHES]]
    return p / np.linalg.norm(p, axis=1, keepdims=True)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Style, content and patch distance of pictures, as a network sees them; see the file's head."
    )
    parser.add_argument("weights", help="weights file or name, for the published figures the ImageNet VGG19")
    parser.add_argument("content")
    parser.add_argument("style")
    parser.add_argument("pictures", nargs="+")
    parser.add_argument("--size", type=int, default=256, help="long side in pixels (default 256)")
    options = parser.parse_args(argv)
    try:
        found = distances(
            load_weights(options.weights), options.content, options.style, options.pictures, size=options.size
        )
    except NstcoreError as error:
        print(f"style_distance: {error}", file=sys.stderr)
        return error.exit_code
    for path, one in zip(options.pictures, found, strict=True):
        print(f"{Path(path).name}: {one}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
