"""The options that decide where a picture is computed, how it is written, and what else is kept."""

from __future__ import annotations

from .kinds import AUTO, Among, Choice, Flag, Integer, Number, Place, Text, Tile
from .option import Option

MACHINE: dict[str, tuple[Option, ...]] = {
    "machine": (
        Option(
            "weights",
            Text("auto, builtin, a name of `weights list`, or a converted file"),
            AUTO,
            "NAME|FILE",
            "auto (VGG19 from the cache, else downloaded, else builtin), builtin, a name of `weights list`, or a "
            "converted file",
            scope="machine",
        ),
        Option(
            "offline",
            Flag(),
            False,
            "",
            "never download weights, as NSTCORE_OFFLINE=1",
            scope="machine",
        ),
        Option(
            "device",
            Choice(("auto", "cpu", "cuda", "cuda-on-cpu", "reference")),
            AUTO,
            "NAME",
            "auto (a GPU, else the CPU), cpu, cuda, reference (the book), or cuda-on-cpu (the GPU's kernels on the "
            "CPU: slow, for study and tests)",
            scope="machine",
        ),
        Option(
            "precision",
            Choice(("float32", "float64", "tf32", "float16", "bfloat16")),
            None,
            "TYPE",
            "float32; float64 on the CPU; tf32, float16 or bfloat16 on a GPU",
            scope="machine",
            default_text="tf32 on a GPU that has it, else float32",
            keyword="dtype",
        ),
        Option(
            "threads",
            Integer(1),
            None,
            "N",
            "of the CPU",
            scope="machine",
            default_text="all cores",
        ),
        Option(
            "tile",
            Tile(),
            AUTO,
            "PIXELS",
            "compute in tiles of that side, the same picture in memory that depends on the tile alone: auto (where the "
            "picture does not fit otherwise), off, or the side; SIDE,1 to SIDE,3: more memory, less time",
            "pixels",
            scope="machine",
        ),
        Option(
            "memory",
            Choice(("normal", "low")),
            "normal",
            "WORD",
            "normal, or low: the network's first block in bands, computed twice and not kept; the same picture in "
            "about three quarters of the memory, for 1 to 9 % more convolutions, with nothing on disk",
            scope="machine",
        ),
        Option(
            "cluster",
            Text("local:N, tcp://HOST:PORT or a scheduler file"),
            None,
            "ADDRESS",
            "compute the tiles on several workers: local:N (processes on this machine), tcp://HOST:PORT (a scheduler, "
            "whose workers `worker` starts), or a scheduler file; always in tiles, as large as --tile says or as are "
            "soonest done",
            scope="machine",
            default_text="none",
        ),
    ),
    "file": (
        Option(
            "bits",
            Among((8, 16)),
            8,
            "8|16",
            "of each channel; 16 for PNG and TIFF",
            scope="file",
        ),
        Option(
            "quality",
            Integer(1, 100),
            None,
            "1..100",
            "of JPEG and WebP; 100 makes WebP lossless",
            scope="file",
            default_text="95",
        ),
    ),
    "safety": (
        Option("resume", Flag(), False, "", "go on from the snapshot, if there is one", scope="safety"),
        Option(
            "snapshot",
            Place(),
            None,
            "FILE",
            "where the state of the run is kept until the picture is saved",
            scope="safety",
            default_text="OUTPUT.snapshot.h5",
        ),
        Option(
            "snapshot_every",
            Number(),
            60.0,
            "S",
            "time between two snapshots; 0: none but after Ctrl-C",
            "seconds",
            scope="safety",
        ),
        Option(
            "save_every",
            Integer(1),
            None,
            "N",
            "also save the picture every N iterations, numbered",
            scope="safety",
            default_text="never",
        ),
        Option(
            "log",
            Place(),
            None,
            "FILE.jsonl",
            "add a line of JSON for every step",
            scope="safety",
            default_text="none",
        ),
        Option(
            "report",
            Place(),
            None,
            "FILE.html",
            "a page about the run: pictures, curves, settings, times; {output} stands for the output's name",
            scope="safety",
            default_text="none",
        ),
    ),
    "settings": (
        Option(
            "recipe",
            Text("the name of a recipe"),
            None,
            "NAME",
            "start from named settings; `run --list-recipes` shows them; options and settings files come before it",
            scope="recipe",
            default_text="none",
        ),
    ),
}
