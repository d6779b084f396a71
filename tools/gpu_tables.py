"""The tables of tools/gpu_check.py, from its results alone."""

from __future__ import annotations

import re
import textwrap
from typing import Any

from bench_common import Report, median, milliseconds

TILES = (
    "Each pass of VGG19's convolutions on tensor cores, with the pooling above it where that is said: what was fastest "
    "of all tiles, parts and rungs that compute the same (tools/tune_tiles.py), beside what the built-in rule takes. "
    "Medians, by CUDA events."
)
TABLES = ("rungs", "step")  # <!-- gpu:rungs --> and so on: VGG's, and below it that of one-pass networks


def tables(found: dict[str, Any]) -> dict[str, str]:
    """What stands between each pair of markers."""
    m = found["machine"]
    at = f" at commit {found['commit']}" if found["commit"] else ""
    parts = ("driver {driver}", "CUDA {cuda}", "CuPy {cupy}", "{nvrtc}", "PyTorch {torch}", "Python {python}")
    on = [part.format(**m) for part in parts if re.findall(r"{(\w+)}", part)[0] in m]
    how = f"`{found['command']}`{at}, on {m['gpu']}: {', '.join(on)}."
    copy = f"A copy in memory ran at {found['peaks']['copy'] / 1e12:.2f} TB/s, read and written."
    left_out = f" Left out: {'; '.join(found['left_out'])}." if found["left_out"] else ""
    peaks, peaks_from = peaks_of(found)
    parts = [
        ("rungs", "rungs", f"Medians, by CUDA events. {peaks_from} {copy}", rung_table(found, peaks)),
        ("rungs", "layers", f"{layer_notes(found)} {peaks_from} {copy}", layer_table(found, peaks)),
        ("rungs", "tiles", TILES, tile_table(found)),
        ("step", "steps", step_notes(found), step_table(found)),
        ("step", "passes", f"{pass_notes(found, peaks)} {peaks_from} {copy}", pass_table(found, peaks)),
    ]
    sections: dict[str, list[str]] = {}
    for section, part, notes, table in parts:
        if found.get(part):
            text = textwrap.fill(f"{how} {notes}{left_out}", 120, break_long_words=False, break_on_hyphens=False)
            sections.setdefault(section, []).append(f"{text}\n\n{table}\n")
    return {section: "\n".join(texts) for section, texts in sections.items()}


def peaks_of(found: dict[str, Any]) -> tuple[dict[str, float], str]:
    """FLOP/s by precision and bytes/s of a copy, and where they are from."""
    peaks, words = dict(found["peaks"]), "The peak of a precision: the fastest large matrix product of PyTorch"
    if "float32" not in peaks:
        words = "Without PyTorch, the peak of a precision is the fastest of our own kernels"
        for row in found["rungs"] + found.get("layers", []):
            rate, name = row["operations"] / median(row["seconds"]), row.get("precision", "float32")
            peaks[name] = max(rate, peaks.get(name, 0.0))
    names = [f"{name} {peak / 1e12:.1f}" for name, peak in peaks.items() if name != "copy"]
    if not names:
        return peaks, "No peak of arithmetic was measured: a floor is of memory alone."
    return peaks, f"{words}; TFLOP/s: {', '.join(names)}."


def rung_table(found: dict[str, Any], peaks: dict[str, float]) -> str:
    rates = [(row, row["operations"] / median(row["seconds"])) for row in found["rungs"]]
    report = Report(("layer", "C", "K", "positions", "rung", "precision", "pass", "ms", "TFLOP/s", "share of peak"))
    for row, rate in rates:
        share = f"{100 * rate / peaks[row['precision']]:.0f} %"
        shape = (row["layer"], str(row["C"]), str(row["K"]), f"{row['side']}x{row['side']}")
        time_of = milliseconds(median(row["seconds"]))
        report.rows.append(
            (*shape, f"conv3x3/{row['rung']}", row["precision"], row["pass"], time_of, f"{rate / 1e12:.2f}", share)
        )
    return report.markdown()


def floor(operations: int, moved: int, peaks: dict[str, float]) -> float:
    """Seconds that the GPU needs for float32 operations or for bytes, whichever is longer."""
    arithmetic = operations / peaks["float32"] if "float32" in peaks else 0.0
    return max(arithmetic, moved / peaks["copy"])


def layer_notes(found: dict[str, Any]) -> str:
    return (
        "Layers of networks that paint in one pass, float32, each verified against the book in float64; medians, by "
        "CUDA events, of calls as a network makes them, with the memory of their results. The floor: the longer of "
        "the times that the operations take at the peak of float32 and the bytes at that of a copy."
    )


def layer_table(found: dict[str, Any], peaks: dict[str, float]) -> str:
    report = Report(("layer", "rung", "pass", "us", "floor, us", "share of floor", "TFLOP/s", "GB/s"))
    for row in found.get("layers", []):
        middle, least = median(row["seconds"]), floor(row["operations"], row["bytes"], peaks)
        times = f"{1e6 * middle:.1f}", f"{1e6 * least:.1f}", f"{100 * least / middle:.0f} %"
        rates = f"{row['operations'] / middle / 1e12:.2f}", f"{row['bytes'] / middle / 1e9:.0f}"
        report.rows.append((row["layer"], row["rung"], row["pass"], *times, *rates))
    return report.markdown()


def pass_notes(found: dict[str, Any], peaks: dict[str, float]) -> str:
    """How a pass was measured, and the floor of each size."""
    floors = []
    for size, layers in {row["size"]: row["layers"] for row in found.get("passes", [])}.items():
        operations, moved = (sum(column) for column in zip(*layers, strict=True))
        least = sum(floor(*layer, peaks) for layer in layers)
        amounts = f"{operations / 1e9:.2f} GFLOP, {moved / 1e9:.3f} GB"
        floors.append(f"{size}x{size} {amounts}, {1e3 * least:.3f} ms at least")
    names = ", ".join(sorted({row["weights"] for row in found.get("passes", [])}))
    return (
        f"A picture painted by {names}, from the GPU's memory to it, interleaved; medians, by the wall clock. The "
        f"floor, layer by layer: {'; '.join(floors)}."
    )


def pass_table(found: dict[str, Any], peaks: dict[str, float]) -> str:
    rows = found.get("passes", [])
    own = {row["size"]: median(row["seconds"]) for row in rows if row["form"] == "nstcore float32"}
    names = ("size", "form", "median, ms", "fastest, ms", "peak memory, MB", "share of floor", "relative to nstcore")
    report = Report(names)
    for row in rows:
        middle, least = median(row["seconds"]), sum(floor(*layer, peaks) for layer in row["layers"])
        memory = "-" if row["bytes"] is None else f"{row['bytes'] / 1e6:.0f}"
        times = milliseconds(middle), milliseconds(min(row["seconds"]))
        ratio = f"{middle / own[row['size']]:.2f}" if row["size"] in own else "-"
        form = f"{row['size']}x{row['size']}", row["form"]
        report.rows.append((*form, *times, memory, f"{100 * least / middle:.0f} %", ratio))
    return report.markdown()


def tile_table(found: dict[str, Any]) -> str:
    report = Report(("pass", "positions", "precision", "fastest", "us", "by the rule, us", "times as fast"))
    for line in found.get("tiles", []):
        shape = f"{line['inputs']}-{line['outputs']}" + (" and pooling" if line["pooled"] else "")
        taken, rule = line["microseconds"], line["rule_microseconds"]
        beside = ("-", "-") if rule is None else (f"{rule:.1f}", f"{rule / taken:.2f}")
        fastest = min(line["tried"], key=line["tried"].__getitem__)
        report.rows.append((shape, str(line["positions"]), line["precision"], fastest, f"{taken:.1f}", *beside))
    return report.markdown()


def step_notes(found: dict[str, Any]) -> str:
    problems = f" {'; '.join(found['problems'])}." if found["problems"] else ""
    return (
        "A step of a run: loss and gradient with respect to the pixels, Adam's update and the average of the iterates; "
        "at a learning rate that moves no pixel, interleaved. Medians, by the wall clock, until the step's loss is "
        "there. Forms with a rung of their own, and those with measured tiles, ran one after the other in processes of "
        "their own. In float16 PyTorch's loss is multiplied by one number and the gradient not divided by it again. "
        f"Memory: all that a form holds of the GPU's, filters and targets too. Weights: {found['weights']}.{problems}"
    )


def step_table(found: dict[str, Any]) -> str:
    own = {row["size"]: median(row["seconds"]) for row in found["steps"] if row["form"] == "nstcore tf32"}
    report = Report(("size", "form", "median, ms", "fastest, ms", "peak memory, MB", "relative to nstcore tf32"))
    for row in found["steps"]:
        middle = median(row["seconds"])
        memory = "-" if row["bytes"] is None else f"{row['bytes'] / 1e6:.0f}"
        ratio = f"{middle / own[row['size']]:.2f}" if row["size"] in own else "-"
        times = milliseconds(middle), milliseconds(min(row["seconds"]))
        report.rows.append((f"{row['size']}x{row['size']}", row["form"], *times, memory, ratio))
    return report.markdown()
