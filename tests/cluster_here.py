"""A cluster whose workers are all this process: what would cross the wire is counted."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import numpy as np
import pytest
from conftest import random_weights

from nstcore import vgg
from nstcore.engines.cluster import member, pieces
from nstcore.engines.cluster.arrays import Store
from nstcore.engines.cluster.messages import Load, Shares

NARROW = ((2, 4), (2, 6), (3, 8), (2, 8), (1, 4))  # blocks: (convolutions, filters)


@pytest.fixture(name="weights")
def weights_fixture(monkeypatch):
    """Of a network that is computed at once, with all the layers that are usual."""
    monkeypatch.setitem(vgg.ARCHITECTURES, "vgg19", NARROW)
    return random_weights()


@pytest.fixture(name="members")
def members_fixture(monkeypatch):
    """The workers' modules, left as they were found."""
    monkeypatch.setattr(pieces, "OWN", pieces.Own("reference"))
    monkeypatch.setattr(pieces, "_HELD", {})
    monkeypatch.setattr(member, "_KEPT", {})


def picture(size, seed=0):
    return np.random.default_rng(seed).random((size, size, 3))


class Here:
    """A cluster of workers who all are this process; it counts what would cross the wire, and the tasks."""

    precision, driver, where = "float32", "driver", "here"

    def __init__(self, workers):
        self.members = [f"tcp://10.0.0.{n}:1" for n in range(workers)]
        self.networks, self.size = set(), workers
        self.numbers = itertools.count(1)
        self.sent = Counter()
        self.space = {}  # by worker: what `member` and `pieces` keep
        self.store = Store(self)

    def number(self):
        return next(self.numbers)

    def describe(self):
        return "the book"

    def tell(self, line):
        raise AssertionError(line)

    def forget(self):
        raise AssertionError

    def neighbours(self):
        return {}

    def living(self):
        return self.members

    ready = living

    def memory(self):
        return set()

    def begin(self, number, recipe):
        for address in self.members:
            self._at(address, member.begin, self.driver, number, recipe)
        return self.members

    def watched(self, work, needs):
        with ThreadPoolExecutor(1) as pool:  # in this thread a browser's event loop may be running
            return pool.submit(asyncio.run, work).result()

    def submit(self, function, *arguments, worker):
        self.sent["tasks"] += 1
        self.sent[function.__name__] += 1
        self.sent["crossings"] += function is member.plus and arguments[1].made_at != worker
        given = [self._there(argument, worker) for argument in arguments]
        return Future(self._at(worker, function, *given), worker, function)

    def _there(self, argument, worker):
        """An argument's value: it goes to a worker once, if it is not there yet."""
        if isinstance(argument, list):
            return [self._there(a, worker) for a in argument]
        if not isinstance(argument, Future):
            return argument
        if worker not in argument.places:
            argument.places.add(worker)
            self.sent[argument.kind] += bytes_of(argument.value)
        return argument.value

    async def scattered(self, data, worker):
        self.sent["from driver"] += bytes_of(data)
        return Future(data, worker, None)

    async def result(self, futures):
        many = futures if isinstance(futures, list) else [futures]
        self.sent["to driver"] += sum(bytes_of(f.value) for f in many)
        return [f.value for f in many] if isinstance(futures, list) else futures.value

    def _at(self, worker, function, *arguments):
        spaces = self.space.setdefault(worker, ({}, {}))
        for there, kept in zip((member._KEPT, pieces._HELD), spaces, strict=True):
            there.clear()
            there.update(kept)
        found = function(*arguments)
        self.space[worker] = dict(member._KEPT), dict(pieces._HELD)
        return found


class Future:
    status = "finished"
    kinds: ClassVar = {
        None: "shares",
        pieces.take: "regions",
        pieces.apply: "copies",
        member.backward: "copies",
    }  # of what a function answers

    def __init__(self, value, worker, function):
        self.value, self.made_at, self.places = value, worker, {worker}
        self.kind = self.kinds.get(function, "answers")


def bytes_of(value) -> int:
    """Of arrays and numbers in whatever holds them."""
    if isinstance(value, np.ndarray | np.generic | float):
        return np.asarray(value).nbytes
    if isinstance(value, Load):
        return bytes_of(list(value.new.values()))
    if isinstance(value, Shares):
        return sum(bytes_of([s.dG, s.ds]) for s in value.all)
    if isinstance(value, dict):
        return bytes_of(list(value.values()))
    return sum(map(bytes_of, value)) if isinstance(value, list | tuple) else 0
