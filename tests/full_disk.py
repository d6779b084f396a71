"""A run whose disk fills up, for test_full_disk: a process of its own, because what is done to it lasts.

python full_disk.py HOW FOLDER runs `nstcore run` with its output in FOLDER, and at the third evaluation

    disk     writes to that disk until nothing fits any more
    limit    lets no file of this process become longer than 100 bytes, wherever it is
    gone     removes the folder

At the end it prints, as JSON, the exit code and what every file that is there then holds: this is the last who sees a
disk that was mounted for it.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
from pathlib import Path

import nstcore
from nstcore import cli, images
from nstcore.transfer import snapshot


def fill(folder: Path) -> None:
    """Down to the last byte."""
    piece = 1 << 16
    with (folder / "filler").open("wb", buffering=0) as file:
        while piece:
            try:
                if file.write(b"x" * piece) < piece:
                    piece //= 2
            except OSError:
                piece //= 2


def limit(_: Path) -> None:
    """No longer files."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))


def found(path: Path) -> str:
    """What a file holds, as far as it can be opened."""
    if path.suffix == ".png":
        shape = "x".join(map(str, images.load(path).pixels.shape))
        if "_" in path.stem:  # of --save-every, which carries no settings
            return shape
        return f"{shape} {'whole' if images.read_metadata(path)['complete'] else 'so far'}"
    if path.suffix == ".h5":
        with snapshot.open_snapshot(path) as (record, _):
            return f"snapshot after {len(record['losses'])} evaluations"
    if path.suffix == ".jsonl":
        return f"{len([json.loads(line) for line in path.read_text().splitlines()])} lines"
    return "other"


def main(how: str, folder: Path) -> None:
    """Run, fill, look."""
    evaluate, count = nstcore.Objective.__call__, iter(range(1000))

    def watched(self, pixels):
        if next(count) == 3:
            {"disk": fill, "limit": limit, "gone": shutil.rmtree}[how](folder)
        return evaluate(self, pixels)

    nstcore.Objective.__call__ = watched
    snapshot._SHARE = 1e9  # a snapshot at every step, however long it takes
    arguments = ["run", "photos/a.png", "art/x.png", "-o", str(folder / "out.png"), "--weights", "weights.h5"]
    arguments += ["--content-layers", "relu2_1", "--style-layers", "relu1_1", "--size", "24", "--iterations", "8"]
    arguments += ["--snapshot-every", "1e-9", "--log", str(folder / "log.jsonl"), "--save-every", "2", "--threads", "1"]
    code = cli.main(arguments)
    folders = [folder, Path(), Path(os.environ["HOME"]), *Path(os.environ["TMPDIR"]).glob("nstcore-*")]
    paths = [path for each in folders if each.is_dir() for path in each.iterdir() if path.is_file()]
    files = {str(path): found(path) for path in paths if path.name not in ("mask.png", "weights.h5")}
    print(json.dumps({"code": code, "files": files}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
