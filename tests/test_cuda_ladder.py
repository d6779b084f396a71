"""The ladder of CUDA kernels: heads, files, tables and what the engine launches agree, and every form compiles."""

from __future__ import annotations

import re

import bench
import compile_kernels
import pytest
from conftest import ROOT

from nstcore.engines.cuda import nvrtc, source, variants

SHARED = {75: 64 * 1024, 80: 99 * 1024}  # bytes that a block can have on sm_75; on sm_86 and sm_89, the least after it
needs_nvrtc = pytest.mark.skipif(nvrtc.problem() is not None, reason=str(nvrtc.problem()))

ALL = list(variants.all_variants())


def test_every_rung_has_a_form_in_which_it_is_compiled():
    assert {v.rung for v in ALL} == set(source.rungs())
    assert len(set(map(str, ALL))) == len(ALL), "a form is given twice"


@pytest.mark.parametrize("name", source.rungs())
def test_the_head_of_a_rung_agrees_with_its_place(name):
    rung = source.read(name)
    op, short = name.split("/")
    needed = {"op", "rung", "math", "reference", "requires", "napkin", "launch"}
    assert needed <= set(rung.head), f"missing: {needed - set(rung.head)}"
    assert op.replace("_", " ") in rung.head["op"]
    assert rung.head["rung"] == short
    assert rung.kernels, "no kernel whose launches can be checked"
    over = [key.removeprefix("over ") for key in rung.head if key.startswith("over ")]
    earlier = [other.split("/")[1][:2] for other in source.rungs() if other.startswith(f"{op}/") and other < name]
    assert len(over) == bool(earlier), "every rung but an operation's first says what it adds, and to which"
    assert set(over) <= set(earlier)


@pytest.mark.parametrize("name", source.rungs())
def test_what_a_head_refers_to_is_there(name):
    """`reference: nstcore/ops/a.py f, g; b.py h`: a file without a folder lies where the last one does."""
    head = source.read(name).head
    folder, names, text = "", [], ""
    _, *parts = re.split(r"([\w/]+\.py)", re.sub(r"\(.*?\)", "", head["reference"]))
    for path, words in zip(parts[::2], parts[1::2], strict=True):
        folder = path.rpartition("/")[0] or folder
        text += (ROOT / folder / path.rpartition("/")[2]).read_text()
        names += set(re.findall(r"\w+", words)) - {"and"}
    assert names, f"reference: expected a file of the book and functions in it, got {head['reference']}"
    missing = [n for n in names if not re.search(rf"^\s*(?:def|class) {n}\b", text, re.M)]
    assert not missing, f"reference: there is no {missing}"
    launched = re.findall(r"nstcore/engines/cuda/\w+\.py", head["launch"])
    assert launched, f"launch: expected a file in nstcore/engines/cuda, got {head['launch']}"
    for path in launched:
        assert name.split("/")[0] in (ROOT / path).read_text()


@pytest.mark.parametrize("variant", ALL, ids=str)
def test_options_are_such_as_the_file_reads(variant):
    rung = source.read(variant.rung)
    text = rung.text + "".join(rung.headers.values())
    for name in variant.defines:
        assert re.search(rf"\b{name}\b", text), f"{variant.rung} does not know -D{name}"


@needs_nvrtc
@pytest.mark.parametrize(
    "variant", [pytest.param(v, marks=() if v.production else pytest.mark.slow) for v in ALL], ids=str
)
def test_every_form_of_every_rung_compiles(variant):
    """For sm_80; for all that there are in the test below."""
    rung = source.read(variant.rung)
    for (_, architecture), kernels in compile_kernels.compile_all([variant], [80]).items():
        assert set(kernels) == set(rung.kernels)
        for name, taken in kernels.items() if variant.production else ():
            assert (taken.spill_stores, taken.spill_loads) == (0, 0), f"{name} spills on sm_{architecture}"
            assert taken.shared + variant.shared <= SHARED[variant.architecture], name


@needs_nvrtc
@pytest.mark.slow
def test_the_table_has_what_every_form_takes():
    """Compiled anew for sm_80; that the other columns are of the same sources, the next test holds."""
    table = compile_kernels.written(bench.README, "compile")
    if str(nvrtc.find()) not in " ".join(table.split()):
        pytest.skip(f"the table was made with another NVRTC than {nvrtc.find()}, which may allocate other registers")
    fresh = compile_kernels.rows(compile_kernels.compile_all(ALL, [80]), [80])
    lines = [line.strip("| ").split(" | ") for line in table.splitlines() if re.match(r"\| \**\w+/", line)]
    place = compile_kernels.ARCHITECTURES.index(80)
    written = [(*line[:4], (line[4].split() * 6)[place], line[5], line[6], line[7]) for line in lines]
    assert [row for row in written if row[4] != "-"] == fresh  # a rung may be for another architecture alone


def test_the_table_was_made_from_these_sources():
    """For every architecture; making it takes some minutes of compilation."""
    table = compile_kernels.written(bench.README, "compile")
    assert f"of sources {compile_kernels.fingerprint()}" in " ".join(table.split()), (
        "python tools/compile_kernels.py --write"
    )


def test_the_ladder_is_that_of_the_heads():
    assert compile_kernels.written(bench.README, "ladder") == compile_kernels.ladder().strip(), (
        "python tools/compile_kernels.py --write"
    )


def test_the_table_names_every_form_of_every_kernel():
    """Without compiling anything."""
    written = compile_kernels.named(compile_kernels.written(bench.README, "compile"))
    nothing = nvrtc.Resources(0, 0, 0, 0, 0)
    results = {(v, v.architecture): dict.fromkeys(source.read(v.rung).kernels, nothing) for v in ALL}
    rows = compile_kernels.rows(results, sorted({a for _, a in results}))
    assert written == [list(row[:4]) for row in rows], "python tools/compile_kernels.py --write"
