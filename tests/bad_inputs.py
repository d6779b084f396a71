"""Bad inputs by the thousand, each read in this process, which may not take too long, too much memory, nor say a word.

    python tests/bad_inputs.py FOLDER KIND EVERY

reads every EVERY-th bad input of a kind (`KINDS`) and prints what became of them as JSON. Everything is seeded: the
same inputs each time. `tests/test_bad_inputs.py` starts it and judges the result.

An input must end as something valid or as a `UsageError` of one line. Watched over all the while: 10 seconds for each,
1 GiB above the start (`RLIMIT_AS`; the peak is measured, too), nothing on standard error, nothing written outside
FOLDER and nothing started or connected (by an audit hook).
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import io
import json
import os
import resource
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

LIMIT_SECONDS = 10
LIMIT_BYTES = 1 << 30  # above what the process takes at the start
LONGEST_MESSAGE = 1000  # characters on standard error: a hundred kilobytes of a bad value tell nobody anything

Case = tuple[str, Callable[[], object]]  # its name, and what reads it


class Misbehaved(Exception):
    """Neither valid nor refused as it should be."""


# ---- what watches


class Watch:
    """What a case may not do besides raising something wrong."""

    def __init__(self, folder: Path) -> None:
        self.folder = os.path.realpath(folder)
        self.offences: list[str] = []
        self._said = (folder / "standard-error.txt").open("w+b")
        self._quiet_until = 0
        self.screen = os.fdopen(os.dup(2), "w")
        sys.stderr.flush()
        os.dup2(self._said.fileno(), 2)
        warnings.resetwarnings()
        warnings.simplefilter("always")
        sys.dont_write_bytecode = True
        reset_peak()
        sys.addaudithook(self._audit)
        self.start = status("VmRSS")
        resource.setrlimit(resource.RLIMIT_AS, (status("VmSize") + LIMIT_BYTES,) * 2)

    def _audit(self, event: str, arguments: tuple) -> None:
        if event == "open":
            path, _, flags = arguments
            writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
            if isinstance(flags, int) and flags & writes and not isinstance(path, int):
                self._must_be_inside(event, path)
        elif event in ("os.mkdir", "os.remove", "os.rename", "os.link", "os.symlink", "os.truncate", "os.rmdir"):
            for path in arguments[:2]:
                if isinstance(path, str | bytes | os.PathLike):
                    self._must_be_inside(event, path)
        elif event == "socket.gethostname":
            return  # locks carry it; nothing is sent
        elif event.partition(".")[0] in ("subprocess", "socket") or event in (
            *("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "pickle.find_class"),
        ):
            self.offences.append(f"{event} {arguments!r}"[:200])

    def _must_be_inside(self, event: str, path: str | bytes | os.PathLike) -> None:
        place = os.path.realpath(os.fsdecode(path))
        # Beside a name such as /proc/self/mem something is tried, in vain: nobody can make a file there
        if not place.startswith((self.folder + os.sep, "/proc/")) and place != os.devnull:
            self.offences.append(f"{event} outside: {place}"[:200])

    def complaints(self) -> list[str]:
        """What happened since the last time."""
        found, self.offences = self.offences, []
        self._said.flush()
        size = os.fstat(self._said.fileno()).st_size
        if size > self._quiet_until:
            said = os.pread(self._said.fileno(), 300, self._quiet_until).decode(errors="replace")
            found.append(f"said on standard error: {said}")
            self._quiet_until = size
        return found


def status(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name)) * 1024


def reset_peak() -> None:
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def judge(run: Callable[[], object]) -> tuple[str, str]:
    """What became of a case (valid, refused, failed), and why."""
    from nstcore.errors import UsageError

    try:
        run()
    except UsageError as error:
        message = str(error)
        if not message.isprintable():
            return "failed", f"{type(error).__name__}: {message[:200]!r}"
        return "refused", message
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        what = f"{type(error).__name__}: {str(error)[:200]!r}"
        return "failed", f"{what} at {Path(where.filename).name}:{where.lineno}"
    return "valid", ""


def main(folder: Path, kind: str, every: int) -> dict:
    """Read the inputs of a kind; what became of them."""
    folder.mkdir(exist_ok=True)
    os.chdir(folder)
    work = folder / "work"
    work.mkdir()
    cases = KINDS[kind](work)
    first = next(cases)  # whatever the kind imports and writes first is done before the watch begins
    watch = Watch(folder)
    counts = {"valid": 0, "refused": 0, "failed": 0}
    failures: list[str] = []
    slowest, peak = 0.0, 0
    for number, (name, run) in enumerate(_with(first, cases)):
        if number % every:
            continue
        print(name, file=sys.stdout, flush=True)  # the last line names the one that hangs
        faulthandler.dump_traceback_later(LIMIT_SECONDS, exit=True, file=watch.screen)
        start = time.perf_counter()
        became, why = judge(run)
        slowest = max(slowest, time.perf_counter() - start)
        faulthandler.cancel_dump_traceback_later()
        for complaint in watch.complaints():
            became, why = "failed", complaint
        counts[became] += 1
        if became == "failed":
            failures.append(f"{name}: {why}")
    peak = status("VmHWM") - watch.start
    return {"kind": kind, **counts, "failures": failures, "slowest": slowest, "peak": peak}


def _with(first: Case, rest: Iterator[Case]) -> Iterator[Case]:
    yield first
    yield from rest


# ---- damage


def mutations(whole: bytes, count: int, seed: int, header: int = 64) -> Iterator[tuple[str, bytes]]:
    """`count` damaged copies: cut short, bits flipped, sizes that lie, noise, pieces lost, doubled, swapped, appended.

    Half of the damage is in the first `header` bytes, where sizes stand.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    sizes = [0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 12_000, 70_000, 0x7FFFFFFF, 0xFFFFFFFF]
    for i in range(count):
        content = bytearray(whole)
        front = min(header, len(whole))
        at = int(rng.integers(front if i // 9 % 2 else len(whole)))
        other = int(rng.integers(len(whole)))
        length = int(rng.integers(1, 60))
        kind = ("cut", "flip", "size16", "size32", "noise", "lost", "doubled", "swapped", "appended")[i % 9]
        order = ("little", "big")[int(rng.integers(2))]
        value = sizes[int(rng.integers(len(sizes)))]
        if kind == "cut":
            del content[at:]
        elif kind == "flip":
            for place in rng.integers(front if i // 9 % 2 else len(whole), size=int(rng.integers(1, 4))):
                content[place] ^= 1 << int(rng.integers(8))
        elif kind == "size16":
            content[at : at + 2] = (value & 0xFFFF).to_bytes(2, order)
        elif kind == "size32":
            content[at : at + 4] = value.to_bytes(4, order)
        elif kind == "noise":
            content[at : at + length] = rng.bytes(length)
        elif kind == "lost":
            del content[at : at + length]
        elif kind == "doubled":
            content[at:at] = content[at : at + length]
        elif kind == "swapped":
            content[at : at + length], content[other : other + length] = (
                content[other : other + length],
                content[at : at + length],
            )
        else:
            content += rng.bytes(length * length)
        yield f"{kind} at {at}", bytes(content)


# ---- pictures


def pictures(folder: Path) -> Iterator[Case]:
    """Damaged files of every format, headers that lie, chunks out of order, files that are something else."""
    from bad_pictures import bad_pictures

    from nstcore import images
    from nstcore.errors import PictureError

    def read(path: Path) -> None:
        found = images.load(path)
        if not (found.pixels.size and found.pixels.min() >= 0 and found.pixels.max() <= 1):  # false for NaN, too
            raise Misbehaved(f"pixels {found.pixels.shape} from {found.pixels.min()} to {found.pixels.max()}")
        if found.alpha is not None and not (found.alpha.min() >= 0 and found.alpha.max() <= 1):
            raise Misbehaved("alpha outside [0, 1]")
        if found.note is not None and not found.note.isprintable():
            raise Misbehaved(f"note {found.note!r}")

    def case(name: str, file: str, content: bytes) -> Case:
        def run() -> None:
            path = folder / file
            path.write_bytes(content)
            with contextlib.suppress(PictureError):
                images.read_metadata(path)
            read(path)

        return f"{file}: {name}", run

    for name, file, content in bad_pictures():
        yield case(name, file, content)


# ---- weights


def weights(folder: Path) -> Iterator[Case]:
    """Damaged checkpoints of every container, and of the own format in each storage."""
    from bad_weights import whole_files

    from nstcore.pretrained import read_weights
    from nstcore.pretrained.readers import read_source

    whole = whole_files(folder)
    for number, (name, (path, file)) in enumerate(whole.items()):
        reader = read_weights if name.startswith("nstcore") else read_source
        content = file.read_bytes()
        damaged = [*mutations(content, 58, number), ("nothing", b""), ("text", b"weights\n" * 9)]
        damaged += [(f"a {other}", wrong.read_bytes()) for other, (_, wrong) in whole.items() if other != name]
        for what, bad in damaged:

            def run(bad=bad, path=path, file=file, reader=reader, content=content) -> None:
                file.write_bytes(bad)
                try:
                    reader(path)
                finally:
                    file.write_bytes(content)

            yield f"{name}: {what}", run


# ---- settings, jobs, options, snapshots


def tables(folder: Path) -> Iterator[Case]:
    """Settings and jobs files: damaged, nested, with values of every type that TOML has."""
    from bad_options import toml_files

    from nstcore.commands import jobs
    from nstcore.commands.settings import Source
    from nstcore.commands.sources import resolve, settings_file

    def read(kind: str, path: Path) -> None:
        if kind == "settings":
            settings = resolve(settings_file(str(path)))
            settings.settle(1, Path("out.png"))
            settings.keywords()
        else:
            jobs.read_jobs(path, [], Source("", {}))

    for name, kind, content in toml_files(folder):

        def run(kind=kind, content=content) -> None:
            path = folder / f"{kind}.toml"
            path.write_bytes(content)
            read(kind, path)

        yield f"{kind}: {name}", run


def options(folder: Path) -> Iterator[Case]:
    """Values of every option of every command, through the command line in this process."""
    import h5py  # noqa: F401  (starts `uname` when it is imported, which is not what is watched for)
    from bad_options import command_lines

    from nstcore import cli

    os.environ |= {"NSTCORE_OFFLINE": "1", "NSTCORE_HOME": str(folder / "cache")}
    cli.parser = functools.cache(cli.parser)  # nine tenths of the time otherwise

    def run(arguments: list[str]) -> None:
        from nstcore.errors import OptionError

        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = cli.main(arguments)
            except SystemExit as end:  # argparse's own way out
                code = end.code
        said = err.getvalue().encode(errors="backslashreplace").decode()  # as standard error does it
        if code == 0 and not said:
            return
        if code != 2 or not said.endswith("\n") or not said[:-1].isprintable() or len(said) > LONGEST_MESSAGE:
            raise Misbehaved(f"exit {code}, {len(said)} characters on standard error: {said[:300]!r}")
        raise OptionError(said.rstrip("\n"))

    for name, arguments in command_lines(folder):
        yield name, lambda arguments=arguments: run(arguments)


def snapshots(folder: Path) -> Iterator[Case]:
    """A damaged snapshot is refused, or it is the same as before: a run never goes on from anything else."""
    import numpy as np

    from nstcore.transfer.snapshot import open_snapshot, write_snapshot

    record = {"settings": {"seed": 3, "size": 64}, "weights": "0" * 64, "rung": 1, "iteration": 7}
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal((3, 16, 20)).astype(np.float32) for name in ("pixels", "m", "v", "average")}
    path = folder / "snapshot.h5"
    write_snapshot(path, record, {name: lambda array=array: array for name, array in arrays.items()})
    content = path.read_bytes()

    def run(bad: bytes) -> None:
        path.write_bytes(bad)
        with open_snapshot(path) as (found, array):
            if found != record or not all(np.array_equal(array(name), arrays[name]) for name in arrays):
                raise Misbehaved("another state than the one that was saved")

    others = {
        "nothing": b"",
        "text": b"snapshot\n" * 99,
        "its head alone": content[:512],
        "HDF5 without its head": content[512:],
        "of a later version": content.replace(b"snapshot 1\n", b"snapshot 2\n", 1),
        "a digest of capitals": content[:19] + content[19:83].upper() + content[83:],
        "zeros": bytes(len(content)),
    }
    for name, bad in [*mutations(content, 250, 11, header=600), *others.items()]:
        yield name, lambda bad=bad: run(bad)


KINDS: dict[str, Callable[[Path], Iterator[Case]]] = {
    "pictures": pictures,
    "weights": weights,
    "tables": tables,
    "options": options,
    "snapshots": snapshots,
}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]).resolve(), sys.argv[2], int(sys.argv[3]))))
