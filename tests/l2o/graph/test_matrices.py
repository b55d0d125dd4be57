"""Tests of graphs as matrices in stacks."""

import math

import pytest
import torch
import zoo
from torch import nn
from zoo.prepared import prepare

from l2o import neural_graph
from l2o.graph import matrices, matrix_groups
from l2o.graph.matrices import find_matrices, host_matrices

CPU = torch.device("cpu")


@pytest.fixture(params=["mlp", "gpt", "lstm", "grouped_and_dilated", "transposed"])
def subject(request):
    return prepare(zoo.SMALL[request.param])


@pytest.mark.parametrize("most", [2**15, 8], ids=["padded", "in views"])
@pytest.mark.parametrize("is_split", [True, False], ids=["split", "stacked"])
def test_scatter_undoes_gather(subject, monkeypatch, most, is_split):
    monkeypatch.setattr(matrices, "SMALL_ENTRIES", most)
    graph = subject.graph
    graph.cache.clear()
    stacks = host_matrices(graph, is_split=is_split)
    graph.cache.clear()
    other = {name: -param for name, param in subject.params.items()}
    found, _ = stacks.gather([subject.params, other], torch.zeros(1))
    for field, expected in enumerate((subject.params, other)):
        back = stacks.scatter([item[field] for item in found])
        assert back.keys() == expected.keys()
        for name, tensor in expected.items():
            assert torch.equal(back[name], tensor), name


def test_every_entry_has_one_place(subject):
    owned = [m for m in find_matrices(subject.graph, CPU).matrices if m.is_owned]
    total = sum(m.shape[0] * m.shape[1] for m in owned)
    assert total == subject.graph.num_parameters


def test_tables_have_a_row_per_feature_and_no_neurons_at_columns():
    stacks = find_matrices(prepare(zoo.SMALL["gpt"]).graph, CPU)
    tables = [matrix for matrix in stacks.matrices if matrix.kind == "table"]
    assert tables
    assert all(not table.column_neurons and not table.is_map for table in tables)


def test_alike_matrices_share_a_stack_whatever_the_depth():
    def count(depth):
        model = torch.nn.Sequential(*(torch.nn.Linear(200, 200) for _ in range(depth)))
        graph = neural_graph(model, torch.zeros(1, 200))
        return len(host_matrices(graph, is_split=False).stacks)

    assert count(2) == count(8)


def padding_of(stacks):
    return [
        math.prod(stack.shape) - int((stack.index < stack.index.max()).sum())
        for stack in stacks.stacks
        if stack.index is not None
    ]


def test_a_cpu_computes_little_padding_and_an_accelerator_few_stacks():
    layers = [nn.Linear(64, 192), nn.LayerNorm(192), nn.Linear(192, 64)]
    model = nn.Sequential(*layers, nn.Tanh(), nn.Linear(64, 3))
    graph = neural_graph(model, torch.zeros(2, 64))
    cpu, other = (host_matrices(graph, is_split=split) for split in (True, False))
    assert len(cpu.stacks) > len(other.stacks)
    most = matrix_groups._PADDING
    assert all(
        padding <= most * stack.shape[0]
        for padding, stack in zip(padding_of(cpu), cpu.stacks, strict=True)
    )
    assert sum(padding_of(other)) > most * len(other.matrices)  # the bound can fail
