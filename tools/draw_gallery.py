"""The gallery in the README: paints the example pair with each recipe and some controls, and writes the section.

    python tools/draw_gallery.py                     # all; --only NAME for one
    python tools/draw_gallery.py --check             # 1 if the README's section is not what this would write

Each picture is made by the command that stands below it, and shown at 320 pixels (nstcore/examples/gallery/NAME.jpg).
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from nstcore import images
from nstcore.cli import main as nstcore_main
from nstcore.commands.sources import RECIPES, read_toml, recipe_names

ROOT = Path(__file__).resolve().parent.parent
FOLDER = Path("nstcore/examples/gallery")
README = ROOT / "README.md"
BEGIN, END = "<!-- gallery, by tools/draw_gallery.py -->", "<!-- end of gallery -->"
SHOWN = 320  # long side, in pixels
COLUMNS = 3
CONTROLS = {
    "sky": ("--protect nstcore/examples/sky.png", "a mask: the sky is left as it is"),
    "matched": ("--colors symmetric --style-weight 20", "the style in the colours of the content, by a linear map"),
    "w2": ("--style-loss w2 --style-weight 3", "the Wasserstein distance of Gaussians in place of Gram matrices"),
}
PASSES = {
    "fast": ("", "**one pass**: the network of Ghiasi et al. 2017, in a tenth of a second"),
    "fast-half": ("--strength 0.5", "one pass, half way between the content's own look and the style's"),
    "fast-start": ("--init fast --iterations 40", "forty iterations from there"),
}


def names() -> list[str]:
    """Of the pictures, in the order in which they are shown."""
    return [*recipe_names(), *CONTROLS, *PASSES]


def command(name: str) -> str:
    """What makes a picture."""
    if name in PASSES:
        options = PASSES[name][0]
        return " ".join(f"{'run' if '--init' in options else 'fast'} {options} --size 512 -o {name}.png".split())
    options = CONTROLS[name][0] if name in CONTROLS else f"--recipe {name}"
    return f"run {options} --size 512 --iterations 200 -o {name}.png"


def text(name: str) -> str:
    """What a picture shows."""
    if name in CONTROLS or name in PASSES:
        return (CONTROLS | PASSES)[name][1]
    return f"**{name}**: {read_toml(RECIPES / f'{name}.toml', 'a recipe')['description']}"


def section() -> str:
    """The README's table."""
    lines = [BEGIN]
    for start in range(0, len(names()), COLUMNS):
        row = names()[start : start + COLUMNS]
        cells = [f"![{name}]({FOLDER / name}.jpg)<br>`python -m nstcore {command(name)}`" for name in row]
        texts = [text(name) for name in row]
        if start == 0:
            lines += [f"| {' | '.join(texts)} |", "|" + "---|" * len(row)]
        else:
            lines.append(f"| {' | '.join(texts)} |")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, END])


def written(readme: str) -> str:
    """The README with the section in its place."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + section() + after


def draw(name: str, weights: str) -> None:
    """Paint one picture, and bring it to the size of the gallery."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / f"{name}.png"
        words = shlex.split(command(name))
        words[words.index(f"{name}.png")] = str(output)
        if code := nstcore_main([*words, *(["--weights", weights] if words[0] == "run" else [])]):
            raise SystemExit(code)
        pixels = images.as_pixels(output)
    target = ROOT / FOLDER / f"{name}.jpg"
    target.parent.mkdir(exist_ok=True)
    images.write_picture(target, images.resize_pixels(pixels, images.fit(pixels.shape[1:], SHOWN)), quality=88)


def main() -> int:
    """Draw and write, or check."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=names(), help="one picture (default: all)")
    parser.add_argument("--weights", default="vgg19")
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if the section is stale")
    args = parser.parse_args()
    readme = README.read_text()
    if args.check:
        return int(written(readme) != readme)
    for name in [args.only] if args.only else names():
        draw(name, args.weights)
    README.write_text(written(readme))
    return 0


if __name__ == "__main__":
    sys.exit(main())
