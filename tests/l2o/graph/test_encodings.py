from itertools import pairwise

import pytest
import torch
from torch import nn

from l2o import neural_graph
from l2o.graph.encodings import encode_positions

LIKE = torch.zeros((), dtype=torch.float64)


def encoded(*widths, width=16):
    layers = [nn.Linear(a, b) for a, b in pairwise(widths)]
    return encode_positions(neural_graph(nn.Sequential(*layers)), width, LIKE)


def assert_keyed_by_role(encode):
    """An encoding means the same in networks of other sizes and depths."""
    small, large = encode(1, 5, 4), encode(3, 7, 6, 9, 4)
    torch.testing.assert_close(small[0][0], large[0][0], rtol=0, atol=0)
    torch.testing.assert_close(small[-1], large[-1], rtol=0, atol=0)
    torch.testing.assert_close(small[1], large[2][:1], rtol=0, atol=0)


def test_it_does_not_shift_with_the_inputs_or_the_depth():
    assert_keyed_by_role(encoded)


def test_the_law_can_fail_for_running_numbers():
    """The released fault: groups are numbered through, so three inputs shift all."""

    def numbered(*widths):
        start, found = 0, []
        for index, width in enumerate(widths):
            told_apart = index in (0, len(widths) - 1)
            count = width if told_apart else 1
            found.append(torch.arange(start, start + count)[:, None].double())
            start += count
        return found

    with pytest.raises(AssertionError):
        assert_keyed_by_role(numbered)


def test_inputs_and_outputs_are_told_apart_and_hidden_neurons_are_not():
    inputs, hidden, outputs = encoded(5, 7, 6)
    assert inputs.shape == (5, 16)
    assert hidden.shape == (1, 16)
    assert outputs.shape == (6, 16)
    everyone = torch.cat([inputs, hidden, outputs])
    distances = torch.cdist(everyone, everyone) + torch.eye(len(everyone))
    assert distances.min() > 1e-3


def test_neighbours_among_many_inputs_stay_apart():
    (inputs, _) = encoded(784, 2)
    distances = torch.cdist(inputs, inputs) + torch.eye(784)
    assert distances.min() > 1e-2


def test_the_first_channels_are_the_role():
    graph = neural_graph([torch.zeros(()), torch.zeros(2)])
    for encoding in encode_positions(graph, 6, LIKE):
        assert encoding.tolist()[0][:4] == [0, 0, 0, 1]


@pytest.mark.parametrize("width", [6, 8, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_they_have_the_width_and_type_that_are_asked_for(width, dtype):
    graph = neural_graph(nn.Linear(3, 2))
    for encoding in encode_positions(graph, width, torch.zeros((), dtype=dtype)):
        assert encoding.shape[1] == width
        assert encoding.dtype == dtype
        assert encoding.abs().max() <= 1
