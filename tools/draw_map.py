"""The links of the map (nstcore/README.md), from `nstcore.topics`: where each equation's code, kernels and tests stand.

    python tools/draw_map.py             exit 1 if what stands between the map's markers is stale
    python tools/draw_map.py --write     write it anew, after code has moved

Each `<!-- map:NAME -->` ... `<!-- /map:NAME -->` holds the links of one topic; `contents` and `conventions` are tables.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from nstcore.bench import OPERATIONS
from nstcore.conventions import CONVENTIONS
from nstcore.topics import TOPICS, Place, Topic, where

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / "nstcore"  # links are relative to it
MAP = HOME / "README.md"
BLOCK = re.compile(r"(<!-- map:([\w-]+) -->\n)(.*?)(<!-- /map:\2 -->)", re.S)


def drawn(text: str) -> str:
    """The page with everything between its markers as it should be."""
    return BLOCK.sub(lambda block: f"{block[1]}{content(block[2], text)}{block[4]}", text)


def content(name: str, text: str) -> str:
    """What belongs between the markers of that name; `text` is the page."""
    if name == "contents":
        return contents(text)
    return conventions() if name == "conventions" else links(name, TOPICS[name])


def contents(text: str) -> str:
    """A line for each topic, with a link to the heading above its links."""
    rows = ["| topic | in a line |", "|---|---|"]
    for name, topic in TOPICS.items():
        before = text.partition(f"<!-- map:{name} -->")[0]
        heading = re.findall(r"^#+ (.*)$", before, re.M)[-1]
        title, _, line = topic.title.partition(": ")
        rows.append(f"| [{title}](#{anchor(heading)}) (`{name}`) | {line} |")
    return "\n".join(rows) + "\n"


def anchor(heading: str) -> str:
    """The name that GitHub gives to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def conventions() -> str:
    """What each program's weights multiply."""
    names = ("convention", "content, one layer", "style, one layer", "alpha", "beta", "tau", "w_l of the style")
    rows = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for c in CONVENTIONS.values():
        layer = f"{c.style_layer_weight:g}" + (f", each /{c.style_falloff:g}" if c.style_falloff != 1 else "")
        weights = f"{c.content_weight:g} | {c.style_weight:g} | {c.tv_weight:g} | {layer}"
        rows.append(f"| `{c.name}` | `{c.content}` | `{c.style}` | {weights} |")
    return "\n".join(rows) + "\n"


def links(name: str, topic: Topic) -> str:
    """Code and source, kernels, proof: a line each. The last one leaves room for the marker behind it."""
    homes: dict[str, list[str]] = {}
    for function in (*topic.book, *topic.engines):
        home = function.split(".")[2] if function in topic.engines else "book"
        homes.setdefault(home, []).append(link(where(function)))
    if not topic.engines:
        homes["book"][-1] += ", which every engine calls"
    lines = [f"- {'; '.join(f'**{home}** {listed(found)}' for home, found in homes.items())}; {topic.source}"]
    if topic.kernels:
        lines.append(f"- **kernels** {listed(f'[{label(k)}](../kernels/{k})' for k in topic.kernels)}")
    commands = [f"`python -m nstcore {command}`" for command in commands_of(name, topic)]
    lines.append(f"- **proof** {listed(commands)}; {listed(map(test_link, topic.tests))}")
    return "\n".join(lines) + " "


def listed(items: Iterable[str]) -> str:
    return ", ".join(items)


def commands_of(name: str, topic: Topic) -> list[str]:
    """What to type about a topic."""
    commands = [f"check {name}", f"explain {name}"]
    if name in OPERATIONS:
        rung = next(k for k in topic.kernels if k.endswith(".cu"))
        commands.append(f"bench {name} --rung {Path(rung).name[:2]}")
    return commands


def link(place: Place) -> str:
    return f"[{place.name}]({place.path.relative_to(HOME).as_posix()}#L{place.line})"


def label(kernel: str) -> str:
    """conv3x3/01_naive of cuda/conv3x3/01_naive.cu; files of other kinds as they are."""
    return kernel.removeprefix("cuda/").removesuffix(".cu") if kernel.endswith(".cu") else kernel


def test_link(test: str) -> str:
    """The sentence that the test's name is."""
    file, _, name = test.partition("::")
    found = re.search(rf"^def {name}\(", (ROOT / file).read_text(encoding="utf-8"), re.M)
    if found is None:
        raise LookupError(f"{test}: there is no such test")
    line = found.string.count("\n", 0, found.start()) + 1
    return f"[{name.removeprefix('test_').replace('_', ' ')}](../{file}#L{line})"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="write the map anew")
    args = parser.parse_args(arguments)
    text = MAP.read_text(encoding="utf-8")
    new = drawn(text)
    if args.write:
        MAP.write_text(new, encoding="utf-8")
    elif new != text:
        print(f"{MAP} is stale: python tools/draw_map.py --write", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
