"""The house: imports only go down, files stay readable, nothing foreign at the top."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGE = ROOT / "nstcore"
FLOORS = (
    ("version", "errors"),
    ("files",),
    ("lock", "disk"),
    ("ops", "optim", "images", "vgg", "conventions"),
    ("pretrained",),
    ("engines",),
    ("objective", "normalize", "fast"),
    ("transfer",),
    ("report", "bench", "checks", "studies", "topics"),
    ("commands",),
    ("cli",),
    ("__init__", "__main__"),
)
FLOOR = {name: i for i, names in enumerate(FLOORS) for name in names}
MODULES = sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    """The first name below the package: ops for nstcore/ops/conv.py."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@functools.cache
def imports(path: Path) -> list[ast.Import | ast.ImportFrom]:
    """Every one of the file, wherever it stands."""
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)]


def imported(path: Path):
    """(room, line) of every import from within the package, wherever in the file it stands."""
    package = ["nstcore", *path.relative_to(PACKAGE).parts[:-1]]
    for node in imports(path):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            full = [*base, *(node.module.split(".") if node.module else [])]
            if full[:1] == ["nstcore"]:
                yield from ((full[1], node.lineno) if full[1:] else (a.name, node.lineno) for a in node.names)
        else:
            yield from ((a.name.split(".")[1], node.lineno) for a in node.names if a.name.startswith("nstcore."))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_only_go_down(path):
    here = room(path)
    for there, line in imported(path):
        if there in ("__version__",):
            continue
        assert there in FLOOR, f"{path}:{line}: {there} is on no floor"
        allowed = there == here or FLOOR[there] < FLOOR[here]
        assert allowed, f"{path}:{line}: {here} must not import {there}"


def test_a_new_room_gets_a_floor():
    rooms = {room(p) for p in MODULES}
    assert rooms <= FLOOR.keys()


@pytest.mark.parametrize("library", ["torch", "tensorflow", "cupy", "scipy"])
def test_no_framework_is_imported(library):
    """CuPy is the one exception, in the one file that speaks to a GPU."""
    for path in MODULES:
        if library == "cupy" and path == PACKAGE / "engines" / "cuda" / "gpu.py":
            continue
        for node in imports(path):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            assert not any(n.split(".")[0] == library for n in names), path


def test_help_imports_nothing_heavy():
    code = "import sys, nstcore.cli; nstcore.cli.parser(); print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"numpy", "h5py", "PIL", "tqdm"} & set(done.stdout.split())


def test_the_public_names_exist():
    import nstcore

    for name in nstcore.__all__:
        assert getattr(nstcore, name) is not None
    assert dir(nstcore) == sorted(nstcore.__all__)  # what a shell completes
    with pytest.raises(AttributeError, match="painter"):
        _ = nstcore.painter


def sources():
    return [p for folder in ("nstcore", "kernels", "tools", "tests") for p in (ROOT / folder).rglob("*.py")]


def test_no_file_is_much_over_400_lines():
    long = {str(p.relative_to(ROOT)): n for p in sources() if (n := len(p.read_text().splitlines())) > 410}
    assert not long


def test_every_module_says_what_it_is():
    docstring = re.compile(r'(#.*\n|\s)*"""\s*[^"\s]')  # nothing but comments before it
    missing = [p for p in sources() if not docstring.match(p.read_text())]
    assert not missing


def test_every_public_function_has_a_docstring():
    missing = []
    for path in MODULES:
        for node in ast.parse(path.read_text()).body:
            public = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
            if public and not ast.get_docstring(node):
                missing.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
    assert not missing


def test_nothing_runs_what_a_file_says():
    """No unpickling, no shell, no evaluated text: not in the package, not in the tools."""
    for path in [*MODULES, *sorted((PACKAGE.parent / "tools").glob("*.py"))]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
                assert not {"pickle", "shelve", "marshal", "dill", "joblib"} & set(names), f"{path}:{node.lineno}"
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("eval", "exec", "os.system", "os.popen"), f"{path}:{node.lineno}"
                loads = {k.arg: ast.unparse(k.value) for k in node.keywords}
                assert loads.get("shell", "False") == "False", f"{path}:{node.lineno}"
                assert called.split(".")[-1] not in ("load", "loads") or loads.get("allow_pickle", "False") == "False"
