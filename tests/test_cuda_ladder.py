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


@pytest.fixture(scope="module")
def table() -> dict[tuple[str, str], list[list[str]]]:
    """Rows of the table by rung and kernel: two where some forms are for production, in bold, and some are not."""
    found: dict[tuple[str, str], list[list[str]]] = {}
    for line in compile_kernels.written(bench.README, "compile").splitlines():
        if re.match(r"\| \**\w+/", line):
            rung, kernel, *cells = line.strip("| ").split(" | ")
            found.setdefault((rung.strip("*"), kernel), []).append([rung, *cells])
    return found


def is_recorded() -> bool:
    """Whether every form has been compiled, from these sources and with this compiler: the table was made of it."""
    words = " ".join(compile_kernels.written(bench.README, "compile").split())
    return f"with {nvrtc.find()}, of sources {compile_kernels.fingerprint()}." in words


@needs_nvrtc
@pytest.mark.parametrize(
    "name", [pytest.param(r, marks=[pytest.mark.slow] * r.startswith("conv3x3/")) for r in source.rungs()]
)
def test_every_form_of_every_rung_compiles_and_takes_what_the_table_says(name, table):
    """For sm_80, or the one architecture that a rung is for: one form of each where the table records all of them."""
    rung, forms = source.read(name), [v for v in ALL if v.rung == name]
    forms.sort(key=lambda v: not v.production)
    architecture = variants.own_architecture(rung) or 80
    recorded = is_recorded()
    results = compile_kernels.compile_all(forms[:1] if recorded else forms, [architecture])
    assert results
    assert compile_kernels.spilling(results) == []
    place = compile_kernels.ARCHITECTURES.index(architecture)
    for (variant, _), kernels in results.items():
        assert set(kernels) == set(rung.kernels)
        for kernel, taken in kernels.items() if recorded else ():
            (row,) = (row for row in table[name, kernel] if row[0].startswith("**") == variant.production)
            registers, shared = int((row[3].split() * 6)[place]), int(row[4])
            assert taken.registers <= registers
            assert taken.shared <= shared
            assert (taken.registers, taken.shared) == (registers, shared) or row[2] != "1", "of the only form"


def test_no_form_for_production_spills_on_any_gpu_or_wants_more_memory_than_its_oldest_one_has(table):
    """As the table says, of all architectures."""
    for variant in (v for v in ALL if v.production):
        for kernel in source.read(variant.rung).kernels:
            (row,) = (row for row in table[variant.rung, kernel] if row[0].startswith("**"))
            assert row[6] == "0", f"{variant.rung} {kernel} spills: {row[6]}"
            assert int(row[4]) + variant.shared <= SHARED[variant.architecture], f"{variant} {kernel}"


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
