"""What a start in one pass is worth: after how many iterations it has the loss that 200 others have come to.

    python tools/compare_init.py FOLDER [--weights vgg19] [--size 512] [--iterations 200] [--pairs 3] [--threads N]

FOLDER has `content` and `style`; the network of the pass is Magenta's, from the cache. Each pair is painted at one size
from the content (what `run` does unless told otherwise), from noise (as in the paper of Gatys et al.), from the pass
(`--init fast`), and from the mean of content and pass, all else as `run` has it. A loss counts from the evaluation on
at which it was found first.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from nstcore import Weights, engines, load_weights
from nstcore.engines import Engine
from nstcore.errors import NstcoreError
from nstcore.transfer import stylize

PAIRS = (
    ("tuebingen_neckarfront.jpg", "starry_night.jpg"),
    ("golden_gate.jpg", "kandinsky_composition_vii.jpg"),
    ("chicago.jpg", "the_scream.jpg"),
)
PLAIN = ("content", "noise")
QUICK = {"fast": "fast", "half fast": "content=0.5,fast=0.5"}
SHOWN = (20, 60)  # iterations at which the losses themselves are printed


@dataclass(frozen=True)
class Curve:
    """The lowest loss so far after every iteration, the start's first."""

    lowest: np.ndarray

    def after(self, iterations: int) -> float:
        """The lowest loss that so many iterations find."""
        return float(self.lowest[min(iterations, len(self.lowest) - 1)])

    def reaches(self, loss: float) -> int | None:
        """Iterations until it is as low; None if it never is."""
        found = np.flatnonzero(self.lowest <= loss)
        return int(found[0]) if len(found) else None


def curve(pair: tuple[Path, Path], init: str, weights: Weights, engine: Engine, size: int, iterations: int) -> Curve:
    """Paint one pair from one start."""
    result = stylize(*pair, weights=weights, engine=engine, size=size, iterations=iterations, ladder="off", init=init)
    return Curve(np.minimum.accumulate([terms.total for terms in result.losses]))


def row(name: str, curves: dict[str, Curve], iterations: int) -> Sequence[str]:
    """A pair in the table."""
    cells = [name]
    for plain in PLAIN:
        target = curves[plain].after(iterations)
        reached = (curves[quick].reaches(target) for quick in QUICK)
        cells += [f"{target:.3f}", *("never" if r is None else str(r) for r in reached)]
    for n in SHOWN:
        cells.append(" / ".join(f"{curves[start].after(n):.2f}" for start in (*PLAIN, *QUICK)))
    return cells


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="with the folders content and style")
    parser.add_argument("--weights", default="vgg19")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--pairs", type=int, default=len(PAIRS), choices=range(1, len(PAIRS) + 1))
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    weights, engine = load_weights(args.weights), engines.create("auto", None, args.threads)
    print(f"{weights.name}, {engine.describe()}, {args.size} px, {args.iterations} iterations of Adam\n")
    n = args.iterations
    header = [f"loss of {n} from {p} | reached from fast | from half fast" for p in PLAIN]
    header += [f"loss after {k}: {', '.join((*PLAIN, *QUICK))}" for k in SHOWN]
    print(f"| pair | {' | '.join(header)} |\n|---{'|---:' * (3 * len(PLAIN) + len(SHOWN))}|", flush=True)
    for content, style in PAIRS[: args.pairs]:
        pair = args.folder / "content" / content, args.folder / "style" / style
        starts = {**{p: p for p in PLAIN}, **QUICK}
        curves = {name: curve(pair, init, weights, engine, args.size, n) for name, init in starts.items()}
        print(f"| {' | '.join(row(f'{pair[0].stem} / {pair[1].stem}', curves, n))} |", flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except NstcoreError as error:
        print(f"compare_init: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
