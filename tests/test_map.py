"""The map (nstcore/README.md): every link leads somewhere, every name exists, nothing of the book is missing."""

from __future__ import annotations

import importlib
import inspect
import re
import shlex

import draw_map
import pytest
from conftest import ROOT

from nstcore import cli, ops
from nstcore.engines.cuda import source
from nstcore.errors import OptionError
from nstcore.optim import minimize_adam
from nstcore.topics import TOPICS, find, where
from nstcore.transfer import stylize
from nstcore.transfer.rung import BETAS

PAGE = draw_map.MAP.read_text(encoding="utf-8")
LINKS = re.findall(r"\[([^\]\[]+)\]\(([^()\s]+)\)", PAGE)
FUNCTIONS = sorted({name for topic in TOPICS.values() for name in (*topic.book, *topic.engines)})
# What GitHub's MathJax takes (of \operatorname, \mbox and \phantom, common as they are, it takes none)
LATEX = re.compile(
    "Lambda|Pi|alpha|begin|beta|delta|dots|end|epsilon|eta|frac|gamma|hat|in|lambda|le|left|leftarrow|lfloor|mathrm|max"
    "|mu|nabla|odot|partial|phi|qquad|quad|rfloor|rho|right|sigma|sim|sqrt|sum|tau|text|textstyle|tfrac|tilde|top"
    "|varepsilon"
)


def headings(text: str) -> list[str]:
    code = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    return [draw_map.anchor(h) for h in re.findall(r"^#+ (.*)$", code, re.M)]


# -- the page and the code ---------------------------------------------------------------------------------------------


def test_the_links_are_where_the_code_is():
    assert draw_map.drawn(PAGE) == PAGE, "code has moved: python tools/draw_map.py --write"


def test_code_that_moves_makes_the_map_stale_and_writing_it_mends_that(tmp_path, monkeypatch, capsys):
    path = tmp_path / "README.md"
    moved = where("nstcore.ops.gram_forward")
    stale = PAGE.replace(f"gram.py#L{moved.line})", f"gram.py#L{moved.line + 1})")
    assert stale != PAGE
    path.write_text(stale, encoding="utf-8")
    monkeypatch.setattr(draw_map, "MAP", path)
    assert draw_map.main([]) == 1
    assert "--write" in capsys.readouterr().err
    assert draw_map.main(["--write"]) == 0
    assert path.read_text(encoding="utf-8") == PAGE
    assert draw_map.main([]) == 0


def test_every_link_leads_somewhere():
    assert len(LINKS) > 200
    for text, target in sorted(set(LINKS)):
        file, _, fragment = target.partition("#")
        path = (draw_map.HOME / file).resolve() if file else draw_map.MAP
        assert path.exists(), target
        assert path.is_relative_to(ROOT), f"{target} leaves the project"
        if line := re.fullmatch(r"L(\d+)", fragment):
            shown = path.read_text(encoding="utf-8").splitlines()[int(line[1]) - 1]
            name = text.split(".")[-1] if "tests" not in path.parts else "test_" + text.replace(" ", "_")
            assert re.match(rf"\s*(def {name}\(|class {name}\b|{name}(: .*)? = )", shown), f"{target} is {shown!r}"
        elif fragment:
            assert fragment in headings(path.read_text(encoding="utf-8")), f"no heading #{fragment} in {path}"


def test_no_two_headings_have_one_anchor():
    assert len(set(headings(PAGE))) == len(headings(PAGE))


# -- what must be on it ------------------------------------------------------------------------------------------------


def test_every_topic_has_a_section_with_one_equation_and_a_line_in_the_contents():
    sections = re.split(r"^### ", PAGE, flags=re.M)
    own = {name: s for s in sections for name in re.findall(r"<!-- map:([\w-]+) -->", s) if name in TOPICS}
    assert list(own) == list(TOPICS), "in the order of TOPICS"
    for name, section in own.items():
        assert section.count("```math") == 1, name
        assert section.count("<!-- /map:") == section.count("<!-- map:"), name
        assert f"](#{draw_map.anchor(section.splitlines()[0])}) (`{name}`)" in PAGE, f"{name} is not in the contents"


def test_every_operation_of_the_book_is_on_the_map():
    functions = [name for name in ops.__all__ if inspect.isfunction(getattr(ops, name))]
    assert len(functions) > 30
    missing = [name for name in functions if not re.search(rf"\[{name}\]\(ops/\w+\.py#L\d+\)", PAGE)]
    assert not missing


def test_every_kernel_is_on_the_map():
    linked = {(draw_map.HOME / target).resolve() for _, target in LINKS if "/kernels/" in target}
    files = {ROOT / "kernels" / "cuda" / f"{rung}.cu" for rung in source.rungs()}
    files |= set((ROOT / "kernels" / "cpu").glob("*.c"))
    assert len(files) > 25
    assert not sorted(str(f.relative_to(ROOT)) for f in files - linked)
    for name, topic in TOPICS.items():
        ladder = [k for k in topic.kernels if k.endswith(".cu")]
        folders = list(dict.fromkeys(k.rpartition("/")[0] for k in ladder))
        assert ladder == [k for f in folders for k in sorted(ladder) if k.startswith(f"{f}/")], f"{name}: not in order"


def test_what_the_map_says_of_the_optimizers_holds_for_a_painting():
    text = " ".join(PAGE.split())
    betas, history = (inspect.signature(f).parameters for f in (minimize_adam, stylize))
    assert f"`run` paints with a beta_2 of {BETAS[1]}, not 0.999" in text
    assert f"(`minimize_adam` by itself takes {betas['betas'].default[1]})" in text
    assert f"as the last {history['history'].default} steps tell it" in text


def test_every_command_on_the_map_is_one():
    typed = sorted(set(re.findall(r"`(python -m nstcore [^`]+)`", PAGE)))
    assert len(typed) > 40
    for line in typed:
        words = shlex.split(line)[3:]
        try:
            cli.parser().parse_args(words)
        except SystemExit:
            pytest.fail(f"{line}: no such command")
        if words[0] in ("check", "explain", "bench") and len(words) > 1:
            assert words[-1 if words[0] == "check" else 1] in TOPICS, line


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_name_is_found_where_python_has_it(name):
    """Imported, and asked by `inspect`: nothing of how `where` reads the text."""
    words, place = name.split("."), where(name)
    for split in range(len(words) - 1, 0, -1):
        try:
            found = importlib.import_module(".".join(words[:split]))
        except ModuleNotFoundError:
            continue
        break
    for word in words[split:]:
        found = getattr(found, word)
    if not inspect.isfunction(found) and not inspect.isclass(found):  # a constant, which has no source of its own
        assert re.match(rf"{words[-1]}(: .*)? = ", place.text)
        return
    lines, first = inspect.getsourcelines(found)
    assert place.path.samefile(inspect.getsourcefile(found))
    assert (place.first, place.last) == (first, first + len(lines) - 1)
    assert place.summary == (inspect.getdoc(found) or "").partition("\n")[0] or not found.__doc__
    assert place.signature.split("\n")[0] in "".join(lines)
    assert place.signature.split("\n")[-1].endswith(":")


@pytest.mark.parametrize(
    "name",
    ["nstcore.ops.gram_sideways", "nstcore.ops.gram", "numpy.dot", "nstcore.optim.vectors.Vectors.sing", "nstcore"],
)
def test_a_name_that_is_nowhere_is_an_error(name):
    with pytest.raises(LookupError, match=name.split(".")[-1]):
        where(name)


def test_a_test_that_is_gone_is_an_error():
    with pytest.raises(LookupError, match="test_that_nobody_wrote"):
        draw_map.test_link("tests/test_ops.py::test_that_nobody_wrote")


def test_a_topic_is_found_by_any_way_of_writing_it():
    assert find("Mean_Std") == "mean-std"
    with pytest.raises(OptionError, match="did you mean winograd") as refusal:
        find("winogard")
    assert all(name in str(refusal.value) for name in TOPICS)


# -- equations ---------------------------------------------------------------------------------------------------------


def test_equations_are_such_as_github_can_draw():
    blocks = re.findall(r"^```math\n(.*?)\n```$", PAGE, re.M | re.S)
    assert len(blocks) == len(TOPICS) + 1
    for block in blocks:
        bare = block.replace(r"\{", "").replace(r"\}", "")
        depths = [bare[: i + 1].count("{") - bare[: i + 1].count("}") for i in range(len(bare))]
        assert min(depths) >= 0, block
        assert depths[-1] == 0, block
        assert re.findall(r"\\begin\{(\w+)\}", block) == re.findall(r"\\end\{(\w+)\}", block), block
        assert len(re.findall(r"\\left\b", block)) == len(re.findall(r"\\right\b", block)), block
        unknown = [name for name in re.findall(r"\\([A-Za-z]+)", block) if not LATEX.fullmatch(name)]
        assert not unknown, unknown


@pytest.mark.parametrize("name", TOPICS)
def test_an_equation_fits_a_terminal(name):
    equation = TOPICS[name].equation
    assert equation.isascii()
    assert equation == equation.strip("\n")
    assert max(map(len, equation.splitlines())) <= 110
