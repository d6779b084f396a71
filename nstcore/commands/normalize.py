"""`weights normalize`: the papers' normalised network, in which every filter's mean activation is 1."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import OptionError, OutputError, PictureError
from .progress import Progress
from .studio import EXAMPLES

if TYPE_CHECKING:
    from ..normalize import Normalized

# The names of nstcore.pretrained.storage.STORAGES and the value of nstcore.normalize.SIZE; written out because --help
# must not wait for numpy and h5py.
STORAGES = ("float32", "float16", "int8")
SIZE = 224

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm")
_MOST_INDICES = 8  # dead filters of one layer that are listed


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register `normalize`."""
    text = "rescale every filter so that its mean activation over pictures is 1, as the papers do"
    parser = subparsers.add_parser("normalize", help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(run=run)
    add = parser.add_argument
    add("input", metavar="IN.h5", help="a weights file, or one of auto, builtin, vgg16, vgg19")
    add(
        "--images",
        metavar="DIR",
        type=Path,
        help="folder of pictures, those in its subfolders too; photographs are best (default: the example pair)",
    )
    add("-o", "--output", metavar="OUT.h5", type=Path, required=True, help="the weights file to write")
    text = f"long side that larger pictures are brought to (default: {SIZE})"
    add("--size", type=int, default=SIZE, metavar="PIXELS", help=text)
    add(
        "--storage",
        choices=STORAGES,
        default="float32",
        help="float32 is exact; float16 and int8 take half and a quarter of the bytes, and leave the means off 1 by "
        "some 1e-4 and 1e-2 (default: float32)",
    )
    add("--threads", type=int, metavar="N", help="(default: all cores)")


def run(args: argparse.Namespace) -> int:
    """Normalise, write, and say what was found; returns the exit code."""
    paths, ignored = _pictures(args.images)

    from .. import engines, files
    from ..normalize import normalize
    from ..pretrained import read_weights, write_weights
    from ..pretrained.places import locate
    from ..pretrained.weights import shown

    source = locate(args.input)
    files.check_writable(args.output)
    if args.output.exists() and source.exists() and os.path.samefile(source, args.output):
        raise OutputError(f"{args.output}: the output is the input itself; give another path with -o")
    files.check_kind(args.output, files.HDF5, "a weights file")
    engine = engines.create("cpu", threads=args.threads)
    weights = read_weights(source)
    if args.images is None:
        names = " and ".join(str(path) for path in paths)
        print(f"No --images: measuring on the example pair, {names}. They are drawn; photographs are better.")

    seen = 0
    with Progress("picture") as progress:
        if notice := engine.notice:
            progress.say(f"nstcore: {notice}")

        def one_more() -> None:
            nonlocal seen
            seen += 1
            progress(seen, len(paths))

        def on_refused(error: PictureError) -> None:
            progress.say(f"passed over: {shown(str(error))}")
            one_more()

        result = normalize(
            weights,
            paths,
            size=args.size,
            engine=engine,
            on_picture=lambda _: one_more(),
            on_refused=on_refused,
        )
    stored = write_weights(args.output, result.weights, args.storage)

    refused = len(paths) - result.pictures
    print(f"pictures       {result.pictures} measured, {refused} passed over, {_files(ignored)} ignored")
    _print_means(result)
    print(f"name           {stored.name}")
    if args.storage != "float32":
        print(f"rounding       {stored.provenance['rounding']} of the largest value of its filter, at most")
    print(f"sha256         {stored.sha256}")
    print(f"written        {args.output} ({args.output.stat().st_size:,} bytes)")
    return 0


def _pictures(folder: Path | None) -> tuple[list[Path], int]:
    """The pictures to measure, sorted, and how many files are none by their names; hidden ones do not count."""
    if folder is None:
        return [EXAMPLES / "content.jpg", EXAMPLES / "style.jpg"], 0
    if not folder.is_dir():
        what = "got something else" if folder.exists() else "no such folder"
        raise OptionError(f"--images {folder}: expected a folder of pictures, {what}")
    paths, ignored = [], 0
    for place, folders, names in os.walk(folder, onerror=_unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        shown = sorted(name for name in names if not name.startswith("."))
        found = [Path(place, name) for name in shown if name.lower().endswith(SUFFIXES)]
        paths += found
        ignored += len(shown) - len(found)
    if not paths:
        raise PictureError(
            f"--images {folder}: expected at least one picture ({', '.join(SUFFIXES)}), found {_files(ignored)} of "
            "other kinds"
        )
    return paths, ignored


def _unreadable(error: OSError) -> None:
    raise PictureError(f"--images: the folder {error.filename} cannot be read: {(error.strerror or '').lower()}")


def _files(count: int) -> str:
    return f"{count} file" if count == 1 else f"{count} files"


def _print_means(result: Normalized) -> None:
    """A line a layer: the mean activations as they were, and which filters are dead."""
    import numpy as np

    from ..normalize import DEAD

    print("mean activation of the filters, before:")
    print(f"{'layer':<14} {'min':>9} {'median':>9} {'max':>9}   dead")
    for relu, means in result.means.items():
        spread = " ".join(f"{value:9.4g}" for value in (means.min(), np.median(means), means.max()))
        dead = result.dead.get(relu, ())
        listed = ", ".join(map(str, dead[:_MOST_INDICES])) + (", ..." if len(dead) > _MOST_INDICES else "")
        print(f"{relu:<14} {spread}   {f'{len(dead)} of {len(means)}: {listed}' if len(dead) else 'none'}")
    if result.dead:
        count = sum(map(len, result.dead.values()))
        print(f"dead filters   {count}, at most {DEAD:g} of their layer's mean; divided by the layer's median")
