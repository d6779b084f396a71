"""Draw the example pair that ships with nstcore: a town on a river (content) and an oil painting (style), and a mask.

    python tools/draw_examples.py [--out FOLDER] [--scale S]

Both pictures are computed from formulas and fixed seeds: no file is read, and nobody else holds rights in them. The
content picture is rendered in three dimensions (tools/examples/content.py), the style picture painted stroke by stroke
(tools/examples/style.py). sky.png is white where the content picture shows the sky.
"""

import argparse
from pathlib import Path

from examples import content, style
from PIL import Image

SHIPPED = Path(__file__).resolve().parent.parent / "nstcore" / "examples"
QUALITY = 92


def main(arguments: list[str] | None = None) -> None:
    """Draw the pictures and say where they are."""
    parser = argparse.ArgumentParser(description="Draw the example pair that ships with nstcore.")
    parser.add_argument("--out", type=Path, default=SHIPPED, metavar="FOLDER", help="default: nstcore/examples")
    parser.add_argument("--scale", type=float, default=1.0, metavar="S", help="1: 768 x 512 and 640 x 512")
    options = parser.parse_args(arguments)
    if not 0.05 <= options.scale <= 8:
        parser.error(f"--scale: expected 0.05 ... 8, got {options.scale}; 1 draws the shipped size")
    options.out.mkdir(parents=True, exist_ok=True)
    for name, picture in (("content", content), ("style", style)):
        path = options.out / f"{name}.jpg"
        image = Image.fromarray(picture.draw(options.scale))
        image.save(path, quality=QUALITY, optimize=True)
        print(f"{path}: {image.width} x {image.height}, {path.stat().st_size // 1024} KB")
    path = options.out / "sky.png"
    Image.fromarray(content.sky(options.scale)).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size // 1024} KB")


if __name__ == "__main__":
    main()
