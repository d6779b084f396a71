"""The operations, the rungs of each on the CPU and on a GPU, and which one a name means.

The GPU's rungs are the files of kernels/cuda and have their numbers: 01_naive, 02_shared_tile. Those of the CPU are
cpu0_book, cpu1_im2col and so on, so that a number alone, as in `--rung 02`, means the same on every machine.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..engines.cpu import library, winograd
from ..engines.cuda import gpu, source
from ..engines.cuda.precision import FLOAT32, PRECISIONS
from ..engines.cuda.variants import own_architecture
from ..errors import OptionError
from . import cuda, native
from .forms import BETWEEN, BOOK, NATIVE, VECTORS, Form
from .problems import Problem, Size
from .runs import Machine, Runs

DEVICES = ("auto", "cpu", "cuda", "cuda-on-cpu")
F2_MATRICES = (  # of kernels/cuda/conv3x3/04_winograd.cu: B^T, G, A^T
    np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]]),
    np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]]),
    np.array([[1, 1, 1, 0], [0, 1, -1, -1]]),
)


@dataclass(frozen=True)
class Operation:
    """One operation.

    Attributes
    ----------
    name : str
    title : str
    options : tuple of str
        Which of "size", "channels", "filters", "kernel", "stride", "upsample" it takes.
    size : Size
        To measure, unless told otherwise: a layer or a picture of ordinary size.
    files : tuple of str
        Its rungs in kernels/cuda.
    """

    name: str
    title: str
    options: tuple[str, ...]
    size: Size
    files: tuple[str, ...]


@dataclass(frozen=True)
class Rung:
    """One form of one operation.

    Attributes
    ----------
    operation, name : str
    device : {"cpu", "cuda"}
    adds : str
        What it adds, and over which rung.
    code : str
        The file.
    make : function of (Problem, Machine)
        The rung ready to go: a `Run` for each pass that it has.
    precisions : tuple of str
        Those that it has, the one that it is for first.
    enlarges : float
        By how much its transforms enlarge the roundings of a sum.
    instructions : str
        The instruction set that it needs; "" for any.
    napkin : str
        What the file's head has to say of its arithmetic.
    """

    operation: str
    name: str
    device: str
    adds: str
    code: str
    make: Callable[[Problem, Machine], Runs]
    precisions: tuple[str, ...] = (FLOAT32.name,)
    enlarges: float = 1.0
    instructions: str = ""
    napkin: str = ""

    @property
    def number(self) -> int:
        """2 of cpu2_winograd and of 02_shared_tile."""
        return int(self.name.partition("_")[0].removeprefix("cpu"))

    def refusal(self, size: Size, precision: str | None, machine: Machine) -> str | None:
        """Why it cannot run there, in that precision; None where it can."""
        if precision is not None and precision not in self.precisions:
            return f"it has {', '.join(self.precisions)}, not {precision}"
        if self.device == "cuda":
            assert machine.device is not None
            needed = max(PRECISIONS[precision or self.precisions[0]].architecture, source.read(self.file).architecture)
            have = machine.device.architecture
            if have < needed:
                return f"it needs a GPU of sm_{needed} or later, this is sm_{have}"
            if (only := own_architecture(source.read(self.file))) not in (None, have):
                return f"it needs a GPU of sm_{only}, this is sm_{have}"
            needs = cuda.refusal(self.operation, self.name, size, precision or self.precisions[0])
            return needs and f"it needs {needs}"
        if not self.instructions:
            return None
        if self.instructions not in library.available():
            return f"the native {self.instructions} kernels are not built, or not for this machine"
        needs = native.refusal(self.operation, size)
        return needs and f"it needs {needs}"

    @property
    def file(self) -> str:
        """Its name below kernels/cuda: "conv3x3/02_shared_tile"."""
        return self.code.removeprefix("kernels/cuda/").removesuffix(".cu")


# -- the operations ----------------------------------------------------------------------------------------------------

FEATURES, PICTURE = Size(256, 256, 64, 64), Size(512, 512, 3, 64)
SIDE, CHANNELS = 32, 32  # what a CPU can do in a GPU's way within a second


def _operations() -> dict[str, Operation]:
    layer, picture = ("size", "channels"), ("size",)
    table = [
        ("conv", "3x3 convolution, bias and ReLU; back with the mask of the ReLU below", (*layer, "filters")),
        ("pool", "2x2 max pooling; back with the mask of the ReLU below", layer),
        ("gram", "Gram matrix of a layer's features, and its gradient", layer),
        ("moments", "sums under a guide, the features that it weighs, and the sums' gradient", layer),
        ("content", "squared distance of features, and its gradient", layer),
        ("style", "squared distance of Gram matrices with its gradient", ("channels",)),
        ("total-variation", "total variation of a picture with its gradient", picture),
        ("block-mean", "means of a picture's 4x4 blocks, and back", picture),
        ("preprocess", "the picture as the network wants it; back to it through conv1_1", ("size", "filters")),
        ("adam", "one update of Adam", picture),
        ("lbfgs", "the direction of L-BFGS from 10 pairs", picture),
        (
            "general-conv",
            "convolution of any kernel, stride and enlargement, bias and ReLU",
            (*layer, "filters", "kernel", "stride", "upsample"),
        ),
        ("depthwise", "depthwise convolution, bias and ReLU6", (*layer, "kernel", "stride")),
        ("linear", "fully connected layer", ("channels", "filters")),
        ("instance-norm", "instance normalisation and ReLU; with a sum behind it, as in a residual block", layer),
        ("global-average", "the mean of each channel", layer),
        ("maxima", "2x2 max pooling that rounds up: an odd last row or column counts", layer),
        ("resize", "to 3/2 of both sides, nearest and bilinear", layer),
    ]
    # From general-conv to global-average: layers of Magenta's networks for 512x512 pixels and a style of 256x256
    sizes = {
        "conv": Size(128, 128, 256, 256),
        "style": Size(1, 1, 512, 512),
        "general-conv": Size(128, 128, 32, 32),
        "depthwise": Size(64, 64, 144, 144),
        "linear": Size(1, 1, 1280, 100),
        "instance-norm": Size(128, 128, 32, 32),
        "global-average": Size(8, 8, 1280, 1280),
        "resize": Size(512, 512, 3, 3),
    }
    vectors = {"adam": ("vectors/01_elementwise",), "lbfgs": ("vectors/02_fused", "vectors/03_pairs")}
    folders = {"conv": "conv3x3", "preprocess": "pixels"}
    folders |= {"general-conv": "conv", "linear": "conv", "global-average": "instance_norm"}
    found = {}
    for name, title, options in table:
        folder = folders.get(name, name.replace("-", "_"))
        files = vectors.get(name) or tuple(f for f in source.rungs() if f.startswith(f"{folder}/"))
        size = sizes.get(name, FEATURES if "channels" in options else PICTURE)
        found[name] = Operation(name, title, options, size, files)
    return found


OPERATIONS = _operations()


def rungs(operation: str, device: str) -> list[Rung]:
    """The ladder of an operation on the "cpu" or on "cuda", the first rung first."""
    return _cuda_rungs(operation) if device == "cuda" else _cpu_rungs(operation)


def _cpu_rungs(operation: str) -> list[Rung]:
    forms = [(BOOK[operation], ""), *((form, "") for form in BETWEEN.get(operation, ()))]
    if operation in NATIVE:
        adds, file = NATIVE[operation]
        for instructions in reversed(library.INSTRUCTIONS):
            make = native.rung(operation, instructions)
            form = Form(instructions, VECTORS[instructions] or adds, f"kernels/cpu/{file}", make)
            forms.append((form, instructions))
    enlarged = enlargement(winograd.BT, winograd.G, winograd.AT) if operation == "conv" else 1.0
    return [
        Rung(
            operation,
            f"cpu{i}_{form.name}",
            "cpu",
            f"over cpu{i - 1}: {form.adds}" if i else form.adds,
            form.code,
            form.make,
            enlarges=enlarged if instructions or form.name == "winograd" else 1.0,
            instructions=instructions,
        )
        for i, (form, instructions) in enumerate(forms)
    ]


def _cuda_rungs(operation: str) -> list[Rung]:
    found = []
    for file in OPERATIONS[operation].files:
        head, short = source.read(file).head, file.partition("/")[2]
        over = [f"over {key.removeprefix('over ')}: {text}" for key, text in head.items() if key.startswith("over ")]
        found.append(
            Rung(
                operation,
                short,
                "cuda",
                over[0] if over else head["op"],
                f"kernels/cuda/{file}.cu",
                cuda.rung(operation, short),
                tuple(cuda.precisions(operation, short)),
                enlargement(*F2_MATRICES) if "winograd" in short else 1.0,
                napkin=head["napkin"],
            )
        )
    return found


def enlargement(BT: np.ndarray, G: np.ndarray, AT: np.ndarray) -> float:
    """By how much Winograd's transforms enlarge the rounding errors of a convolution of random numbers; at least 1.

    In one dimension output i is sum_f AT[i,f] sum_c (G g)_f (BT d)_f. A sum over C channels is off by roundings of its
    own size, C |G_f| |B_f|, so the output by sqrt(sum_f (AT[i,f] |G_f| |B_f|)^2) of them; in two dimensions by the
    square of that, in the worst output. The direct sum, of 9 C products, is off by 9.
    """
    squares = np.square(AT) @ (np.square(G).sum(axis=1) * np.square(BT).sum(axis=1))
    return max(1.0, float(squares.max() / 9))


def standard_size(operation: Operation, device: str) -> Size:
    """What is measured unless told otherwise; in small where a CPU stands in for a GPU."""
    return Size(SIDE, SIDE, CHANNELS, CHANNELS) if device == "cuda-on-cpu" else operation.size


# -- names -------------------------------------------------------------------------------------------------------------


def find_operation(name: str) -> Operation:
    """The operation of that name, underscores or dashes.

    Raises
    ------
    OptionError
        For another name: with the nearest, and all of them.
    """
    wanted = name.lower().replace("_", "-")
    if wanted not in OPERATIONS:
        raise OptionError(
            f"operation: expected one of {', '.join(OPERATIONS)}, got {name}{_nearest(wanted, OPERATIONS)}"
        )
    return OPERATIONS[wanted]


def choose(operation: str, wanted: str, device: str) -> tuple[list[Rung], str]:
    """Rungs, and the device that they run on: "cpu", "cuda" or "cuda-on-cpu".

    Parameters
    ----------
    operation : str
    wanted : str
        "all"; a number; a name, or what stands before or after its first underscore.
    device : {"auto", "cpu", "cuda", "cuda-on-cpu"}
        "auto": all rungs of the GPU, or without one of the CPU; one rung where it belongs. A number alone is that of a
        file in kernels/cuda; without a GPU the CPU stands in for it.

    Raises
    ------
    OptionError
        For a rung that there is not.
    """
    there = gpu.problem() is None
    on_gpu = "cuda" if there else "cuda-on-cpu"
    if device != "auto":
        ladder = rungs(operation, "cpu" if device == "cpu" else "cuda")
        return (ladder if wanted == "all" else [_find(ladder, wanted)]), device
    if wanted == "all":
        return rungs(operation, "cuda" if there else "cpu"), "cuda" if there else "cpu"
    both = rungs(operation, "cuda") + ([] if wanted.isdecimal() else rungs(operation, "cpu"))
    rung = _find(both, wanted)
    return [rung], "cpu" if rung.device == "cpu" else on_gpu


def _find(ladder: list[Rung], wanted: str) -> Rung:
    name = wanted.lower().replace("-", "_")
    found = [
        r for r in ladder if name in (r.name, *r.name.split("_", 1)) or (name.isdecimal() and r.number == int(name))
    ]
    if len(found) == 1:
        return found[0]
    names = [r.name for r in ladder]
    if found:
        raise OptionError(f"--rung: expected one rung, got {wanted}, which is {' and '.join(r.name for r in found)}")
    raise OptionError(f"--rung: expected all or one of {', '.join(names)}, got {wanted}{_nearest(name, names)}")


def _nearest(name: str, names: object) -> str:
    near = difflib.get_close_matches(name, list(names), 1)  # type: ignore[call-overload]
    return f"; the nearest is {near[0]}" if near else ""
