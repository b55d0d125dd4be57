import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.step_cost import Subject, cell
from benchmarks.step_cost.cell import Cell, main, measure, run_cell
from benchmarks.step_cost.networks import build_network
from benchmarks.step_cost.subjects import LABELS, RULES, prepare, rule_gflop

CELL = Cell(
    network="mlp-10k",
    subject="adam-fused",
    device="cpu",
    threads=1,
    repetitions=3,
    seconds=10.0,
    memory_bytes=None,
)


@pytest.fixture(autouse=True)
def small_product(monkeypatch):
    """Compare with a product that takes no time."""
    matrix = torch.ones(8, 8)
    product = Subject(name="product", call=lambda: matrix @ matrix, gflop=1e-6)
    monkeypatch.setattr(cell, "plain_product", lambda device: product)


def of(subject, **changes):
    return dataclasses.replace(CELL, subject=subject, **changes)


def test_adam_keeps_two_floats_and_multiplies_no_matrices():
    row = measure(CELL)
    assert row["status"] == "measured"
    assert row["state_floats"] == 2.0
    assert row["gflop"] == 0
    assert row["repetitions"] == 3
    low, high = row["quartiles_ms"]
    assert 0 < low <= row["median_ms"] <= high
    assert row["product_gflop_per_s"] > 0
    assert row["placed_share"] is None


def test_forward_and_backward_have_the_products_of_three_passes():
    row = measure(of("forward-backward"))
    weights, batch, width = 4 * 50 * 50, 128, 50
    # A gradient for the inputs of each layer but the first.
    products = 2 * batch * (3 * weights - width * width)
    assert row["gflop"] == pytest.approx(products / 1e9)
    assert row["state_floats"] == 0


def test_products_are_counted_without_values():
    """As many as torch counts in a real step."""
    network = build_network("mlp-10k", torch.device("cpu"))
    prepared = prepare("default", network)
    with FlopCounterMode(display=False) as counter:
        prepared.call()
    assert prepared.graph is not None
    found = rule_gflop("default", network, prepared.graph)
    assert found == counter.get_total_flops() / 1e9 > 0


@pytest.mark.slow
def test_the_rule_on_pyg_keeps_the_state_of_the_rule():
    dense, flat = measure(of("default")), measure(of("default-pyg"))
    assert dense["state_floats"] == flat["state_floats"] == 6.0
    assert dense["placed_share"] == flat["placed_share"] == 1.0
    assert flat["gflop"] >= dense["gflop"] > 0


@pytest.mark.parametrize(
    "subject",
    [
        *("adam-foreach", "small-fc", "default"),
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in RULES
            if name != "default"
        ),
    ],
)
def test_every_eager_step_can_be_measured(subject):
    assert measure(of(subject, repetitions=1))["median_ms"] > 0


def test_one_time_has_no_quartiles():
    assert measure(of("adam-fused", repetitions=1))["quartiles_ms"] is None


def test_a_first_step_beyond_the_time_is_what_counts():
    row = measure(of("default", seconds=1e-9))
    assert row["repetitions"] == 1
    assert row["median_ms"] == row["first_ms"]
    assert row["gflop"] > 0  # which takes no time worth counting
    assert measure(of("small-fc", seconds=1e-9))["gflop"] is None


@pytest.mark.slow
def test_the_papers_rule_is_measured_alone():
    row = measure(of("paper-forward", repetitions=1))
    assert row["gflop"] > 0.1
    assert set(LABELS) >= {"paper-forward"}


@pytest.mark.slow
def test_a_cell_is_measured_in_a_process_of_its_own():
    assert run_cell(CELL, limit_s=60)["status"] == "measured"


@pytest.mark.slow
def test_a_cell_that_needs_too_much_says_so():
    tight = dataclasses.replace(CELL, network="mlp-10m", memory_bytes=2**20)
    assert run_cell(tight, limit_s=60) == {"status": "out of memory"}
    assert run_cell(CELL, limit_s=0.01) == {"status": "out of time", "limit_s": 0.01}


@pytest.mark.slow
def test_a_cell_that_fails_says_why():
    row = run_cell(dataclasses.replace(CELL, device="nowhere"), limit_s=60)
    assert row["status"].startswith("failed: ValueError: device must be ")


@pytest.mark.slow
@pytest.mark.compile
def test_a_compiled_step_is_compiled_before_it_is_timed():
    row = measure(of("default-ff-compiled"))
    assert row["median_ms"] < row["first_ms"]
    assert row["gflop"] is None


def test_errors_other_than_memory_are_raised():
    with pytest.raises(ValueError, match="Choose auto or cpu"):
        main(
            '{"network": "mlp-10k", "subject": "default", "device": "cuda", '
            '"threads": 1, "repetitions": 1, "seconds": 1, "memory_bytes": null}'
        )
