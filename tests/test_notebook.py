"""The notebook in tools: what is stored in it, and that it computes the same afresh.

Its outputs are stored so that it can be read where nothing runs, on a web page. To store them anew:

    jupyter execute --inplace tools/style_transfer_from_scratch.ipynb
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec

import pytest
from conftest import ROOT

PATH = ROOT / "tools" / "style_transfer_from_scratch.ipynb"
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
RUN = "from nbclient.cli import main; main()"
runs = pytest.mark.skipif(
    not (find_spec("nbclient") and find_spec("ipykernel")),
    reason='nbclient and ipykernel are not installed; pip install -e ".[test]"',
)


@pytest.fixture
def notebook() -> dict:
    return json.loads(PATH.read_text(encoding="utf-8"))


def code(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def source(cell) -> str:
    return "".join(cell["source"])


def printed(cell) -> str:
    return "".join("".join(o["text"]) for o in cell["outputs"] if o["output_type"] == "stream")


def pictures(cell) -> int:
    return sum("image/png" in output.get("data", {}) for output in cell["outputs"])


@pytest.fixture
def execute(tmp_path):
    """Runs cells in a kernel of their own, as `jupyter execute` does: (the process, the notebook afterwards)."""

    def start(notebook):
        path = tmp_path / PATH.name
        path.write_text(json.dumps(notebook), encoding="utf-8")
        own = {f"JUPYTER_{name}_DIR": str(tmp_path / name) for name in ("CONFIG", "DATA", "RUNTIME")}
        environment = {
            **os.environ,
            **own,
            "IPYTHONDIR": str(tmp_path / "IPYTHON"),
            "JUPYTER_PREFER_ENV_PATH": "1",  # this Python's kernel, not one of the user's
            "OPENBLAS_NUM_THREADS": "1",  # tests run side by side
            "PYTHONPATH": str(ROOT),
        }
        command = [sys.executable, "-c", RUN, "--inplace", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
        return done, json.loads(path.read_text(encoding="utf-8"))

    return start


def test_the_notebook_is_whole(notebook):
    """Format 4.5, which has a name for every cell; each cell was run once, in this order, and none failed."""
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    names = [cell["id"] for cell in notebook["cells"]]
    assert len(set(names)) == len(names)
    assert [cell["execution_count"] for cell in code(notebook)] == [*range(1, len(code(notebook)) + 1)]
    outputs = [output for cell in code(notebook) for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} == {"stream", "execute_result"}
    assert {output["name"] for output in outputs if output["output_type"] == "stream"} == {"stdout"}  # no warnings
    assert sum(pictures(cell) for cell in code(notebook)) >= 8
    assert PATH.stat().st_size < 1_000_000


def test_it_needs_nothing_but_numpy_pillow_and_the_book(notebook):
    tree = ast.parse("\n".join(source(cell) for cell in code(notebook)))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module.split(".")[0])
    assert found - sys.stdlib_module_names == {"IPython", "PIL", "numpy", "nstcore"}


def test_its_links_lead_somewhere(notebook):
    text = "\n".join(source(cell) for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    links = re.findall(r"\]\(([^)#]+)\)", text)
    assert links
    assert [link for link in links if not (PATH.parent / link).exists()] == []


@runs
@pytest.mark.slow
def test_it_runs_afresh_and_says_what_is_stored_in_it(notebook, execute):
    """Words to the letter; numbers to 5 %, or one unit of their last place: Adam makes something of a rounding."""
    stored = code(notebook)
    done, again = execute(notebook)
    assert done.returncode == 0, done.stderr[-4000:]
    for before, after in zip(stored, code(again), strict=True):
        name, old, new = before["id"], printed(before), printed(after)
        assert NUMBER.sub("#", new) == NUMBER.sub("#", old), name
        for a, b in zip(NUMBER.findall(old), NUMBER.findall(new), strict=True):
            last = 10.0 ** -len(a.partition(".")[2])
            assert float(b) == pytest.approx(float(a), rel=0.05, abs=1.01 * last), (name, old, new)
        assert pictures(after) == pictures(before), name


@runs
@pytest.mark.slow
def test_it_fails_where_a_gradient_is_wrong(notebook, execute):
    """The same cells up to the gradient check, with a book whose Gram matrix has lost a term on the way back."""
    names = [cell["id"] for cell in notebook["cells"]]
    notebook["cells"] = notebook["cells"][: names.index("check") + 1]
    imports = next(cell for cell in code(notebook) if cell["id"] == "imports")
    imports["source"] = [*imports["source"], "\nops.gram_backward = lambda dG, F: dG @ F\n"]
    done, _ = execute(notebook)
    assert done.returncode != 0
    assert "AssertionError" in done.stderr
    assert "Gram matrix" in done.stderr
