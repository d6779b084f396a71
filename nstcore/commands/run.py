"""`run`: paint a content picture in the manner of a style picture."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import INTERRUPTED, OptionError, RunError
from .progress import Progress, show_step

if TYPE_CHECKING:
    from ..objective import Objective
    from ..pretrained import Weights
    from ..transfer import Step

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
# The example pair is a first look: it should be there within two minutes on a small laptop.
EXAMPLE_SIZE, EXAMPLE_ITERATIONS = 384, 150
SIZE, ITERATIONS = 512, 300


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register `run`."""
    parser = subparsers.add_parser(
        "run",
        help="paint a content picture in the manner of a style picture",
        description="Paint CONTENT in the manner of STYLE. Without pictures: the example pair.",
    )
    parser.set_defaults(run=run)
    add = parser.add_argument
    add("content", nargs="?", metavar="CONTENT", help="what is painted")
    add("style", nargs="*", metavar="STYLE", help="how it is painted; of several styles, the mean")
    add("-o", "--output", metavar="FILE", help="PNG, JPEG, WebP or TIFF (default: CONTENT-STYLE.png, a new name)")

    picture = parser.add_argument_group("picture")
    add = picture.add_argument
    add("--size", metavar="PIXELS", help=f"long side, or 'content' to keep the content's (default: {SIZE})")
    add(
        "--init",
        default="content",
        metavar="WHAT",
        help="content, noise, style, gray, or a picture file (default: content)",
    )
    add("--seed", type=int, default=0, metavar="N", help="of the noise (default: 0)")

    loss = parser.add_argument_group("loss")
    add = loss.add_argument
    add(
        "--convention",
        default="relative",
        metavar="NAME",
        help="relative, gatys2016, gatys-code or johnson (default: relative)",
    )
    add("--content-weight", type=float, metavar="W", help="(default: the convention's; relative: 1)")
    add("--style-weight", type=float, metavar="W", help="(default: the convention's; relative: 10)")
    add("--tv-weight", type=float, metavar="W", help="total variation (default: the convention's; relative: 0.5)")
    add("--content-layers", metavar="LAYERS", help="such as relu4_2, or relu3_1=0.5,relu4_2=1 (default: relu4_2)")
    add("--style-layers", metavar="LAYERS", help="likewise (default: relu1_1,relu2_1,relu3_1,relu4_1,relu5_1)")
    add("--pooling", metavar="KIND", help="max, average or l2 (default: the weights' own)")
    add("--equivalents", action="store_true", help="also print the weights that mean the same in other conventions")

    optimizer = parser.add_argument_group("optimizer")
    add = optimizer.add_argument
    add("--optimizer", default="adam", metavar="NAME", help="adam or lbfgs (default: adam)")
    add("--iterations", type=int, metavar="N", help=f"evaluations of loss and gradient (default: {ITERATIONS})")
    add(
        "--learning-rate",
        type=float,
        default=0.02,
        metavar="STEP",
        help="of adam, for pixels in [0, 1] (default: 0.02)",
    )
    add("--history", type=int, default=20, metavar="N", help="of lbfgs: pairs that it remembers (default: 20)")

    machine = parser.add_argument_group("machine")
    add = machine.add_argument
    add(
        "--weights",
        default="auto",
        metavar="NAME|FILE",
        help="auto (VGG19 from the cache, else downloaded, else builtin), builtin, a name of `weights list`, or a "
        "converted file (default: auto)",
    )
    add("--offline", action="store_true", help="never download weights, as NSTCORE_OFFLINE=1 (default: do)")
    add(
        "--device",
        default="auto",
        metavar="NAME",
        help="auto (a GPU, else the CPU), cpu, cuda, reference (the book), or cuda-on-cpu (the GPU's kernels on the "
        "CPU: slow, for study and tests) (default: auto)",
    )
    add(
        "--precision",
        metavar="TYPE",
        help="float32; float64 on the CPU; tf32, float16 or bfloat16 on a GPU (default: tf32 on a GPU, else float32)",
    )
    add("--threads", type=int, metavar="N", help="(default: all cores)")
    add("--save-every", type=int, metavar="N", help="also save the picture every N iterations, numbered")
    add("--quiet", action="store_true", help="print nothing but errors")


def run(args: argparse.Namespace) -> int:
    """Paint, save, and say what was done; returns the exit code."""
    from .. import engines, images, transfer

    say = _silent if args.quiet else print
    content, styles, example = _pictures(args)
    output = Path(args.output) if args.output is not None else _new_name(content, styles[0])
    iterations = args.iterations if args.iterations is not None else EXAMPLE_ITERATIONS if example else ITERATIONS
    if args.save_every is not None and args.save_every < 1:
        raise OptionError(f"--save-every: expected 1 or more, got {args.save_every}")
    images.check_output(output)
    engine = engines.create(args.device, args.precision, args.threads)
    if example:
        say(f"The example pair: {content}, {styles[0]}")
    weights = _load_weights(args, say)

    with Progress("it", quiet=args.quiet) as progress:

        def on_start(objective: Objective) -> None:
            _announce(objective, args.equivalents, say)
            if notice := objective.engine.notice:
                progress.say(f"nstcore: {notice}")

        def on_step(step: Step) -> None:
            show_step(progress, step)
            if args.save_every and 0 < step.iteration < iterations and step.iteration % args.save_every == 0:
                images.write_picture(_numbered(output, step.iteration, iterations), step.pixels())

        try:
            result = transfer.stylize(
                content,
                styles,
                weights=weights,
                size=_size(args.size, EXAMPLE_SIZE if example else SIZE),
                iterations=iterations,
                optimizer=args.optimizer,
                learning_rate=args.learning_rate,
                history=args.history,
                init=args.init,
                seed=args.seed,
                engine=engine,
                on_start=on_start,
                on_step=on_step,
                content_layers=_layers("--content-layers", args.content_layers),
                style_layers=_layers("--style-layers", args.style_layers),
                content_weight=args.content_weight,
                style_weight=args.style_weight,
                tv_weight=args.tv_weight,
                convention=args.convention,
                pooling=args.pooling,
            )
        except transfer.FailedRun as error:
            if error.result is None:
                raise
            error.result.save(output)
            raise RunError(f"{error}; the best picture before is in {output}") from error
    result.save(output)
    if result.interrupted:
        print(f"nstcore: interrupted; the best picture so far is in {output}", file=sys.stderr)
        return INTERRUPTED
    height, width = result.pixels.shape[1:]
    say(f"{output}: {width}x{height}, {len(result.losses) - 1} iterations in {result.seconds:.1f} s, {result.status}")
    return 0


def _silent(_: str) -> None:
    """In place of print."""


def _pictures(args: argparse.Namespace) -> tuple[Path, list[Path], bool]:
    """Content, styles, and whether they are the example pair."""
    if args.content is None:
        return EXAMPLES / "content.jpg", [EXAMPLES / "style.jpg"], True
    if not args.style:
        raise OptionError(
            "run: expected CONTENT and at least one STYLE, got only CONTENT; or none for the example pair"
        )
    return Path(args.content), [Path(s) for s in args.style], False


def _load_weights(args: argparse.Namespace, say: Callable[[str], None]) -> Weights:
    from ..pretrained import builtin_notice, load_weights

    failures: list[str] = []
    with Progress("B", "vgg19" if args.weights == "auto" else args.weights, args.quiet) as progress:
        weights = load_weights(
            args.weights,
            download=not args.offline,
            progress=progress,
            on_failure=lambda error: failures.append(str(error)),
        )
    if args.weights == "auto" and weights.name == "builtin":
        say(builtin_notice(*failures))
    return weights


def _announce(objective: Objective, equivalents: bool, say: Callable[[str], None]) -> None:
    """What is about to be computed, with what."""
    from ..conventions import CONVENTIONS

    settings = objective.settings()
    say(f"weights: {objective.weights.describe()}")
    say(f"engine: {objective.engine.describe()}")
    say(f"convention {objective.convention.name}: {objective.convention.formula()}")
    for kind in ("content", "style"):
        layers = ", ".join(f"{layer}={w:g}" for layer, w in settings[f"{kind}_layers"].items()) or "none"
        say(f"{kind} weight {settings[f'{kind}_weight']:g} on {layers}")
    if equivalents:
        for name in CONVENTIONS:
            same = objective.equivalent(name)
            say(f"the same as --convention {name} {_as_options(same)}")


def _as_options(same: dict[str, Any]) -> str:
    """What `Objective.equivalent` found, as options of this command; a term of weight 0 needs no layers."""
    words = []
    for kind in ("content", "style"):
        words.append(f"--{kind}-weight {same[f'{kind}_weight']:.6g}")
        if layers := ",".join(f"{layer}={w:.6g}" for layer, w in same[f"{kind}_layers"].items()):
            words.append(f"--{kind}-layers {layers}")
    return " ".join([*words, f"--tv-weight {same['tv_weight']:.6g}"])


def _new_name(content: Path, style: Path) -> Path:
    """A name in this folder that no file has: an earlier picture is never overwritten unasked."""
    stem = f"{content.stem}-{style.stem}"
    names = (Path(f"{stem}.png"), *(Path(f"{stem}-{i}.png") for i in range(2, 10_000)))
    return next(name for name in names if not name.exists())


def _numbered(output: Path, iteration: int, iterations: int) -> Path:
    return output.with_name(f"{output.stem}_{iteration:0{len(str(iterations))}}{output.suffix}")


def _size(text: str | None, default: int) -> int | str:
    if text is None:
        return default
    if text == "content":
        return text
    try:
        return int(text)
    except ValueError:
        raise OptionError(f"--size: expected a number of pixels or 'content', got {text!r}") from None


def _layers(option: str, text: str | None) -> dict[str, float] | tuple[str, ...] | None:
    """relu4_2  or  relu3_1=0.5,relu4_2=1: names alone take the convention's own weight."""
    if text is None:
        return None
    pairs = [part.strip().partition("=") for part in text.split(",")]
    if any(not name for name, _, _ in pairs):
        raise OptionError(f"{option}: expected layers such as relu3_1=0.5,relu4_2=1, got {text!r}")
    if not any(equals for _, equals, _ in pairs):
        return tuple(name for name, _, _ in pairs)
    try:
        return {name: float(value) if equals else 1.0 for name, equals, value in pairs}
    except ValueError:
        raise OptionError(f"{option}: expected a number after each '=', got {text!r}") from None
