from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import benchmarks
from benchmarks import scaling_law
from benchmarks.scaling_law import (
    FEATURES,
    GPT_SIZES,
    OUTPUTS,
    Transformer,
    edge_flop,
    entry_flop,
    fsdp_bytes,
    gradient_flop,
    sharded_bytes,
    state_bytes,
    tables,
    whitening_flop,
)
from l2o import Rule, neural_graph
from l2o.nets import NGGNNConfig
from l2o.rule.newton_schulz import whiten
from optimizees.transformer import GPT, BlockSizes

CONFIG = NGGNNConfig()


def small_gpt(num_blocks):
    return GPT(16, 8, sizes=BlockSizes(width=8, num_blocks=num_blocks, num_heads=2))


def counted(call):
    """Return the operations that torch counts in a call."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def test_the_page_has_the_tables():
    page = (Path(benchmarks.__file__).parent / "SCALING.md").read_text()
    for table in tables():
        assert table in page


def test_the_rule_has_as_many_features_and_outputs():
    entry = Rule().net.entry
    assert entry.first.in_features == FEATURES
    assert entry.last.out_features == OUTPUTS


@pytest.mark.parametrize(("memory_limit", "is_recomputed"), [(None, False), (0, True)])
def test_a_step_takes_the_operations_of_its_edges(memory_limit, is_recomputed):
    model = nn.Sequential(*(nn.Linear(96, 96) for _ in range(4)))
    params = dict(model.named_parameters())
    grads = {name: torch.ones_like(param) for name, param in params.items()}
    graph, rule = neural_graph(params), Rule()
    rule.memory_limit = memory_limit
    state = rule.advance(rule.init_state(params), grads)
    each = edge_flop(CONFIG, is_recomputed=is_recomputed) + entry_flop(CONFIG)
    expected = 4 * 96**2 * each + 4 * whitening_flop(96, 96)
    found = counted(lambda: rule(graph, params, grads, state))
    # What neurons take comes on top: one in 48 of the edges here.
    assert expected <= found <= 1.04 * expected


@pytest.mark.parametrize("sides", [(8, 8), (8, 32), (32, 8)])
def test_whitening_takes_its_operations(sides):
    assert counted(lambda: whiten(torch.ones(sides))) == whitening_flop(*sides)


@pytest.mark.parametrize("sides", [(20, 20), (17, 40)])
def test_whitening_by_groups_takes_its_operations(sides, monkeypatch):
    monkeypatch.setattr(scaling_law, "GROUP_ROWS", 8)
    assert counted(lambda: whiten(torch.ones(sides), 8)) == whitening_flop(*sides)


def test_a_block_has_the_neurons_that_the_tracer_finds():
    sizes = []
    for num_blocks in (1, 2):
        model = small_gpt(num_blocks)
        graph = neural_graph(model, torch.zeros(2, 8, dtype=torch.int64))
        sizes.append(sum(group.size for group in graph.groups))
    assert sizes[1] - sizes[0] == Transformer(width=8, blocks=1).num_neurons


def test_a_block_has_the_entries_of_its_matrices():
    one, two = (
        sum(p.numel() for p in small_gpt(n).parameters() if p.ndim > 1) for n in (1, 2)
    )
    block = Transformer(width=8, blocks=1)
    assert two - one == block.num_parameters
    assert sum(rows * columns for rows, columns in block.matrices) == two - one


def test_a_gradient_takes_six_operations_a_weight_and_sample():
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    inputs = torch.ones(5, 8, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        model(inputs).sum().backward()
    assert counter.get_total_flops() == gradient_flop(128, 5)


def test_the_sizes_are_what_they_are_called():
    for name, network in GPT_SIZES.items():
        assert network.num_parameters == pytest.approx(float(name), rel=0.02)


def test_statistics_of_shards_are_few_beside_the_weights():
    network = GPT_SIZES["1e12"]
    alone = sharded_bytes(network, CONFIG, gpus=1)
    shared = sharded_bytes(network, CONFIG, gpus=1024)
    assert shared < 0.02 * fsdp_bytes(network.num_parameters)
    assert alone > 8 * network.num_parameters
    # Five width-wide vectors a neuron and layer, four bytes a number.
    assert shared - (alone - shared) / 1023 == pytest.approx(
        network.num_neurons * 2 * 5 * 32 * 4
    )


def test_the_rule_keeps_three_times_the_state_of_adam():
    state = Rule().init_state({"w": torch.zeros(7)})["w"]
    floats = sum(item.numel() for item in state.values() if item.ndim) // 7
    assert state_bytes(10, floats) == 3 * state_bytes(10, 2)
