"""The running norm of NG-GNN: frozen in evaluation, once per batch in training."""

from contextlib import nullcontext

import pytest
import torch

from l2o.companion import (
    Classification,
    CompanionConfig,
    FitConfig,
    InputsConfig,
    NetworkClassifier,
    NetworkSet,
    NGGNNBackboneConfig,
    fit,
    layered_graph,
    one_batch,
    stack_networks,
    training_run,
)
from l2o.companion.running_norm import RunningNorm

GRAPH = layered_graph({"0.weight": (4, 2), "0.bias": (4,), "1.weight": (1, 4)})


def states(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(*shape, generator=generator, dtype=torch.float64) + 2


@pytest.fixture
def norm():
    found = RunningNorm(4).double()
    found.mean.fill_(0.5)
    found.deviation.fill_(2.0)
    with torch.no_grad():
        found.weight.copy_(torch.arange(1.0, 5.0))
        found.bias.copy_(torch.arange(4.0))
    return found


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    params = {
        name: torch.randn(12, *shape, generator=generator, dtype=torch.float64)
        for name, shape in GRAPH.shapes.items()
    }
    return NetworkSet(stack_networks(GRAPH, params), torch.arange(12) % 2)


def build(layers=3):
    torch.manual_seed(0)
    config = CompanionConfig(
        inputs=InputsConfig(num_inputs=2, num_hidden=1, num_outputs=1),
        backbone=NGGNNBackboneConfig(width=6, layers=layers),
    )
    return NetworkClassifier(config, num_classes=2).double()


def norms_of(model):
    return [layer for layer in model.modules() if isinstance(layer, RunningNorm)]


@pytest.mark.parametrize("is_training", [False, True])
def test_it_normalises_by_the_running_values(norm, is_training):
    nodes = states(7, 4)
    found = norm.train(is_training)(nodes)
    expected = (nodes - 0.5) / (2.0 + 1e-5) * norm.weight + norm.bias
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_evaluation_changes_nothing(norm):
    norm.eval()(states(7, 4))
    assert (float(norm.mean), float(norm.deviation)) == (0.5, 2.0)


def test_training_moves_them_a_tenth_towards_the_batch(norm):
    nodes = states(7, 4)
    norm.train()(nodes)
    mean, deviation = nodes.mean(), nodes.std(correction=0)
    assert float(norm.mean) == pytest.approx(float(0.45 + 0.1 * mean))
    assert float(norm.deviation) == pytest.approx(float(1.8 + 0.1 * deviation))


def test_no_gradient_passes_through_them(norm):
    nodes = states(7, 4).requires_grad_()
    norm.train()(nodes).sum().backward()
    expected = (norm.weight / (2.0 + 1e-5)).expand(7, 4)
    torch.testing.assert_close(nodes.grad, expected)


class TestParts:
    def test_parts_of_a_batch_count_once(self, norm):
        nodes, whole = states(8, 4), RunningNorm(4).double()
        whole.load_state_dict(norm.state_dict())
        whole(nodes)
        with one_batch(norm):
            for part in nodes.split(3):
                norm(part)
        assert float(norm.mean) == pytest.approx(float(whole.mean), rel=1e-12)
        assert float(norm.deviation) == pytest.approx(float(whole.deviation), rel=1e-12)

    def test_otherwise_each_call_counts(self, norm):
        expected = 0.5
        for part in states(8, 4).split(4):
            norm(part)
            expected = 0.9 * expected + 0.1 * float(part.mean())
        assert float(norm.mean) == pytest.approx(expected)

    def trained(self, data, part):
        model = build()
        config = FitConfig(epochs=2, batch_size=6, warmup_steps=1)
        fit(model, data, data, Classification(), config, part=part)
        return torch.cat([value.flatten() for value in model.state_dict().values()])

    def test_training_does_not_depend_on_how_batches_are_cut(self, data):
        found = [self.trained(data, part) for part in (None, 2)]
        torch.testing.assert_close(*found, rtol=1e-7, atol=1e-9)

    def test_the_law_can_fail(self, data, monkeypatch):
        whole = self.trained(data, None)
        monkeypatch.setattr(training_run, "one_batch", lambda _: nullcontext())
        with pytest.raises(AssertionError):
            torch.testing.assert_close(
                self.trained(data, 2), whole, rtol=1e-7, atol=1e-9
            )


def test_they_start_as_the_training_set_has_them(data):
    model, seen = build(), []
    model.fit_statistics(data.networks)
    for norm in norms_of(model):
        norm.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    model.eval()(data.networks)
    assert len(seen) == 2
    for norm, nodes in zip(norms_of(model), seen, strict=True):
        torch.testing.assert_close(norm.mean, nodes.mean())
        torch.testing.assert_close(norm.deviation, nodes.std(correction=0))


def test_a_run_that_was_cut_continues_bit_for_bit(data, tmp_path):
    class Interrupted(Classification):
        left = 3

        def losses(self, model, batch, targets):
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            return super().losses(model, batch, targets)

    config = FitConfig(epochs=3, batch_size=6, save_seconds=0.0)

    def run(model, objective, path=None):
        return fit(model, data, data, objective, config, checkpoint=path)

    whole, again = build(), build()
    run(whole, Classification())
    with pytest.raises(KeyboardInterrupt):
        run(build(), Interrupted(), tmp_path / "run.pt")
    run(again, Classification(), tmp_path / "run.pt")
    for name, value in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
