"""Truncated backpropagation is the derivative of the unrolled losses themselves."""

import pytest
import torch

from meta_train.estimator_config import TBPTTConfig


@pytest.fixture(params=["mean", "log"])
def objective(request):
    return request.param


@pytest.fixture
def window_loss(bound, task):
    """Return the objective of five steps from where a run is, by a change of theta."""

    def build(run, objective, *, frozen_grads=None):
        start = run.params, run.grads, run.state
        batches = [run.batches.next() for _ in range(5)]

        def value(way, distance):
            weights = list(bound.rule.parameters())
            kept = torch.nn.utils.parameters_to_vector(weights)
            torch.nn.utils.vector_to_parameters(kept + distance * way, weights)
            params, grads, state = start
            losses, seen = [], []
            for index, batch in enumerate(batches):
                state = bound.rule.advance(state, grads)
                updates = bound.updates(params, grads, state)
                params = {name: params[name] + updates[name] for name in params}
                loss, grads, _ = task.loss_and_grads(params, batch)
                seen.append(grads)
                if frozen_grads is not None:
                    grads = frozen_grads[index]
                losses.append(loss.log() if objective == "log" else loss)
            torch.nn.utils.vector_to_parameters(kept, weights)
            return sum(losses) / len(losses), seen

        return value

    return build


@pytest.fixture
def slope(window_loss, start, skipped, objective, generator):
    """Return a direction of theta and the difference quotient along it."""

    def build(bound, *, second_order):
        run = start()
        for _ in range(skipped):
            run.step()
            run.measure()
        size = sum(weight.numel() for weight in bound.rule.parameters())
        way = torch.randn(size, generator=generator, dtype=torch.float64)
        way = way / way.norm()
        batches = run.batches.state_dict()
        value = window_loss(run, objective)
        _, grads = value(way, 0.0)
        if not second_order:
            run.batches.load_state_dict(batches)
            value = window_loss(run, objective, frozen_grads=grads)
        with torch.no_grad():
            quotient = (value(way, 1e-6)[0] - value(way, -1e-6)[0]) / 2e-6
        return way, quotient

    return build


@pytest.fixture
def found(estimated, start, skipped, objective, generator):
    """Return what the estimator adds for the same five steps."""

    def build(**changes):
        run = start()
        for _ in range(skipped):
            run.step()
            run.measure()
        config = TBPTTConfig(window=5, **{"objective": objective, **changes})
        return estimated(config, run, 5, generator)

    return build


# Central differences of size 1e-6 are this exact and no more.
CLOSE = {"rtol": 1e-5, "atol": 1e-7}


@pytest.mark.parametrize("second_order", [True, False])
def test_it_agrees_with_difference_quotients(bound, found, slope, second_order):
    """To first order, gradients of the optimizee are held at what they were."""
    way, quotient = slope(bound, second_order=second_order)
    gradient = found(second_order=second_order)
    torch.testing.assert_close(gradient @ way, quotient, **CLOSE)


def test_the_law_can_fail(bound, found, slope, objective):
    way, quotient = slope(bound, second_order=True)
    other = "log" if objective == "mean" else "mean"
    for changes in ({"second_order": False}, {"objective": other}):
        with pytest.raises(AssertionError):
            torch.testing.assert_close(found(**changes) @ way, quotient, **CLOSE)


def test_windows_add_up_and_the_run_goes_on(start, estimated, generator, assert_agree):
    config = TBPTTConfig(window=5)
    run = start()
    parts = sum(estimated(config, run, 5, generator) for _ in range(3))
    assert_agree(parts, estimated(config, start(), 15, generator))
    twin = start()
    for _ in range(15):
        twin.step()
        twin.measure()
    assert (run.position, run.loss) == (15, pytest.approx(twin.loss))
    for name, param in twin.params.items():
        torch.testing.assert_close(run.params[name], param)
        assert not run.params[name].requires_grad


def test_a_life_that_ends_cuts_the_window(start, estimated, generator, assert_agree):
    run = start(length=3)
    short = estimated(TBPTTConfig(window=5), run, 5, generator)
    assert (run.position, run.is_over) == (3, True)
    assert_agree(short, estimated(TBPTTConfig(window=3), start(), 3, generator))
