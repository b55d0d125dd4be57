"""How far a gradient travels from `step` to the written parameter, by a call trace.

The gradients of one step are marked, and so is all that operators make of marked
tensors. A file of the library is on the path if one of its functions is called with a
marked tensor. The path turns back where such a call leads from one file to another that
came before it on the path; each such pair of files counts once. `ARCHITECTURE.md` tells
the numbers.
"""

import itertools
import re
import sys
from collections.abc import Mapping
from inspect import CO_VARARGS, CO_VARKEYWORDS
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import l2o
from l2o import NeuralGraphOpt

ROOM = Path(l2o.__file__).parent
LONGEST = {"ng-gnn": (23, 26), "ng-gnn-neurons": (16, 16), "base": (14, 13)}
"""Files on the path and turns back, at most."""


class Marks(TorchDispatchMode):
    """Marks what is computed from marked tensors, by the memory that it lies in."""

    def __init__(self, tensors):
        super().__init__()
        self.kept = []  # keeps memory alive, so that no number is used twice
        self.marked = set()
        for tensor in tensors:
            self.mark(tensor)

    def mark(self, tensor):
        self.kept.append(tensor.untyped_storage())
        self.marked.add(self.kept[-1]._cdata)

    def holds(self, value):
        is_tensor = isinstance(value, Tensor)
        return is_tensor and value.untyped_storage()._cdata in self.marked

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if any(map(self.holds, tree_leaves((args, kwargs or {})))):
            written = args[:1] if func._schema.is_mutable else ()
            for leaf in tree_leaves((result, written)):
                if isinstance(leaf, Tensor) and not self.holds(leaf):
                    self.mark(leaf)
        return result


def inside(item, depth=2):
    """Return a value, or what containers hold."""
    if depth and isinstance(item, Mapping):
        return [leaf for value in item.values() for leaf in inside(value, depth - 1)]
    if depth and isinstance(item, list | tuple):
        return [leaf for value in item for leaf in inside(value, depth - 1)]
    return [item]


def arguments(frame):
    """Return what a function is called with, and what it closes over."""
    code = frame.f_code
    count = code.co_argcount + code.co_kwonlyargcount
    count += bool(code.co_flags & CO_VARARGS) + bool(code.co_flags & CO_VARKEYWORDS)
    names = (*code.co_varnames[:count], *code.co_freevars)
    return [frame.f_locals[name] for name in names if name in frame.f_locals]


def path_of(step, gradients):
    """Return the files on the path, in order, and the turns back."""
    marks, visits = Marks(gradients), []

    def watch(frame, event, _):
        name = frame.f_code.co_filename
        if event == "call" and name.startswith(str(ROOM)):
            leaves = [leaf for item in arguments(frame) for leaf in inside(item)]
            if any(map(marks.holds, leaves)):
                visits.append(name)

    before = sys.getprofile()
    with marks:
        sys.setprofile(watch)
        try:
            step()
        finally:
            sys.setprofile(before)
    place = {name: number for number, name in enumerate(dict.fromkeys(visits))}
    pairs = itertools.pairwise(visits)
    return list(place), {(a, b) for a, b in pairs if place[b] < place[a]}


def trained(rule):
    """Return an optimizer of a small perceptron before its second step."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        inputs = torch.randn(8, 4)
    optimizer = NeuralGraphOpt(model.parameters(), rule=rule)
    for _ in range(2):
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        if not optimizer.state:
            optimizer.step()
    return optimizer, model


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("rule", LONGEST)
def test_the_path_is_no_longer_than_the_page_says(rule, one_thread):
    optimizer, model = trained(rule)
    grads = [param.grad for param in model.parameters()]
    files, turns = path_of(optimizer.step, grads)
    most_files, most_turns = LONGEST[rule]
    assert len(files) <= most_files, files
    assert len(turns) <= most_turns, sorted(turns)
    page = (ROOM.parent / "ARCHITECTURE.md").read_text()
    assert re.search(rf"`{rule}`.* \| {most_files} \| {most_turns} \|", page)


def test_the_count_sees_the_path(one_thread):
    """It names the files that compute; without marks there is no path."""
    optimizer, model = trained("ng-gnn-neurons")
    grads = [param.grad for param in model.parameters()]
    names = {Path(name).stem for name in path_of(optimizer.step, grads)[0]}
    assert {"step", "neuron_rule", "newton_schulz", "in_place"} <= names
    assert path_of(optimizer.step, []) == ([], set())
