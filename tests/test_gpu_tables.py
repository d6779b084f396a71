"""The tables of what was measured on a GPU, and the tiles that go where the engine finds them: from results alone."""

from __future__ import annotations

import json

import gpu_check
import pytest
from gpu_results import results

from nstcore.engines.cuda import tiles
from nstcore.engines.cuda.precision import PRECISIONS

MARKED = """# Title

<!-- gpu:rungs -->
stale table
<!-- /gpu:rungs -->

<!-- gpu:step -->
<!-- /gpu:step -->

After.
"""


# -- tables ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results()))
    return path


def test_tables_are_printed_and_written_from_results_alone(written, tmp_path, capsys):
    readme = tmp_path / "README.md"
    readme.write_text(MARKED)
    assert gpu_check.main(["--print", str(written), "--write", str(readme)]) == 0
    printed = capsys.readouterr().out
    for row in (
        "| conv3_2 | 256 | 256 | 128x128 | conv3x3/03_register_tile | float32 | forward | 100 | 20.00 | 40 % |",
        "| conv3_2 | 256 | 256 | 128x128 | conv3x3/05_tensor_core_tf32 | tf32 | forward | 10.0 | 200.00 | 50 % |",
        "| 256x256 | nstcore tf32 | 3.00 | 2.00 | 123 | 1.00 |",
        "| 256x256 | PyTorch eager | 6.00 | 6.00 | 2000 | 2.00 |",
        "| depthwise 64x64 positions | depthwise/01_direct | forward | 5.0 | 2.0 | 40 % | 10.00 | 1680 |",
        "| 512x512 | nstcore float32 | 1.00 | 1.00 | 50 | 20 % | 1.00 |",
        "| 512x512 | PyTorch eager | 2.00 | 2.00 | 80 | 10 % | 2.00 |",
    ):
        assert row in printed
        assert row in readme.read_text()
    prose = " ".join(printed.split())
    assert "at commit 0123abc, on NVIDIA Test: driver 1.2, CUDA 13.0, CuPy 14.2, PyTorch 2, Python 3.12." in prose
    assert "Left out: the step at 2048x2048" in prose
    assert "4.20 TB/s" in prose
    # Each layer by itself: the first by its arithmetic, the second by its bytes
    assert "512x512 5.50 GFLOP, 0.462 GB, 0.200 ms at least" in prose
    assert readme.read_text().startswith("# Title")
    assert readme.read_text().endswith("After.\n")
    assert "stale table" not in readme.read_text()


def test_without_pytorch_shares_are_of_our_fastest_kernel(written, capsys):
    written.write_text(json.dumps(results(peaks={"copy": 4e12})))
    assert gpu_check.main(["--print", str(written)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "fastest of our own kernels; TFLOP/s: float32 20.0, tf32 200.0." in printed
    assert "| 20.00 | 100 % |" in printed


def test_parts_that_were_not_measured_have_no_table(written, capsys):
    written.write_text(json.dumps(results(peaks={"copy": 4.2e12}, rungs=[], layers=[], steps=[])))
    assert gpu_check.main(["--print", str(written)]) == 0
    prose, table, _ = capsys.readouterr().out.split("\n\n")
    assert table.startswith("| size | form | median, ms | fastest, ms | peak memory, MB | share of floor | relative")
    assert "0.110 ms at least. No peak of arithmetic was measured: a floor is of memory" in " ".join(prose.split())
    args = gpu_check.parser().parse_args(["--parts", "layers,passes", "--sizes", "256"])
    assert "--parts layers,passes" in gpu_check.command_line(args)


def test_what_disagreed_stands_above_the_table(written, capsys):
    written.write_text(json.dumps(results(problems=["nstcore float16 at 64x64: expected the loss 1"])))
    assert gpu_check.main(["--print", str(written)]) == 0
    assert "zero border. nstcore float16 at 64x64: expected the loss 1." in " ".join(capsys.readouterr().out.split())


# -- measured tiles ----------------------------------------------------------------------------------------------------

FORM = {name: f"nstcore {name}, measured tiles" for name in ("tf32", "float16")}


def line_of(precision, rung, tile):
    key = {"architecture": 90, "precision": precision, "inputs": 64, "outputs": 64, "positions": 65536}
    tried = {"64x64": 12.5, "the other": 5.0}
    times = {"microseconds": 5.0, "rule_microseconds": 12.5 if precision == "tf32" else None, "tried": tried}
    return key | {"pooled": False, "tile": tile, "parts": 1, "rung": rung} | times


def measured(**changes):
    lines = [line_of("tf32", tiles.HALO_TILE, [256, 64]), line_of("float16", tiles.BOXES, [256, 64])]
    step = {"size": 256, "seconds": [0.001], "bytes": 1, "loss": 1.0}
    return results(tiles=lines, steps=[step | {"form": form} for form in FORM.values()]) | changes


def written_tiles(tmp_path, found):
    """The exit code, and what stands in the file."""
    path, table = tmp_path / "measured.json", tmp_path / "tiles.json"
    path.write_text(json.dumps(found))
    code = gpu_check.main(["--print", str(path), "--write-tiles", str(table)])
    return code, json.loads(table.read_bytes()) if table.exists() else None


def test_measured_tiles_stand_in_a_table_and_go_where_the_engine_finds_them(tmp_path, monkeypatch, capsys):
    code, found = written_tiles(tmp_path, measured())
    assert code == 0
    printed = capsys.readouterr().out
    assert "| 64-64 | 65536 | tf32 | the other | 5.0 | 12.5 | 2.50 |" in printed
    assert "| 64-64 | 65536 | float16 | the other | 5.0 | - | - |" in printed
    assert found["made"] == "python tools/gpu_check.py --sizes 256 --rounds 3, commit 0123abc, NVIDIA Test"
    monkeypatch.setattr(tiles, "file", lambda: tmp_path / "tiles.json")
    chosen = tiles.chosen(tiles.Pass(64, 64, 256, 256, PRECISIONS["float16"]))
    assert chosen == tiles.Choice((256, 64), rung=tiles.BOXES)


@pytest.mark.parametrize(
    ("changes", "precisions"),
    [
        ({"problems": [f"{FORM['float16']} at 256x256: expected the loss 1"]}, {"tf32"}),
        ({"problems": [f"{FORM['tf32']} at 512x512: expected a step, got none: it hangs"]}, {"float16"}),
        ({"problems": ["nstcore tf32 at 256x256: expected the loss 1"]}, {"tf32", "float16"}),
        ({"steps": []}, None),
        ({"tiles": []}, None),
        ({"tests": {"exit": 1, "summary": "1 failed", "seconds": 1.0}}, None),
        ({"tests": {}}, {"tf32", "float16"}),
    ],
)
def test_only_tiles_by_which_whole_steps_have_the_right_loss_are_written(tmp_path, capsys, changes, precisions):
    code, found = written_tiles(tmp_path, measured(**changes))
    if precisions is None:
        assert (code, found) == (2, None)
        assert capsys.readouterr().err.count("\n") == 1
    else:
        assert code == 0
        assert {line["precision"] for line in found["layers"]} == precisions


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"machine": 1}', "\x00"])
def test_other_files_are_no_results(tmp_path, capsys, content):
    path = tmp_path / "results.json"
    if content is not None:
        path.write_text(content)
    assert gpu_check.main(["--print", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "expected results of tools/gpu_check.py --out" in error
