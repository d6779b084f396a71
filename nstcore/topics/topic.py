"""What stands under one name: a record of names, nothing imported."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Topic:
    """One step of the method.

    Attributes
    ----------
    title : str
        What it is called in a sentence.
    equation : str
        In plain ASCII, forward then backward, the letters of the book.
    book : tuple of str
        The functions that are the equation, "nstcore.ops.gram_forward".
    engines : tuple of str
        What computes it fast, "nstcore.engines.cuda.gram.Grams"; empty where the book's form is used.
    kernels : tuple of str
        Files below kernels/, a ladder's rungs in order.
    tests : tuple of str
        Its proofs, "tests/test_ops.py::test_every_backward_is_the_gradient_of_its_forward".
    source : str
        The paper, with the number of its equation where it has one.
    """

    title: str
    equation: str
    book: tuple[str, ...]
    engines: tuple[str, ...]
    kernels: tuple[str, ...]
    tests: tuple[str, ...]
    source: str
