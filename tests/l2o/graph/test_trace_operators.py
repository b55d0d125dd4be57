"""Operators of mixtures of experts, quantisation and Fourier networks, followed."""

import functools
import warnings

import pytest
import torch
from torch import nn

from l2o import neural_graph
from l2o.graph.trace import OPERATORS
from tests.l2o.graph.test_trace_truth import Middle, distance, movable, weight


def through_experts(module, x):
    ends = torch.arange(1, 4, dtype=torch.int32) * (len(x) // 3)
    return torch._grouped_mm(x, module.experts, ends).relu()


def through_spectrum(module, x, is_padded=False):
    """Mix channels of the lowest modes, as a Fourier neural operator does."""
    spectrum = torch.fft.rfft(x.mT)
    kept = torch.view_as_complex(module.modes)
    mixed = torch.einsum("bim,iom->bom", spectrum[..., : kept.shape[2]], kept)
    if is_padded:
        whole = torch.zeros_like(spectrum)
        whole[..., : kept.shape[2]] = mixed
        mixed = whole
    return torch.fft.irfft(mixed, n=x.shape[1]).mT.relu()


def over_neurons(module, x):
    return torch.fft.rfft(x, dim=-1).abs()


def quantised():
    import torch.ao.quantization as quantization

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)).train()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao warns of its successor
        model.qconfig = quantization.get_default_qat_qconfig("qnnpack")
        quantization.prepare_qat(model, inplace=True)
        model(torch.linspace(-1, 1, 36).view(12, 3))
    return model.apply(quantization.disable_observer)


SEQUENCE = torch.linspace(-1, 1, 48, dtype=torch.float64).view(2, 8, 3).sin()
ROWS = torch.linspace(-1, 1, 36).view(12, 3).sin()
modes = functools.partial(weight, 8, 8, 3, 2)
CASES = {
    # three experts whose neurons take turns in one group of outputs
    "grouped products": (
        lambda: Middle(through_experts, experts=weight(3, 8, 8)),
        ROWS,
        40,
        1e-5,
    ),
    "quantisation": (quantised, ROWS, 8, 1e-5),
    "spectrum": (
        lambda: Middle(through_spectrum, modes=modes()).double(),
        SEQUENCE,
        40,
        1e-9,
    ),
    "padded spectrum": (
        lambda: Middle(
            functools.partial(through_spectrum, is_padded=True), modes=modes()
        ).double(),
        SEQUENCE,
        40,
        1e-9,
    ),
    "spectrum over neurons": (
        lambda: Middle(over_neurons, width=5).double(),
        SEQUENCE,
        0,
        1e-9,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_is_placed_and_permutes(case):
    build, values, least, tolerance = CASES[case]
    torch.manual_seed(0)
    model = build()
    graph = neural_graph(model, values, strict=True)
    assert movable(graph) >= least
    assert max(distance(model, values, graph, s) for s in range(2)) < tolerance


@pytest.mark.parametrize(
    ("case", "operator", "parameter"),
    [
        ("grouped products", "_grouped_mm", "experts"),
        ("quantisation", "_fused_moving_avg_obs_fq_helper", "0.weight"),
        ("spectrum", "_fft_c2r", None),
    ],
)
def test_the_law_can_fail(monkeypatch, case, operator, parameter):
    """Without its rule, the operator's parameters are given up and say so."""
    monkeypatch.delitem(OPERATORS, operator)
    build, values, least, _ = CASES[case]
    graph = neural_graph(build(), values)
    assert movable(graph) < least
    reasons = {item.parameter: item.reason for item in graph.unplaced}
    assert parameter is None or operator in reasons[parameter]
