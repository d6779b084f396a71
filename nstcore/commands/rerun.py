"""`rerun`: make a picture again from the settings that it carries, and say whether it is the same."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import INTERRUPTED, OptionError, PictureError, WeightsError
from .job import STANDARD, Job, digest, ended_early, new_name, summary
from .kinds import AUTO
from .one_pass import ONE_PASS, OnePass, read_strength, summary_of_pass
from .options import GROUPS, OPTIONS, add_options
from .progress import add_volume, tell
from .settings import LOSSY, Settings, Source
from .sources import from_arguments, option_named, read
from .studio import FAST_WEIGHTS, Studio

if TYPE_CHECKING:
    import numpy as np

    from ..images import Loaded
    from ..pretrained import FastWeights, Weights


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register `rerun`."""
    parser = subparsers.add_parser(
        "rerun",
        help="make a picture again from the settings that it carries",
        description="Make PICTURE again from the settings that it carries, from the same pictures and weights, and say "
        "whether the pixels are the same.",
    )
    parser.set_defaults(run=run)
    add = parser.add_argument
    add("picture", metavar="PICTURE", help="a picture that nstcore made")
    add("-o", "--output", metavar="FILE", help="(default: a new name beside PICTURE)")
    add("--content", metavar="FILE", help="(default: as recorded, here or beside PICTURE)")
    add("--style", nargs="+", metavar="FILE", help="all of them (default: as recorded, here or beside PICTURE)")
    add("--anyway", action="store_true", help="take pictures and weights that are not those of then")
    add_volume(parser)
    safety = tuple(option.name for option in GROUPS["safety"])
    add_options(parser, ("weights", "offline", "device", "precision", "threads", "tile", "memory", "cluster", *safety))


def run(args: argparse.Namespace) -> int:
    """Find what the picture was made from, make it again, compare; returns the exit code."""
    old = Path(args.picture)
    given = from_arguments(args)
    record = _record(old)
    inputs = _Inputs(old, args.anyway)
    content = inputs.find("content", record["content"], args.content, "--content")
    styles = args.style or [None] * len(record["style"])
    if len(styles) != len(record["style"]):
        raise OptionError(f"--style: expected {len(record['style'])} pictures, as then, got {len(styles)}")
    found = [inputs.find("style", then, now, "--style") for then, now in zip(record["style"], styles, strict=True)]
    values = _values(record, old, inputs)
    output = given.pictures.get("output") or new_name(old.parent, old.stem, old.suffix)
    if output == STANDARD:
        raise OptionError("--output: expected a file, to compare its pixels with those of then, got standard output")
    if os.path.exists(output) and output.samefile(old):
        raise OptionError(f"--output: expected another name than that of the picture itself, got {output}")
    model, strength = (record["settings"].get(name) for name in ONE_PASS)
    with Studio(args.quiet, args.verbose) as studio:
        offline = given.values.get("offline", False)
        load = studio.weights if model is None else studio.networks.fast
        weights = _weights(record["weights"], given.values.get("weights"), offline, args.anyway, load, old)
        values |= {"weights": weights} if model is None else {"snapshot_every": 0.0}
        if not args.anyway:
            _check_start(record.get("start"), studio, offline, old)
        settings = Settings([Source(f"the settings in {old.name}", values, strict=False), given])
        studio.say(f"the settings of {old}, made by nstcore {record.get('versions', {}).get('nstcore', 'unknown')}")
        if not record.get("complete", True):
            studio.say(f"{old} ended before its time ({record.get('status')}); this makes the whole of it")
        job = Job(content, tuple(found), output, settings)
        if model is not None:
            one_pass = OnePass(studio, str(model), weights, read_strength(strength, f"{old}: strength"), args.quiet)
            studio.say(summary_of_pass(job, one_pass.paint(job)))
        else:
            result = studio.paint(job)
            if result.interrupted:
                tell(ended_early(job))
                return studio.ends.code or INTERRUPTED
            studio.say(summary(job, result))
        studio.say(_compared(old, output, record))
    return 0


def _record(path: Path) -> Mapping[str, Any]:
    """What a picture says of how it was made."""
    from .. import images

    if not os.path.isfile(path):
        raise PictureError(f"{path}: no such file; expected a picture that nstcore made")
    record = images.read_metadata(path)
    parts = (("content", dict), ("style", list), ("settings", dict), ("weights", dict))
    missing = [name for name, kind in parts if not isinstance(record.get(name), kind)]
    if missing:
        raise PictureError(
            f"{path}: expected the settings of a picture that nstcore made, found none of {', '.join(missing)}"
        )
    return record


class _Inputs:
    """Where the pictures are that a picture was made from: they are known by their hashes."""

    def __init__(self, picture: Path, anyway: bool) -> None:
        self._picture, self._anyway = picture, anyway

    def find(self, what: str, then: Mapping[str, str], given: str | None = None, option: str = "") -> Path:
        """The file that a record stands for: the one that is given, else as recorded from here, else beside the
        picture.

        Raises
        ------
        PictureError
            If it is nowhere, or is not the same any more.
        """
        name = then.get("file")
        if given is not None:
            places = [Path(given)]
        elif name is None:
            raise PictureError(f"{what}: it was no file then, but an array; give it with {option} FILE")
        else:
            places = [Path(name), self._picture.parent / name, self._picture.parent / Path(name).name]
        there = [place for place in places if place.is_file()]
        for place in there:
            if self._anyway or self._same(place, then):
                return place
        shown = given or name
        way_out = f"give the right one with {option} FILE" if option else f"put the right one beside {self._picture}"
        if not there:
            raise PictureError(f"{what} {shown}: no such file, here or beside {self._picture}; {way_out}")
        raise PictureError(
            f"{what} {there[0]}: not the picture that {self._picture} was made from (its SHA-256 is another); "
            f"{way_out}, or take it with --anyway"
        )

    @staticmethod
    def _same(path: Path, then: Mapping[str, str]) -> bool:
        if "sha256" in then:
            return digest(path) == then["sha256"]
        from .. import images

        known = then.get("pixels_sha256")
        return known is None or images.pixels_sha256(path) == known


def _values(record: Mapping[str, Any], old: Path, inputs: _Inputs) -> dict[str, Any]:
    """The options of then, with every file where it is now."""
    settings = {name: value for name, value in record["settings"].items() if name not in ONE_PASS}
    if "protect" in record:
        settings["protect"] = str(inputs.find("protect", record["protect"]))
    if "regions" in record:
        settings["region"] = [
            [
                str(inputs.find("region", mask)),
                *(style if isinstance(style, str) else str(inputs.find("region", style)) for style in styles),
            ]
            for mask, styles in record["regions"]
        ]
    starts = {start["file"]: start for start in record.get("init", ())}
    if "init" in settings:
        settings["init"] = OPTIONS["init"].kind.mapped(
            settings["init"], lambda name: str(inputs.find("init", starts.get(name, {"file": name})))
        )
    if settings.get("fit"):
        settings |= {"fit": False, "size": _size(record, inputs.find("content", record["content"]))}
    written = record.get("request", {}).get("settings", {})
    settings |= {name: written[name] for name in ("bits", "quality") if name in written} or {"bits": _depth(old)}
    sizes = settings.get("style_size")
    if isinstance(sizes, list):
        settings["style_size"] = [AUTO if size is None else size for size in sizes] if any(sizes) else None

    place, values = f"the settings in {old.name}", {}
    for name, value in settings.items():
        option = option_named(name, place)
        if value is not None and value != {}:  # the default, and a term of weight 0
            values[option.name] = read(option, value, f"{place}: {name}")
    return values


def _size(record: Mapping[str, Any], content: Path) -> int | str:
    """What `--fit` came to: the size that was asked for, if it was that, or the long side."""
    from .. import images

    made, asked = record["sizes"][-1], record["settings"]["size"]
    shape = images.load(content, images.LARGE).pixels.shape
    wanted = images.target_size((shape[1], shape[2]), asked)
    return asked if wanted == (made["height"], made["width"]) else max(made["height"], made["width"])


def _depth(path: Path) -> int:
    """Bits per channel of a picture."""
    from .. import images

    return 16 if images.load(path, images.LARGE).bits == 16 else 8


def _weights(
    then: Mapping[str, str],
    given: str | None,
    offline: bool,
    anyway: bool,
    load: Callable[[str, bool], Weights | FastWeights],
    old: Path,
) -> str:
    """The name or file under which the weights of then are found now."""
    usual = [AUTO] if "architecture" in then else []
    names = (
        [given] if given is not None else list(dict.fromkeys([then.get("given", then["name"]), then["name"], *usual]))
    )
    found: list[str] = []
    for name in names:
        try:
            weights = load(name, offline)
        except WeightsError as error:
            if given is not None:
                raise
            found.append(" ".join(str(error).split()))
            continue
        if anyway or weights.sha256 == then["sha256"]:
            return name
        found.append(f"{name} is {weights.name}, SHA-256 {weights.sha256[:12]}...")
    raise WeightsError(
        f"weights: expected those that {old} was made with ({then['name']}, SHA-256 {then['sha256'][:12]}...), "
        f"found others ({'; '.join(found)}); give them with --weights FILE, or take others with --anyway"
    )


def _check_start(then: Any, studio: Studio, offline: bool, old: Path) -> None:
    """Refuse another network than that which painted the start."""
    known = then.get("sha256") if isinstance(then, Mapping) else None
    if known is not None and studio.networks.fast(FAST_WEIGHTS, offline).sha256 != known:
        raise WeightsError(
            f"{FAST_WEIGHTS}: expected the network that painted the start of {old}, SHA-256 {str(known)[:12]}..., "
            "found another; get that one, or take this with --anyway"
        )


def _compared(old: Path, new: Path, record: Mapping[str, Any]) -> str:
    """Whether two files hold the same pixels."""
    from .. import images

    quality = record.get("request", {}).get("settings", {}).get("quality")
    for path in (old, new):
        suffix = path.suffix.lower()
        if suffix in LOSSY and not (suffix == ".webp" and quality == "100"):
            return f"{path.name} stores pixels approximately ({suffix}): they cannot be compared"
    a, b = (images.load(path, images.LARGE) for path in (old, new))
    if a.bits != b.bits:
        return f"{a.bits} and {b.bits} bits a channel: the pixels cannot be compared"
    if a.pixels.shape != b.pixels.shape:
        return f"the pixels differ: {_sides(a.pixels)} then, {_sides(b.pixels)} now"
    count, most, same = _apart(a, b)
    if same:
        return f"the pixels are identical to those of {old}"
    share = count / a.pixels.size
    return f"the pixels differ from those of {old}: {share:.1%} of the values, by {most * 255:.1f}/255 at most"


def _apart(a: Loaded, b: Loaded) -> tuple[int, float, bool]:
    """How many colours of two pictures of one size differ, by how much at most, and whether all is the same, alpha
    included; strip by strip."""
    import numpy as np

    from .. import disk, images

    count, most, same = 0, 0.0, (a.alpha is None) == (b.alpha is None)
    for rows in disk.strips(a.pixels.shape):
        apart = np.abs(images.numbers(a.pixels[:, rows]) - images.numbers(b.pixels[:, rows]))
        count += int(np.count_nonzero(apart))
        most = max(most, float(apart.max()))
        if a.alpha is not None and b.alpha is not None:
            same = same and np.array_equal(a.alpha[rows], b.alpha[rows])
            disk.release(a.alpha, b.alpha)
        disk.release(a.pixels, b.pixels)
    return count, most, same and not count


def _sides(pixels: np.ndarray) -> str:
    return f"{pixels.shape[2]}x{pixels.shape[1]}"
