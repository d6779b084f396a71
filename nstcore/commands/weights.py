"""`weights`: list and fetch published checkpoints, convert them, look at weights files and check them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import INTERRUPTED, OptionError
from . import normalize
from .normalize import STORAGES
from .progress import Progress

if TYPE_CHECKING:
    from ..pretrained import FastWeights, Preprocessing, Weights
    from ..pretrained.registry import Entry


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register `weights` and its subcommands."""
    summary = "list, fetch and convert published checkpoints, look at weights files, check them"
    weights = subparsers.add_parser("weights", help=summary, description=summary.capitalize() + ".")
    commands = weights.add_subparsers(metavar="COMMAND", required=True)

    text = "show the published networks that are known, and which are in the cache"
    parser = commands.add_parser("list", help=text, description=text.capitalize() + ".")
    parser.set_defaults(run=run_list)

    text = "fetch a published network, check it and convert it into the cache"
    parser = commands.add_parser("get", help=text, description=text.capitalize() + ".")
    parser.add_argument("name", metavar="NAME", help="as `weights list` shows it")
    parser.add_argument(
        "--from",
        dest="source",
        metavar="URL|FILE|FOLDER",
        help="a mirror, or a copy of the published file; of several files, the address or folder that they lie in",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        metavar="S",
        help="seconds without an answer or a byte before it gives up (default: 30)",
    )
    parser.set_defaults(run=run_get)

    text = "turn a published checkpoint (a file, or the folder of one of several files) into a weights file"
    parser = commands.add_parser("convert", help=text, description=text.capitalize() + ".")
    parser.add_argument("source", metavar="SRC", type=Path)
    parser.add_argument("-o", "--output", metavar="DST.h5", type=Path, help="default: the network's name in the cache")
    parser.add_argument(
        "--storage",
        choices=STORAGES,
        default="float32",
        help="float32 is exact; float16 and int8 take half and a quarter of the bytes (default: float32)",
    )
    group = parser.add_argument_group("what the network expects, where neither the file nor the registry tells it")
    group.add_argument("--channel-order", choices=("rgb", "bgr"), help="order of the network's input channels")
    group.add_argument("--range", type=float, choices=(1.0, 255.0), metavar="1|255", help="what it calls white")
    for option, what in (
        ("--mean", "123.68,116.779,103.939 or 0.485,0.456,0.406"),
        ("--std", "1,1,1 or 0.229,0.224,0.225"),
    ):
        group.add_argument(
            option, metavar="R,G,B", help=f"in that range, always in the order red, green, blue (default: {what})"
        )
    parser.set_defaults(run=run_convert)

    normalize.add_parser(commands)

    text = "show what a weights file holds and where it came from"
    parser = commands.add_parser("info", help=text, description=text.capitalize() + ".")
    parser.add_argument("file", metavar="FILE", help="a weights file, auto, builtin, or a name of `weights list`")
    parser.set_defaults(run=run_info)

    text = "check every hash, shape and number of a weights file"
    parser = commands.add_parser("verify", help=text, description=text.capitalize() + ".")
    parser.add_argument("file", metavar="FILE", help="a weights file, auto, builtin, or a name of `weights list`")
    parser.set_defaults(run=run_verify)

    text = "print the folder where converted weights are kept"
    parser = commands.add_parser("path", help=text, description=text.capitalize() + ".")
    parser.set_defaults(run=run_path)


def run_list(args: argparse.Namespace) -> int:
    """Print the registry as a table."""
    from ..pretrained.places import cached_path
    from ..pretrained.registry import default_registry

    entries = default_registry().entries.values()
    rows = [("name", "network", "container", "size", "source", "licence")]
    for entry in entries:
        size = f"{entry.nbytes / 1e6:.0f} MB" if entry.nbytes else "-"
        rows.append((entry.name, entry.architecture, entry.container, size, _availability(entry), entry.licence))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    print(f"\ncache: {cached_path('NAME')}")
    return 0


def _availability(entry: Entry) -> str:
    from ..pretrained.places import cached_path

    if cached_path(entry.name).is_file():
        return "cached"
    return "get" if entry.published else "get --from"


def run_get(args: argparse.Namespace) -> int:
    """Fetch a network unless it is in the cache, and print what came."""
    from ..errors import WeightsError
    from ..pretrained.download import TIMEOUT, fetch
    from ..pretrained.fast.layout import read_any
    from ..pretrained.places import cached_path
    from ..pretrained.registry import default_registry

    entry = default_registry().named(args.name)
    path = cached_path(entry.name)
    if path.is_file() and args.source is None:
        try:
            weights = read_any(path)
        except WeightsError as error:
            print(f"nstcore: {error}; fetching it anew", file=sys.stderr)
        else:
            _print_facts(weights)
            print(f"already there  {path} ({path.stat().st_size:,} bytes)")
            return 0
    with Progress("B", entry.name) as progress:
        try:
            timeout = TIMEOUT if args.timeout is None else args.timeout
            fetch(entry.name, source=args.source, timeout=timeout, progress=progress)
        except KeyboardInterrupt as end:
            print("nstcore: interrupted; the same command resumes the download", file=sys.stderr)
            return getattr(end, "exit_code", INTERRUPTED)
    _print_facts(read_any(path))
    if not any(file.hashes for file in entry.files):
        print(f"checked        nothing: no hash of {'this file' if len(entry.files) == 1 else 'these files'} is known")
    print(f"written        {path} ({path.stat().st_size:,} bytes)")
    return 0


def run_convert(args: argparse.Namespace) -> int:
    """Convert a checkpoint; print what it was and where it went."""
    from ..pretrained import convert
    from ..pretrained.fast.convert import convert_fast, find_source
    from ..pretrained.places import cached_path

    weights: Weights | FastWeights
    stated = _stated(args)
    if find_source(args.source) is None:
        weights = convert(args.source, args.output, args.storage, preprocessing=stated)
        path = args.output or cached_path(weights.architecture)
    else:
        if stated is not None or args.storage != "float32":
            raise OptionError(
                "--storage, --channel-order, --range, --mean, --std: expected none for a feed-forward network, which "
                "is stored as float32 and knows its input; leave them out"
            )
        weights = convert_fast(args.source, args.output)
        path = args.output or cached_path(weights.model)
    _print_facts(weights)
    print(f"written        {path} ({path.stat().st_size:,} bytes)")
    return 0


def _stated(args: argparse.Namespace) -> Preprocessing | None:
    """What the options say of the pre-processing."""
    from ..pretrained import stated_preprocessing

    mean, std = _colour("--mean", args.mean), _colour("--std", args.std)
    if args.channel_order is None and args.range is None and mean is None and std is None:
        return None
    if args.channel_order is None or args.range is None:
        raise OptionError(
            "--channel-order, --range: expected both, as --channel-order bgr --range 255, got one or none"
        )
    return stated_preprocessing(args.channel_order, args.range, mean, std)


def _colour(option: str, text: str | None) -> tuple[float, float, float] | None:
    if text is None:
        return None
    try:
        red, green, blue = map(float, text.split(","))
    except ValueError:
        raise OptionError(f"{option}: expected three numbers as R,G,B, got {text!r}") from None
    return red, green, blue


def run_info(args: argparse.Namespace) -> int:
    """Print what a weights file holds."""
    path, weights = _read(args.file)
    _print_facts(weights)
    print(f"file           {path} ({path.stat().st_size:,} bytes)")
    return 0


def run_verify(args: argparse.Namespace) -> int:
    """Check a weights file."""
    from ..pretrained import Weights

    path, weights = _read(args.file)
    count, what = (
        (len(weights.filters), "convolution") if isinstance(weights, Weights) else (len(weights.tensors), "tensor")
    )
    fit = f"{what} fits its hash" if count == 1 else f"{what}s fit their hashes"
    print(f"{path}: whole; {count} {fit}; sha256 {weights.sha256}")
    return 0


def _read(file: str) -> tuple[Path, Weights | FastWeights]:
    """The weights file that a name or path stands for, of either kind."""
    from ..pretrained.fast.layout import read_any
    from ..pretrained.places import is_fast, locate, published_path

    path = published_path(file) if is_fast(file) else locate(file)
    return path, read_any(path)


def run_path(args: argparse.Namespace) -> int:
    """Print the cache folder."""
    from ..pretrained import cache_folder

    print(cache_folder())
    return 0


def _print_facts(weights: Weights | FastWeights) -> None:
    from ..pretrained import Weights

    facts = _vgg_facts(weights) if isinstance(weights, Weights) else _fast_facts(weights)
    for name, value in facts.items():
        print(f"{name:<14} {value}")


def _vgg_facts(weights: Weights) -> dict[str, str]:
    convolutions = list(weights.filters)
    layers = f"{len(convolutions)} convolutions, {convolutions[0]} to {convolutions[-1]}"
    facts = {
        "name": weights.name,
        "architecture": weights.architecture,
        "layers": layers if len(convolutions) > 1 else f"{convolutions[0]} only",
        "input": weights.preprocessing.describe(),
        "padding": weights.padding,
        "pooling": weights.pooling,
        **weights.provenance,
        "sha256": weights.sha256,
    }
    if facts.get("storage") == "float32":
        del facts["rounding"]  # exact
    else:
        facts["rounding"] += " of the largest value of its filter, at most"
    return facts


def _fast_facts(weights: FastWeights) -> dict[str, str]:
    count = sum(array.size for array in weights.tensors.values())
    return {
        "name": weights.name,
        "network": f"{weights.model}: feed-forward, for python -m nstcore fast",
        "tensors": f"{len(weights.tensors)}, {count:,} numbers",
        **weights.provenance,
        "sha256": weights.sha256,
    }
