"""Peak memory of a short run: weights loaded, targets computed, a few steps of Adam on the pixels.

Each form has a process of its own, this file as a script: it prints its figures as JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench_common import Report, about, pictures, planes, torch_or_none, weights_for

from nstcore import Objective, minimize_adam
from nstcore.errors import RunError

FORMS = {"nstcore": "nstcore", "NCHW": "PyTorch eager, NCHW", "channels_last": "PyTorch eager, channels_last"}
STEPS = 3


def peak() -> int:
    """The largest resident set of this process so far, in bytes.

    ru_maxrss alone would not do on Linux: a process begins with the peak of the one that started it.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << (0 if sys.platform == "darwin" else 10)


def memory_report(weights: str | None, sizes: list[int], threads: int) -> Report:
    """Peaks of every form at every size; `weights` as on the command line."""
    report = Report(("size", "form", "peak RSS, MB", "before the run, MB", "relative to PyTorch's better"))
    report.notes += about(weights_for(weights))
    forms = list(FORMS) if torch_or_none() else ["nstcore"]
    for size in sizes:
        found = {form: measure(form, size, weights, threads) for form in forms}
        better = min((whole for form, (whole, _) in found.items() if form != "nstcore"), default=None)
        for form, (whole, before) in found.items():
            ratio = "-" if better is None else f"{whole / better:.2f}"
            report.rows.append((f"{size}x{size}", FORMS[form], f"{whole / 1e6:.0f}", f"{before / 1e6:.0f}", ratio))
    report.notes.append(
        f"A process each: weights, targets and {STEPS} evaluations of Adam; the interpreter and its libraries included"
    )
    return report


def measure(form: str, size: int, weights: str | None, threads: int) -> tuple[int, int]:
    """(peak, peak before anything was loaded) of a fresh process, in bytes.

    Raises
    ------
    RunError
        If it does not end well.
    """
    command = [sys.executable, __file__, form, str(size), str(threads), *([weights] if weights else [])]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = next(reversed(done.stderr.splitlines()), "nothing on stderr")
        raise RunError(f"{FORMS[form]} at {size}x{size}: exit {done.returncode}, {last}")
    figures = json.loads(done.stdout)
    return figures["peak"], figures["before"]


def run_nstcore(size: int, threads: int, name: str | None) -> int:
    """The run in nstcore; returns the peak before it."""
    before = peak()
    content, style, start = pictures(size)
    objective = Objective(weights_for(name), content, style, device="cpu", threads=threads)

    def f(x: np.ndarray) -> tuple[float, np.ndarray]:
        terms, gradient = objective(x)
        return terms.total, gradient

    minimize_adam(f, planes(start), max_evaluations=STEPS, bounds=(0, 1), vectors=objective.engine.vectors)
    return before


def run_torch(size: int, threads: int, name: str | None, channels_last: bool) -> int:
    """The same in PyTorch."""
    import torch
    from torch_peer import TorchPeer

    before = peak()
    torch.set_num_threads(threads)
    content, style, start = pictures(size)
    weights = weights_for(name)
    peer = TorchPeer(weights, content, style, weights.pooling, channels_last=channels_last)
    del weights
    x = peer.tensor(start).requires_grad_()
    adam = torch.optim.Adam([x], lr=0.02, betas=(0.9, 0.99))
    for _ in range(STEPS):
        adam.zero_grad()
        peer.loss(x).backward()
        adam.step()
        with torch.no_grad():
            x.clamp_(0, 1)
    return before


def parser() -> argparse.ArgumentParser:
    """The command line of one form."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("form", choices=FORMS)
    found.add_argument("size", type=int, help="long side in pixels")
    found.add_argument("threads", type=int)
    found.add_argument("weights", nargs="?", help="name or file (default: random ones)")
    return found


def main(arguments: list[str] | None = None) -> None:
    args = parser().parse_args(arguments)
    if args.form == "nstcore":
        before = run_nstcore(args.size, args.threads, args.weights)
    else:
        before = run_torch(args.size, args.threads, args.weights, args.form == "channels_last")
    print(json.dumps({"peak": peak(), "before": before}))


if __name__ == "__main__":
    main()
