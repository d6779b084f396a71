"""The scale ladder against a single size, on the same work; and the look of a small and a large picture.

    python tools/compare_ladder.py FOLDER [--weights vgg19] [--size 512] [--iterations 200] [--pairs 3] [--looks]

FOLDER has `content` and `style`. Each pair is painted with the ladder, and at the single size with several style
weights; all take as many evaluations at the full size, or what costs the same. A single run trades style for content by
its style weight: its two neighbours in content distance give, by interpolation of the logarithms, the style distance
that it has at the ladder's content distance. Distances are those of the convention `relative` at the full size: content
sum (F-P)^2 / sum P^2 at relu4_2, style sum over relu1_1 to relu5_1 of sum (G/M - A/M')^2 / sum (A/M')^2.

--looks paints each pair at 256 and at 1024 pixels with the same settings instead, brings the large one down to 256, and
prints each one's style distance per layer at that size, and that of the two from one another: how much of the look
depends on the size, with ladder and pyramid, with the ladder alone, and with neither.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from nstcore import Objective, Terms, Weights, engines, images, load_weights
from nstcore.engines import Engine
from nstcore.errors import NstcoreError
from nstcore.transfer import Result, stylize

PAIRS = (
    ("tuebingen_neckarfront.jpg", "starry_night.jpg"),
    ("golden_gate.jpg", "the_scream.jpg"),
    ("chicago.jpg", "hokusai_wave_crop.jpg"),
)
STYLE_WEIGHTS = (5.0, 10.0, 20.0)  # of the single size; the ladder has the middle one
SMALL, LARGE = 256, 1024
WAYS: dict[str, dict[str, object]] = {
    "ladder and pyramid": {"ladder": 128},
    "ladder": {"ladder": 128, "pyramid": "off"},
    "one size": {"ladder": "off", "pyramid": "off"},
}


@dataclass(frozen=True)
class Comparison:
    """One pair: the ladder's distances, and the single size's style distance at the ladder's content distance."""

    content: float
    ladder: float
    single: float


def compare(pair: tuple[Path, Path], weights: Weights, engine: Engine, size: int, iterations: int) -> Comparison:
    """Paint one pair both ways."""

    def paint(ladder: str | int, style_weight: float) -> Result:
        options = {"size": size, "iterations": iterations, "style_weight": style_weight, "ladder": ladder}
        return stylize(*pair, weights=weights, engine=engine, **options)

    climbed = paint(128, STYLE_WEIGHTS[1]).terms
    single = [paint("off", weight).terms for weight in STYLE_WEIGHTS]
    points = sorted((math.log(t.content), math.log(t.style)) for t in single)
    x = math.log(climbed.content)
    if not points[0][0] <= x <= points[-1][0]:
        raise NstcoreError(f"{pair[0].name}: the ladder's content distance lies outside those of the single size")
    at = math.exp(np.interp(x, *zip(*points, strict=True)))
    return Comparison(climbed.content, climbed.style, at)


def looks(pair: tuple[Path, Path], weights: Weights, engine: Engine, iterations: int, **options: object) -> list[Terms]:
    """Style distances at 256 pixels: of the small picture, of the large one, and of the large one from the small."""
    made = [
        stylize(*pair, weights=weights, engine=engine, size=size, iterations=iterations, **options).pixels
        for size in (SMALL, LARGE)
    ]
    small, large = made[0], images.resize_pixels(made[1], made[0].shape[1:])
    style = images.as_pixels(pair[1])
    style = images.resize_pixels(style, images.fit(style.shape[1:], SMALL))
    found = []
    for of, to in ((small, style), (large, style), (large, small)):
        objective = Objective(
            weights, of.transpose(1, 2, 0), to.transpose(1, 2, 0), engine=engine, content_weight=0.0, tv_weight=0.0
        )
        found.append(objective(of)[0])
    return found


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="with the folders content and style")
    parser.add_argument("--weights", default="vgg19")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--pairs", type=int, default=len(PAIRS), choices=range(1, len(PAIRS) + 1))
    parser.add_argument("--looks", action="store_true")
    args = parser.parse_args()
    weights, engine = load_weights(args.weights), engines.create("auto", None)
    pairs = [(args.folder / "content" / c, args.folder / "style" / s) for c, s in PAIRS[: args.pairs]]
    print(f"{weights.name}, {engine.describe()}, {args.iterations} evaluations at the full size")
    if args.looks:
        _print_looks(pairs, weights, engine, args.iterations)
        return 0
    print(f"\n| pair, {args.size} px | content | style, ladder | style, one size, same content | ratio |")
    print("|---|---:|---:|---:|---:|")
    for pair in pairs:
        c = compare(pair, weights, engine, args.size, args.iterations)
        ratio = c.ladder / c.single
        print(f"| {_named(pair)} | {c.content:.4f} | {c.ladder:.4f} | {c.single:.4f} | {ratio:.2f} |", flush=True)
    return 0


def _print_looks(pairs: list[tuple[Path, Path]], weights: Weights, engine: Engine, iterations: int) -> None:
    header = "| pair, at 256 px | relu1_1 | relu2_1 | relu3_1 | relu4_1 | relu5_1 |"
    print(f"\n{header}\n|---|---:|---:|---:|---:|---:|")
    for pair in pairs:
        for name, options in WAYS.items():
            small, large, between = looks(pair, weights, engine, iterations, **options)
            for what, terms in (("256", small), ("1024", large), ("1024 from 256", between)):
                layers = " | ".join(f"{value:.4f}" for value in terms.style_layers.values())
                print(f"| {_named(pair)}, {name}: {what} | {layers} |", flush=True)


def _named(pair: tuple[Path, Path]) -> str:
    return f"{pair[0].stem} / {pair[1].stem}"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except NstcoreError as error:
        print(f"compare_ladder: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
