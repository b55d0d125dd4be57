"""Two processes: replicas, shards, divided states, checkpoints."""

import importlib

import pytest
import torch
from torch import nn

from l2o.optim.distributed import gathered, is_sharded, spread_like, unsharded


@pytest.mark.slow
@pytest.mark.parametrize(
    "worker",
    [
        "replicas_stay_equal",
        "optimizer_states_are_divided",
        "shards_are_the_whole",
        "averages_are_the_whole",
        "the_graph_is_traced",
        "checkpoints_go_on",
        "whole_checkpoints_move_between_worlds",
        "layers_are_split_too",
    ],
)
def test_in_two_processes(worker, tmp_path):
    worlds = importlib.import_module("contract.worlds")  # half a second
    worlds.run(getattr(worlds, worker), tmp_path)


def test_a_plain_tensor_passes_through():
    tensor = torch.zeros(5, 3)
    assert not is_sharded(tensor)
    assert gathered(tensor) is tensor
    assert spread_like(tensor, nn.Parameter(torch.zeros(3))) is tensor


def test_a_plain_model_stays_as_it_is():
    model = nn.Linear(3, 2)
    weight = model.weight
    model.register_forward_hook(lambda *_: None)
    with unsharded(model) as stand_ins:
        assert stand_ins == {}
        assert model.weight is weight
        assert len(model._forward_hooks) == 1
