"""Magenta's two networks out of the graphs of TensorFlow Lite files, by what the operators do, not by their names.

The names of tensors differ between the published int8 and float16 files, and say nothing that could be relied on. So
each graph is walked from its output back to its input, and every operator is held against the network that it must be:
its kind, stride, border and activation, the sums, the epsilon. What does not change a number of the network is passed
over: QUANTIZE and DEQUANTIZE, and a resize to the size that is there already. A graph that was walked to its end
without a difference, and has no operator left over, is the published network; its weights have our names then.

An instance normalisation stands in the graph in its parts:

    s = rsqrt(variance + epsilon) * scale        y = x * s + (shift - mean * s)

so the layer of the style's numbers whose output is multiplied by the rsqrt is the scale, and the one that is
subtracted from is the shift.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ...errors import WeightsError
from ..fast.models import BLOCKS, CONTRACT, HEAD_CHANNELS, NORMALISED, RESIDUALS, STEM_CHANNELS, STYLE_NUMBERS, Block
from ..weights import shown
from . import tflite
from .tflite import Graph, Operator

EPSILON = 1e-5
_EPSILON_TOLERANCE = 0.005  # relative; as a float16 it is 1.0014e-5


def roles(files: tuple[Path, ...]) -> tuple[Path, Path]:
    """The prediction and the transfer network among two files: the one takes a picture, the other numbers as well.

    Raises
    ------
    WeightsError
        If they are not one of each.
    """
    inputs = [len(tflite.read(file).inputs) for file in files]
    if sorted(inputs) != [1, 2]:
        found = " and ".join(f"{shown(file.name)} with {n}" for file, n in zip(files, inputs, strict=True))
        raise WeightsError(f"expected one network with one input and one with two, found {found}")
    return files[inputs.index(1)], files[inputs.index(2)]


def read(prediction: Path, transfer: Path) -> dict[str, np.ndarray]:
    """Every tensor of the two networks by our names, float32.

    Raises
    ------
    WeightsError
        If a file is damaged, or its graph is not the published network's.
    """
    return {**read_prediction(prediction), **read_transfer(transfer)}


def read_prediction(path: Path) -> dict[str, np.ndarray]:
    """The tensors of the network that makes numbers of a style, as `read` does."""
    return _walked(path, _prediction)


def read_transfer(path: Path) -> dict[str, np.ndarray]:
    """The tensors of the network that paints, as `read` does."""
    return _walked(path, _transfer)


def _walked(path: Path, walk: Callable[[Graph], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    graph = tflite.read(path)
    try:
        return walk(graph)
    except WeightsError as error:
        raise WeightsError(f"{shown(path)}: not the published network: {error}") from error


def _prediction(graph: Graph) -> dict[str, np.ndarray]:
    walk = _Walk(graph, 1)
    at = walk.conv("prediction/style", walk.output, (STYLE_NUMBERS, HEAD_CHANNELS, 1, 1))
    at = walk.mean("prediction/style", at)
    at = walk.conv("prediction/head", at, (HEAD_CHANNELS, BLOCKS[-1].outputs, 1, 1), activation="RELU6")
    for n, block in reversed(tuple(enumerate(BLOCKS, 1))):
        at = _block(walk, f"prediction/block{n}", block, at)
    shape = (STEM_CHANNELS, 3, 3, 3)
    at = walk.conv("prediction/stem", at, shape, stride=2, padding="SAME", activation="RELU6")
    walk.end("prediction/stem", at)
    return walk.tensors


def _block(walk: _Walk, where: str, block: Block, at: int) -> int:
    """From a block's output to its input."""
    middle = block.expand or block.inputs
    skip = None
    if block.sums:
        at, skip = walk.sum(where, at)
    at = walk.conv(f"{where}/project", at, (block.outputs, middle, 1, 1))
    at = walk.depthwise(f"{where}/depthwise", at, middle, block.stride)
    if block.expand:
        at = walk.conv(f"{where}/expand", at, (block.expand, block.inputs, 1, 1), activation="RELU6")
    walk.same(where, at, skip)
    return at


def _transfer(graph: Graph) -> dict[str, np.ndarray]:
    walk = _Walk(graph, 2)
    (at,) = walk.operator("transfer/expand3", walk.output, "LOGISTIC", 1).inputs
    at = walk.normalised("expand3", at, "NONE")
    for name in ("expand2", "expand1"):
        at = walk.normalised(name, at, "RELU")
        at = walk.upsampled(name, at)
    for i in range(RESIDUALS, 0, -1):
        at, skip = walk.sum(f"transfer/residual{i}", at)
        at = walk.normalised(f"residual{i}/conv2", at, "NONE")
        at = walk.normalised(f"residual{i}/conv1", at, "RELU")
        walk.same(f"transfer/residual{i}", at, skip)
    for name, shape in reversed(CONTRACT.items()):
        stride = 1 if name == "contract1" else 2
        at = walk.reflected(f"transfer/{name}", at, shape, stride, "RELU")
    walk.end("transfer/contract1", at)
    return walk.tensors


class _Walk:
    """A way through a graph against its direction; every step returns the tensor that it came to."""

    def __init__(self, graph: Graph, inputs: int) -> None:
        if len(graph.inputs) != inputs or len(set(graph.inputs)) != inputs or len(graph.outputs) != 1:
            found = f"{len(graph.inputs)} and {len(graph.outputs)}"
            raise WeightsError(f"expected {inputs} input{'s' * (inputs > 1)} and one output, found {found}")
        self.tensors: dict[str, np.ndarray] = {}
        self.output = graph.outputs[0]
        self._graph = graph
        self._maker = {tensor: step for step, op in enumerate(graph.operators) for tensor in op.outputs}
        self._walked: set[int] = set()
        self._style: set[int] = set()  # what the layers of the style's numbers were seen to take

    # -- one operator ---------------------------------------------------------------------------------------------

    def operator(self, where: str, tensor: int, kind: str, inputs: int) -> Operator:
        """The operator that makes a tensor, which must be of this kind and take so many tensors."""
        found = self._made(tensor)
        if found is None or self._graph.operators[found].kind != kind:
            raise WeightsError(f"{where}: expected {kind}, found {self._kind(tensor)}")
        operator = self._graph.operators[found]
        if len(operator.inputs) != inputs or -1 in operator.inputs or len(operator.outputs) != 1:
            raise WeightsError(f"{where}: {kind}: expected {inputs} inputs and one output, found others")
        self._walked.add(found)
        return operator

    def conv(
        self,
        where: str,
        tensor: int,
        shape: tuple[int, ...],
        *,
        stride: int = 1,
        padding: str | None = None,
        activation: str = "NONE",
    ) -> int:
        """A convolution (K, C, R, S); its border may be anything where the kernel has one position (None)."""
        op = self.operator(where, tensor, "CONV_2D", 3)
        self._options(where, op, stride, padding, activation)
        self._store(where, op, shape)
        return self._passed(op.inputs[0])

    def depthwise(self, where: str, tensor: int, channels: int, stride: int) -> int:
        """A depthwise convolution of 3x3 positions with ReLU6."""
        op = self.operator(where, tensor, "DEPTHWISE_CONV_2D", 3)
        self._options(where, op, stride, "SAME", "RELU6")
        self._option(where, op, "multiplier", 1)
        self._store(where, op, (channels, 3, 3))
        return self._passed(op.inputs[0])

    def mean(self, where: str, tensor: int) -> int:
        """The average over the positions of each channel."""
        op = self.operator(where, tensor, "MEAN", 2)
        if sorted(self._integers(op.inputs[1])) != [1, 2] or not op.options["keep_dims"]:
            raise WeightsError(f"{where}: MEAN: expected one over rows and columns, found another")
        return self._passed(op.inputs[0])

    def upsampled(self, where: str, tensor: int) -> int:
        """Every position twice, down and across."""
        op = self.operator(f"transfer/{where}", tensor, "RESIZE_NEAREST_NEIGHBOR", 2)
        self._option(f"transfer/{where}", op, "align_corners", 0)
        self._option(f"transfer/{where}", op, "half_pixel_centers", 0)
        before, after = self._graph.tensors[op.inputs[0]].shape, self._integers(op.inputs[1])
        if len(before) != 4 or after != [2 * before[1], 2 * before[2]]:
            found = f"to {after} of {before}"
            raise WeightsError(f"transfer/{where}: RESIZE_NEAREST_NEIGHBOR: expected twice the size, found it {found}")
        return self._passed(op.inputs[0])

    def sum(self, where: str, tensor: int) -> tuple[int, int]:
        """The two terms of a sum: the branch, and what it branches from, which is made before it."""
        op = self.operator(where, tensor, "ADD", 2)
        self._activation(where, op, "NONE")
        terms = [self._passed(term) for term in op.inputs]
        skip, branch = sorted(terms, key=lambda term: self._maker.get(term, -1))
        return branch, skip

    # -- several operators ----------------------------------------------------------------------------------------

    def reflected(self, where: str, tensor: int, shape: tuple[int, ...], stride: int, activation: str) -> int:
        """A convolution whose input was mirrored at its outermost positions, R//2 on each side."""
        at = self.conv(where, tensor, shape, stride=stride, padding="VALID", activation=activation)
        op = self.operator(where, at, "MIRROR_PAD", 2)
        self._option(where, op, "mode", 0)  # without the outermost position itself
        amount = shape[2] // 2
        if (found := self._integers(op.inputs[1])) != [0, 0, *[amount] * 4, 0, 0]:
            raise WeightsError(f"{where}: MIRROR_PAD: expected {amount} positions on each side, found {found}")
        return self._passed(op.inputs[0])

    def normalised(self, name: str, tensor: int, activation: str) -> int:
        """A convolution with its instance normalisation, as the head of this module has it."""
        where = f"transfer/{name}"
        shape = NORMALISED[name]
        total = self.operator(where, tensor, "ADD", 2)
        self._activation(where, total, activation)
        scaled, offset = self._pair(where, total, "MUL", "SUB")
        x, factor = self._pair(where, self._plain(where, scaled, "MUL"), "CONV_2D", "MUL")
        shift, moved = self._plain(where, offset, "SUB").inputs
        mean, again = self._pair(where, self._plain(where, moved, "MUL"), "MEAN", "MUL")
        self.same(where, factor, again)
        root, scale = self._pair(where, self._plain(where, factor, "MUL"), "RSQRT", "CONV_2D")
        (spread,) = self.operator(where, root, "RSQRT", 1).inputs
        squares = self.mean(where, self._without_epsilon(where, spread))
        terms = self.operator(where, squares, "SQUARED_DIFFERENCE", 2).inputs
        if {self._passed(term) for term in terms} != {x, mean}:
            raise WeightsError(f"{where}: expected the squared difference of its values and their mean, found another")
        self.same(where, self.mean(where, mean), x)
        for part, made in (("scale", scale), ("shift", shift)):
            layer = self.conv(f"{where}/{part}", made, (shape[0], STYLE_NUMBERS, 1, 1))
            self._style.add(layer)
        return self.reflected(where, x, shape, 1, "NONE")

    def same(self, where: str, tensor: int, other: int | None) -> None:
        """`WeightsError` unless two ways came to the same tensor."""
        if other is not None and self._passed(tensor) != self._passed(other):
            found = f"{self._kind(tensor)} and {self._kind(other)}"
            raise WeightsError(f"{where}: expected two branches of one tensor, found them to come from two: {found}")

    def end(self, where: str, tensor: int) -> None:
        """`WeightsError` unless the walk ended at the picture, with the style's numbers beside it and nothing left."""
        if (first := self._passed(tensor)) not in self._graph.inputs:
            raise WeightsError(f"{where}: expected the input of the graph before it, found {self._kind(tensor)}")
        if self._style and self._style != set(self._graph.inputs) - {first}:
            raise WeightsError("expected every scale and shift to be made of the style's numbers, found another input")
        for step, operator in enumerate(self._graph.operators):
            if step not in self._walked and not self._passes(operator):
                raise WeightsError(f"expected no more operators, found {operator.kind} as number {step}")

    # -- parts ----------------------------------------------------------------------------------------------------

    def _passes(self, operator: Operator) -> bool:
        """Whether an operator leaves the network's numbers as they are."""
        if operator.kind in ("QUANTIZE", "DEQUANTIZE"):
            return len(operator.inputs) == len(operator.outputs) == 1 and operator.inputs[0] >= 0
        if operator.kind != "RESIZE_NEAREST_NEIGHBOR" or len(operator.inputs) != 2 or -1 in operator.inputs:
            return False
        shape = self._graph.tensors[operator.inputs[0]].shape
        return len(shape) == 4 and self._integers(operator.inputs[1]) == [*shape[1:3]]

    def _passed(self, tensor: int) -> int:
        """The tensor behind the operators that leave it as it is."""
        while (step := self._maker.get(tensor)) is not None and self._passes(self._graph.operators[step]):
            tensor = self._graph.operators[step].inputs[0]
        return tensor

    def _made(self, tensor: int) -> int | None:
        return self._maker.get(self._passed(tensor))

    def _kind(self, tensor: int) -> str:
        """What makes a tensor, in words."""
        found = self._made(tensor)
        if found is not None:
            return self._graph.operators[found].kind
        return "an input of the graph" if self._passed(tensor) in self._graph.inputs else "a constant"

    def _plain(self, where: str, tensor: int, kind: str) -> Operator:
        """An operator of two tensors without an activation."""
        op = self.operator(where, tensor, kind, 2)
        self._activation(where, op, "NONE")
        return op

    def _pair(self, where: str, op: Operator, first: str, second: str) -> tuple[int, int]:
        """The two inputs of a product or sum, whichever order they stand in."""
        a, b = (self._passed(tensor) for tensor in op.inputs)
        for one, other in ((a, b), (b, a)):
            if (self._kind(one), self._kind(other)) == (first, second):
                return one, other
        found = f"{self._kind(a)} and {self._kind(b)}"
        raise WeightsError(f"{where}: {op.kind}: expected the outputs of {first} and {second}, found {found}")

    def _without_epsilon(self, where: str, tensor: int) -> int:
        """The variance in variance + epsilon."""
        op = self._plain(where, tensor, "ADD")
        variance, epsilon = self._pair(where, op, "MEAN", "a constant")
        value = self._graph.floats(epsilon)
        if value.size != 1 or not math.isclose(value.item(), EPSILON, rel_tol=_EPSILON_TOLERANCE):
            raise WeightsError(f"{where}: expected the epsilon {EPSILON:g}, found {value.reshape(-1)[0]:g}")
        return variance

    def _options(self, where: str, op: Operator, stride: int, padding: str | None, activation: str) -> None:
        for name, value in (("stride_h", stride), ("stride_w", stride), ("dilation_h", 1), ("dilation_w", 1)):
            self._option(where, op, name, value)
        if padding is not None:
            self._named(where, op, "padding", padding, tflite.PADDINGS)
        self._activation(where, op, activation)

    def _activation(self, where: str, op: Operator, expected: str) -> None:
        self._named(where, op, "activation", expected, tflite.ACTIVATIONS)

    def _named(self, where: str, op: Operator, name: str, expected: str, names: tuple[str, ...]) -> None:
        number = op.options[name]
        found = names[number] if 0 <= number < len(names) else f"number {number}"
        if found != expected:
            raise WeightsError(f"{where}: {op.kind}: expected {name} {expected}, found {found}")

    def _option(self, where: str, op: Operator, name: str, expected: int) -> None:
        if op.options[name] != expected:
            raise WeightsError(f"{where}: {op.kind}: expected {name} {expected}, found {op.options[name]}")

    def _integers(self, tensor: int) -> list[int]:
        return self._graph.integers(self._passed(tensor))

    def _store(self, where: str, op: Operator, shape: tuple[int, ...]) -> None:
        """Keep a convolution's weight and bias under our names.

        The weight is stored (K, R, S, C), that of a depthwise one (1, R, S, C).
        """
        K, C, R, S = shape if len(shape) == 4 else (1, *shape)
        weight, bias = (self._passed(tensor) for tensor in op.inputs[1:])
        for what, tensor, expected in (("weight", weight, (K, R, S, C)), ("bias", bias, shape[:1])):
            if (found := self._graph.tensors[tensor].shape) != expected:
                raise WeightsError(f"{where}: {op.kind}: expected a {what} of {expected}, found {found}")
        turned = self._graph.floats(weight).transpose(0, 3, 1, 2).reshape(shape)
        self.tensors[f"{where}/weight"] = np.ascontiguousarray(turned)
        self.tensors[f"{where}/bias"] = self._graph.floats(bias)
