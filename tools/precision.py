"""What a precision of the GPU's kernels costs: errors against the book in float64, and the picture that comes of it.

    python tools/precision.py                                   on a GPU, or on the CPU that stands in for one
    python tools/precision.py --weights vgg19.h5 --steps 100    other weights, a longer painting
    python tools/precision.py --sheet sheet.png                 the paintings side by side
    python tools/precision.py --write                           into kernels/README.md, between its markers; with
                                                                --sheet the paintings, too

Three pictures are looked at: the content, noise, and a painting half way. Loss and gradient of each are compared with
the book's twice: the book decides for itself where a ReLU lets through and which maximum wins; and it follows the
decisions of the precision, so that only errors of arithmetic are left (as `python -m nstcore check` does).

Then every precision paints. A painting is a long path, on which the smallest difference grows: how far two float32
machines come apart (the GPU's kernels and the CPU's) is what the others are to be measured by. What a painting is worth
is its loss, which for all of them the book computes.
"""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import bench
import numpy as np
from bench_common import Report, commit
from PIL import Image, ImageDraw
from precision_study import LEVELS, Errors, Painting, Study

from nstcore import images, load_weights
from nstcore.commands.progress import Progress
from nstcore.engines.cuda import gpu
from nstcore.engines.cuda.precision import PRECISIONS
from nstcore.errors import NstcoreError, OptionError
from nstcore.files import check_writable
from nstcore.objective import CONTENT_LAYERS
from nstcore.pretrained.places import cached_path

GROUP, NAME = "precision", "book"  # of the markers: <!-- precision:book -->
EXAMPLES = Path(__file__).resolve().parents[1] / "nstcore" / "examples"
SIZE = {"cuda": 256, "cuda-on-cpu": 64}  # pixels; the stand-in is a thousand times slower
STEPS = {"cuda": 300, "cuda-on-cpu": 40}
ENLARGED, MARGIN, AMPLIFIED = 192, 16, 8  # of the sheet: pixels of a side, of a line of text; differences, times

# ---- tables and the sheet --------------------------------------------------------------------------------------------


def error_table(found: Sequence[Errors]) -> str:
    header = ("picture", "precision", "loss", "gradient, L2", "gradient, max", "loss, free", "L2, free", "max, free")
    report = Report(header)
    for e in found:
        numbers = (e.loss, e.gradient, e.largest, e.free_loss, e.free_gradient, e.free_largest)
        report.rows.append((e.picture, e.precision, *(f"{n:.1e}" for n in numbers)))
    return report.markdown()


def term_table(found: Sequence[Errors]) -> str:
    layers = list(found[0].terms)
    words = [f"{layer} ({'content' if layer in CONTENT_LAYERS else 'style'})" for layer in layers]
    report = Report(("picture", "precision", *words))
    for e in found:
        report.rows.append((e.picture, e.precision, *(f"{e.terms[layer]:.1e}" for layer in layers)))
    return report.markdown()


def painting_table(paintings: Sequence[Painting], reference: Painting) -> str:
    header = ("painted in", "PSNR, dB", "largest difference, levels", "mean, levels", "loss by the book")
    report = Report((*header, "beside float32, %"))
    for p in paintings:
        levels = p.levels(reference)
        numbers = f"{p.psnr(reference):.1f}", f"{levels.max():.1f}", f"{levels.mean():.2f}"
        apart = ("-",) * 3 if p is reference else numbers
        report.rows.append((p.name, *apart, f"{p.loss:.6g}", f"{100 * (p.loss / reference.loss - 1):+.2f}"))
    return report.markdown()


def sheet(paintings: Sequence[Painting], reference: Painting) -> Image.Image:
    """The paintings side by side, and below how far each is from the reference, made visible."""
    _, rows, columns = reference.pixels.shape
    width, height = (max(1, round(n * ENLARGED / max(rows, columns))) for n in (columns, rows))
    found = Image.new("RGB", (len(paintings) * (width + MARGIN) + MARGIN, 2 * (height + 2 * MARGIN)), "white")
    draw = ImageDraw.Draw(found)
    for i, p in enumerate(paintings):
        difference = AMPLIFIED * p.levels(reference) / LEVELS
        for row, (pixels, words) in enumerate(((p.pixels, p.name), (difference, f"{AMPLIFIED} x difference"))):
            shown = Image.fromarray(images.to_uint8(pixels)).resize((width, height), Image.Resampling.NEAREST)
            left, top = MARGIN + i * (width + MARGIN), row * (height + 2 * MARGIN)
            draw.text((left, top + 2), words, "black")
            found.paste(shown, (left, top + MARGIN))
    return found


def section(args: argparse.Namespace, study: Study, errors: list[Errors], paintings: list[Painting]) -> str:
    """What is printed and written."""
    engine: Any = next(iter(study.engines.values()))
    version, name = commit(), engine.device.name
    height, width, _ = study.content.shape
    at = f" at commit {version}" if version else ""
    how = (
        f"`{command_line(args)}`{at}, on {name}; weights {study.weights.name}, {width}x{height} pixels. Relative "
        "errors against the book in float64: of the loss, and of the gradient of all pixels (its L2 norm; the largest "
        "error over the largest value). First the book follows the precision's decisions of ReLU and pooling, then "
        f"(free) its own. Half way: after {study.half} steps of Adam. At the content itself every content loss is 0."
    )
    parts = [_wrapped(how), error_table(errors), "Each term of the loss by itself, free:", term_table(errors)]
    if paintings:
        reference = next(p for p in paintings if p.name == "float32")
        painted = (
            f"The picture after {study.steps} steps of Adam from the content, beside the one in float32 (levels of "
            "255). Two float32 machines, the first two rows, come apart as well: a painting's loss, as the book "
            "computes it in float64, is what a precision has to keep."
        )
        parts += [_wrapped(painted), painting_table(paintings, reference)]
    if paintings and args.sheet and args.write:
        beside = Path(os.path.relpath(args.sheet, args.write.parent)).as_posix()
        parts.append(f"![the paintings side by side, and below each {AMPLIFIED} times its difference]({beside})")
    return "\n\n".join(parts) + "\n"


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


# ---- the command -----------------------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--weights", metavar="NAME|FILE", help="the ImageNet VGG19 of the cache")
    found.add_argument("--content", type=Path, default=EXAMPLES / "content.jpg", metavar="FILE")
    found.add_argument("--style", type=Path, default=EXAMPLES / "style.jpg", metavar="FILE")
    found.add_argument("--device", choices=("auto", *SIZE), default="auto", help="auto: a GPU, if there is one")
    found.add_argument("--precisions", type=_precisions, default=tuple(PRECISIONS), metavar="NAME,...", help="all")
    found.add_argument("--size", type=_whole(32), metavar="PIXELS", help="long side: 256, 64 without a GPU")
    found.add_argument("--steps", type=_whole(0), metavar="N", help="of Adam: 300, 40 without a GPU; 0: no painting")
    found.add_argument("--sheet", type=Path, metavar="FILE.png", help="write the paintings, side by side")
    found.add_argument("--quiet", action="store_true", help="no progress")
    found.add_argument("--write", nargs="?", type=Path, const=bench.README, metavar="FILE", help="kernels/README.md")
    return found


def _precisions(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if not set(names) <= set(PRECISIONS):
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(PRECISIONS)}, got {text}")
    return names


def _whole(least: int) -> Any:
    def whole(text: str) -> int:
        number = int(text)
        if number < least:
            raise argparse.ArgumentTypeError(f"expected {least} or more, got {number}")
        return number

    return whole


def command_line(args: argparse.Namespace) -> str:
    """The command that makes this again; files by their names alone."""
    words = ["python", "tools/precision.py", "--device", args.device]
    if args.weights:
        words += ["--weights", Path(args.weights).name]
    for option in ("content", "style"):
        if getattr(args, option) != parser().get_default(option):
            words += [f"--{option}", getattr(args, option).name]
    if args.precisions != tuple(PRECISIONS):
        words += ["--precisions", ",".join(args.precisions)]
    return " ".join([*words, "--size", str(args.size), "--steps", str(args.steps)])


def prepare(args: argparse.Namespace) -> Study:
    """Fill in what depends on the machine, refuse what makes no sense, read what is to be read."""
    for path in (args.write, args.sheet):
        if path:
            check_writable(path)
    if args.write:
        bench.split(args.write, NAME, GROUP)
    if args.device == "auto":
        args.device = "cuda-on-cpu" if gpu.problem() else "cuda"
    args.size = args.size or SIZE[args.device]
    args.steps = STEPS[args.device] if args.steps is None else args.steps
    if args.steps and "float32" not in args.precisions:
        raise OptionError(
            "precisions: expected float32 among them, which the paintings are compared with; or --steps 0"
        )
    if args.sheet and not args.steps:
        raise OptionError("--sheet: expected paintings, got --steps 0; leave one of the two out")
    if args.weights is None and not cached_path("vgg19").is_file():
        raise OptionError("weights: expected the ImageNet VGG19 in the cache, found none; give --weights FILE")
    pictures = [images.load(str(path)).pixels for path in (args.content, args.style)]
    small = [images.resize_pixels(p, images.fit(p.shape[1:], args.size)) for p in pictures]
    content, style = (np.ascontiguousarray(p.transpose(1, 2, 0), np.float32) for p in small)
    weights = load_weights(args.weights or "vgg19")
    return Study(weights, content, style, args.device, args.precisions, args.steps)


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        study = prepare(args)
        errors, paintings = [], []
        total = len(study.precisions) * len(study.pictures)
        with Progress("comparison", "errors", args.quiet) as progress:
            for e in study.errors():
                errors.append(e)
                progress(len(errors), total, f"{e.precision}, {e.picture}")
        if args.steps:
            with Progress("step", "paintings", args.quiet) as progress:
                paintings = list(study.paintings(progress))
        text = section(args, study, errors, paintings)
        print(text, end="")
        if args.sheet:
            reference = next(p for p in paintings if p.name == "float32")
            found = np.asarray(sheet(paintings, reference), np.float32).transpose(2, 0, 1) / LEVELS
            images.write_picture(args.sheet, found, {})
        if args.write:
            bench.write(args.write, NAME, text, GROUP)
    except NstcoreError as error:
        print(f"precision: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
