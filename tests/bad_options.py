"""Values that options and TOML files can be given, most of them bad."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from bad_inputs import mutations

VALUES = (
    *("", " ", "nan", "inf", "-inf", "-1", "0", "0.0", "1", "-0", "1e400", "1e-400", "1e38", "2.5", "1,5"),
    *("9" * 30, "9" * 5000, "0x10", "1_000", "\uff11\uff12", "\u00bd", "\u0663", "+5", "5 ", "5\n", "1e5", "1/2"),
    *("true", "null", "None", "[1]", "{}", "{0}", "%s", "%(prog)s", "$HOME", "`id`", ";id", "'", '"', "\\", "#"),
    *(
        "a\nb",
        "\t",
        "\x1b[31m",
        "\u202e",
        "\ud800",
        "caf\udce9.png",
        "\U0001f600",
        "a\0b",
        "\0",
        "x" * 300,
        "x" * 99_999,
    ),
    *(".", "..", "/", "//", "-", "--", "../../../etc/passwd", "/dev/zero", "/dev/null", "/proc/self/mem", "~", "*"),
    *(",", "=", "=1", "1=", "1,,2", ",1", "1,2,3,4", ";", ";;", "all", "all,none", "auto", "off", "default"),
    *("relu1_1", "relu9_9", "conv1_1=", "relu1_1=nan", "relu1_1=-1", "relu1_1,relu1_1", "relu1_1=1,relu1_1=2"),
    *(
        "content",
        "content=0.5",
        "content=nan",
        "noise=1,style=inf",
        "short=",
        "short=0",
        "short=-5",
        "short=" + "9" * 99,
    ),
    *("area=", "area=0", "area=inf", "area=1e300", "area=nan", "size=3", "content=" + "9" * 400, "8", "16", "0.5"),
)
_NAMES = (
    "",
    "a\0b",
    "x" * 300,
    "none/x",
    "a\nb",
    "\x1b[31m",
    "caf\udce9",
    "-x",
    "/x/y",
    "//",
    "..",
    "a.png/b",
    "a" * 9999,
)
_TOML = (
    *(
        "''",
        "'nan'",
        "nan",
        "inf",
        "-inf",
        "0",
        "-1",
        "9" * 30,
        "1e400",
        "1e308",
        "0x" + "f" * 5000,
        "'" + "x" * 9999 + "'",
    ),
    *(
        "true",
        "1979-05-27",
        "07:32:00",
        "[]",
        "[[]]",
        "{}",
        "[1, 'a']",
        "[nan]",
        "{a = {b = 1}}",
        "'a\\nb'",
        '"\\u0000"',
    ),
    *(
        '"a\\nb"',
        '"\\u202e"',
        "'../../etc/passwd'",
        "['', '']",
        "[true]",
        "{relu1_1 = nan}",
        "{'' = 1}",
        "-0.0",
        "'*.png'",
    ),
)
_SETTINGS = b"""\
content = "a.png"
style = ["b.png", 'a.png']
output = "out.png"
size = 64
iterations = 2
style-layers = {relu1_1 = 0.5, relu2_1 = 1.0}
style-blend = [1, 2]
region = ["a.png,all,none"]
init = "content=0.8,noise=0.2"
"""
_JOBS = b"""\
[defaults]
size = 64
iterations = 2

[[job]]
content = "a.png"
style = "b.png"
output = "one.png"

[[grid]]
contents = "*.png"
styles = ["b.png"]
output = "{content}-in-{style}.png"
"""


def _write_pictures(folder: Path) -> None:
    from PIL import Image

    for name in ("a.png", "b.png"):
        Image.new("RGB", (20, 16), "red").save(folder / name)


def toml_files(folder: Path) -> Iterator[tuple[str, str, bytes]]:
    """What is wrong, "settings" or "jobs", and the content."""
    from nstcore.commands.options import OPTIONS

    _write_pictures(folder)
    for kind, whole in (("settings", _SETTINGS), ("jobs", _JOBS)):
        for name, bad in mutations(whole, 110, len(kind), header=len(whole)):
            yield name, kind, bad
        for name, bad in {
            "deeply nested": b"size = " + b"[" * 5000 + b"]" * 5000,
            "deep tables": b"[" + b"a." * 5000 + b"a]\nb = 1",
            "not UTF-8": b"size = '\xff'",
            "UTF-16": "size = 1".encode("utf-16"),
            "a mark": b"\xef\xbb\xbfsize = 64",
            "null bytes": bytes(64),
            "twice": b"size = 1\nsize = 2",
            "a long line": b"size = '" + b"x" * 1_000_000 + b"'",
            "many keys": b"".join(b"k%d = 1\n" % i for i in range(20_000)),
        }.items():
            yield name, kind, bad
    names = [*OPTIONS, "content", "style", "output", "recipe", "weights"]
    for i, name in enumerate(names):
        for j, value in enumerate(_TOML):
            if (i + j) % 4 == 0:
                yield f"{name} = {value[:30]}", "settings", f"{name} = {value}\n".encode()
            if (i + j) % 7 == 0:
                job = f"[[job]]\ncontent = 'a.png'\nstyle = 'b.png'\noutput = 'o.png'\n{name} = {value}\n"
                yield f"{name} = {value[:30]} of a job", "jobs", job.encode()
    for i, value in enumerate(_TOML):
        for j, name in enumerate(("job", "grid", "defaults", "defaults.size", "grid.contents")):
            yield f"{name} = {value[:30]}", "jobs", f"{name} = {value}\n".encode()
            if (i + j) % 3 == 0:
                key = ("contents", "styles", "output")[i % 3]
                grid = f"[[grid]]\ncontents = 'a.png'\nstyles = 'b.png'\n{key} = {value}\n"
                yield f"{key} = {value[:30]} of a grid", "jobs", grid.encode()


def command_lines(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Every option of every command with bad values, and arguments that are none.

    What turns out to be good ends all the same before anything is painted, since the weights are not there.
    """
    from nstcore import cli

    _write_pictures(folder)
    picture = ["--weights", "none.h5", "--device", "cpu"]
    begins = dict.fromkeys(("run", "fast", "ablate", "features", "reconstruct", "texture"), picture)
    begins |= {"bench": ["--quiet", "--rounds", "1"]}
    ends = {command: ["a.png", "b.png"] for command in ("run", "fast", "ablate")}
    ends |= {command: ["a.png"] for command in ("features", "reconstruct", "texture")}
    ends |= {command: ["nothing"] for command in ("bench", "check", "explain")}
    for command, parser in _commands(cli.parser()).items():
        begin, end = begins.get(command, []), ends.get(command, [])
        options = [a for a in parser._actions if a.option_strings and a.nargs is None]
        for i, action in enumerate(options):
            flag = action.option_strings[-1]
            for j, value in enumerate(VALUES):
                if (i + j) % (9 if command in ("run", "rerun", "sweep") else 27) == 0:
                    others = [word for word in begin if word != flag]
                    yield f"{command} {flag}={value[:30]!r}", [command, *others, *end, f"{flag}={value}"]
        for value in _NAMES if command in ("run", "fast") else ():
            yield f"{command} -o {value[:30]!r}", [command, *begin, *end, "-o", f"{value}.png"]
        for value in VALUES[::3]:
            yield f"{command} {value[:30]!r}", [command, *begin, value]
            yield f"{command} -- {value[:30]!r} twice", [command, *begin, "--", value, value]
    for value in VALUES:
        yield f"{value[:30]!r} as a command", [value]
        yield (
            f"--{value[:30]!r} as an option",
            ["run", *begins["run"], *ends["run"], f"--{value}"],
        )  # some are short for a real one


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    found = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                inner = {f"{name} {n}": p for n, p in _commands(below).items()}
                found |= inner or {name: below}
    return found
