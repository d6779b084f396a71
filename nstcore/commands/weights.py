"""`weights`: convert published checkpoints, look at weights files and check them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..pretrained import Weights

# The names of nstcore.pretrained.storage.STORAGES; written out because --help must not wait for numpy and h5py.
STORAGES = ("float32", "float16", "int8")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register `weights` and its subcommands."""
    summary = "convert published VGG checkpoints, look at weights files, check them"
    weights = subparsers.add_parser("weights", help=summary, description=summary.capitalize() + ".")
    commands = weights.add_subparsers(metavar="COMMAND", required=True)

    text = "turn a published checkpoint (Keras .h5, TensorFlow.js model.json or its folder) into a weights file"
    parser = commands.add_parser("convert", help=text, description=text.capitalize() + ".")
    parser.add_argument("source", metavar="SRC", type=Path)
    parser.add_argument("-o", "--output", metavar="DST.h5", type=Path, help="default: the network's name in the cache")
    parser.add_argument(
        "--storage",
        choices=STORAGES,
        default="float32",
        help="float32 is exact; float16 and int8 take half and a quarter of the bytes (default: float32)",
    )
    parser.set_defaults(run=run_convert)

    text = "show what a weights file holds and where it came from"
    parser = commands.add_parser("info", help=text, description=text.capitalize() + ".")
    parser.add_argument("file", metavar="FILE", help="a weights file, or one of auto, builtin, vgg16, vgg19")
    parser.set_defaults(run=run_info)

    text = "check every hash, shape and number of a weights file"
    parser = commands.add_parser("verify", help=text, description=text.capitalize() + ".")
    parser.add_argument("file", metavar="FILE", help="a weights file, or one of auto, builtin, vgg16, vgg19")
    parser.set_defaults(run=run_verify)

    text = "print the folder where converted weights are kept"
    parser = commands.add_parser("path", help=text, description=text.capitalize() + ".")
    parser.set_defaults(run=run_path)


def run_convert(args: argparse.Namespace) -> int:
    """Convert a checkpoint; print what it was and where it went."""
    from ..pretrained import convert
    from ..pretrained.places import cached_path

    weights = convert(args.source, args.output, args.storage)
    path = args.output or cached_path(weights.architecture)
    _print_facts(weights)
    print(f"written        {path} ({path.stat().st_size:,} bytes)")
    return 0


def run_info(args: argparse.Namespace) -> int:
    """Print what a weights file holds."""
    from ..pretrained import read_weights
    from ..pretrained.places import locate

    path = locate(args.file)
    weights = read_weights(path)
    _print_facts(weights)
    print(f"file           {path} ({path.stat().st_size:,} bytes)")
    return 0


def run_verify(args: argparse.Namespace) -> int:
    """Check a weights file."""
    from ..pretrained import read_weights
    from ..pretrained.places import locate

    path = locate(args.file)
    weights = read_weights(path)
    count = len(weights.filters)
    fit = "convolution fits its hash" if count == 1 else "convolutions fit their hashes"
    print(f"{path}: whole; {count} {fit}; sha256 {weights.sha256}")
    return 0


def run_path(args: argparse.Namespace) -> int:
    """Print the cache folder."""
    from ..pretrained import cache_folder

    print(cache_folder())
    return 0


def _print_facts(weights: Weights) -> None:
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
    for name, value in facts.items():
        print(f"{name:<14} {value}")
