"""Groups, hooks, closures, `maximize`, and the state of the world around a step."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from l2o import NeuralGraphOpt, SafetyConfig


class TestGroups:
    def test_each_obeys_its_own_settings(self, rule, build_model, loss_of):
        """Settings do not change what the rule says, only how far it is followed."""
        steps = {}
        for lr in (0.0, 0.5, 1.0):
            model = build_model()
            before = model[0].weight.detach().clone()
            groups = [
                {"params": model[0].parameters(), "lr": lr},
                {"params": model[3].parameters(), "lr": 0.25, "weight_decay": 0.1},
            ]
            optimizer = NeuralGraphOpt(groups, rule=rule)
            loss_of(model).backward()
            optimizer.step()
            steps[lr] = model[0].weight.detach() - before, model[3].weight.detach()
        assert (steps[0.0][0] == 0).all()
        torch.testing.assert_close(2 * steps[0.5][0], steps[1.0][0])
        for _, other in steps.values():
            assert torch.equal(other, steps[1.0][1])

    def test_a_frozen_group_is_read_and_stays(self, rule, model, train):
        model[0].requires_grad_(requires_grad=False)
        before = copy.deepcopy(model[0])
        groups = [{"params": part.parameters()} for part in (model[0], model[3])]
        optimizer = NeuralGraphOpt(groups, weight_decay=0.1, rule=rule)
        train(model, optimizer, range(3))
        for param, old in zip(model[0].parameters(), before.parameters(), strict=True):
            assert torch.equal(param, old)
        model[0].requires_grad_(requires_grad=True)
        train(model, optimizer, range(1))
        assert not torch.equal(model[0].weight, before.weight)

    def test_named_groups(self, rule, model, train):
        groups = [
            {"params": model[0].named_parameters()},
            {"params": [(f"head.{n}", p) for n, p in model[3].named_parameters()]},
        ]
        optimizer = NeuralGraphOpt(groups, rule=rule)
        train(model, optimizer, range(2))
        names = list(optimizer.diagnostics().clipped)
        assert names == ["weight", "bias", "head.weight", "head.bias"]

    @pytest.mark.filterwarnings("ignore:NeuralGraphOpt needs a place")
    def test_a_parameter_that_is_listed_twice_moves_once(self, rule, build_model):
        model, twin = build_model(), build_model()
        with pytest.warns(UserWarning, match="duplicate parameters"):
            doubled = NeuralGraphOpt([model[3].weight, model[3].weight], rule=rule)
        single = NeuralGraphOpt([twin[3].weight], rule=rule)
        for part, optimizer in ((model, doubled), (twin, single)):
            part[3].weight.grad = part[3].weight.detach().sin()
            optimizer.step()
        assert len(doubled.state) == 1
        assert not torch.equal(model[3].weight, build_model()[3].weight)

    def test_parameters_that_are_exchanged_are_trained(
        self, rule, build_model, train, assert_same
    ):
        """As accelerate does when it shards a model behind an optimizer's back."""
        model, twin = build_model(), build_model()
        optimizer = NeuralGraphOpt(model.parameters(), rule=rule)
        old = list(model.parameters())
        for layer in (model[0], model[3]):
            for name, param in list(layer.named_parameters()):
                setattr(layer, name, nn.Parameter(param.detach().clone()))
        optimizer.param_groups[0]["params"] = list(model.parameters())
        train(model, optimizer, range(3))
        train(twin, NeuralGraphOpt(twin.parameters(), rule=rule), range(3))
        assert_same(model, twin)
        assert all(param not in optimizer.state for param in old)

    @pytest.mark.parametrize("params", [torch.zeros(2), {torch.zeros(2)}])
    def test_what_has_no_order_is_refused(self, params, rule):
        with pytest.raises(TypeError, match=r"in order; got.*Pass model\.parameters"):
            NeuralGraphOpt(params, rule=rule)

    def test_a_rate_is_one_number(self, rule, model):
        with pytest.raises(ValueError, match=r"1-element; got shape \(2,\)"):
            NeuralGraphOpt(model.parameters(), lr=torch.ones(2), rule=rule)

    def test_a_rate_may_be_a_tensor_of_any_shape(
        self, rule, build_model, train, assert_same
    ):
        models = []
        for lr in (0.5, torch.tensor(0.5), torch.tensor([0.5])):
            models.append(build_model())
            optimizer = NeuralGraphOpt(models[-1].parameters(), lr=lr, rule=rule)
            train(models[-1], optimizer, range(2))
        for model in models[1:]:
            assert_same(model, models[0])


class TestMaximize:
    def test_it_is_descent_of_the_negative(self, rule, build_model, assert_same):
        up, down = build_model(), build_model()
        optimizers = [
            NeuralGraphOpt(model.parameters(), rule=rule, maximize=model is up)
            for model in (up, down)
        ]
        for number in range(3):
            for sign, model, optimizer in zip(
                (1, -1), (up, down), optimizers, strict=True
            ):
                for param in model.parameters():
                    param.grad = sign * (param.detach() + number).cos()
                optimizer.step()
        assert_same(up, down)

    def test_it_climbs(self, model, loss_of, train):
        optimizer = NeuralGraphOpt(model.parameters(), maximize=True)
        before = loss_of(model).item()
        train(model, optimizer, [0] * 10)
        assert loss_of(model).item() > before

    def test_files_from_before_there_was_one(self, rule, model, train):
        optimizer = NeuralGraphOpt(model.parameters(), rule=rule)
        train(model, optimizer, range(1))
        saved = copy.deepcopy(optimizer.state_dict())
        for group in saved["param_groups"]:
            del group["maximize"], group["betas"]
        optimizer.load_state_dict(saved)
        assert optimizer.param_groups[0]["maximize"] is False
        train(model, optimizer, range(1))


class TestHooks:
    def test_all_run_in_order(self, rule, model, train):
        optimizer = NeuralGraphOpt(model.parameters(), rule=rule)
        calls = []

        def note(word):
            return lambda *_: calls.append(word)

        handles = [
            register_optimizer_step_pre_hook(note("global before")),
            register_optimizer_step_post_hook(note("global after")),
            optimizer.register_step_pre_hook(note("before")),
            optimizer.register_step_post_hook(note("after")),
        ]
        train(model, optimizer, range(1))
        for handle in handles:
            handle.remove()
        train(model, optimizer, range(1))
        assert calls == ["global before", "before", "after", "global after"]

    def test_state_hooks_run(self, rule, model):
        optimizer = NeuralGraphOpt(model.parameters(), rule=rule)
        calls = []
        optimizer.register_state_dict_pre_hook(lambda _: calls.append("before"))
        optimizer.register_state_dict_post_hook(lambda *_: {"other": True})
        assert optimizer.state_dict() == {"other": True}
        assert calls == ["before"]


class TestZeroGrad:
    @pytest.mark.parametrize("to_none", [True, False])
    def test_gradients_go(self, rule, model, loss_of, to_none):
        optimizer = NeuralGraphOpt(model.parameters(), rule=rule)
        loss_of(model).backward()
        optimizer.zero_grad(set_to_none=to_none)
        for param in model.parameters():
            assert param.grad is None if to_none else (param.grad == 0).all()

    def test_zeros_from_the_start_move_nothing(self, model):
        optimizer = NeuralGraphOpt(model.parameters())
        before = copy.deepcopy(model)
        for _ in range(2):
            for param in model.parameters():
                param.grad = torch.zeros_like(param)
            optimizer.step()
        for param, old in zip(model.parameters(), before.parameters(), strict=True):
            assert torch.equal(param, old)


def test_a_closure_may_run_many_times(rule, model, loss_of):
    optimizer = NeuralGraphOpt(model.parameters(), rule=rule)

    def closure():
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(3)]
    assert len(set(losses)) == 3


class TestWorld:
    """Defaults and generators that belong to the user."""

    def test_the_default_precision_does_not_matter(
        self, rule, build_model, train, assert_same
    ):
        models = [build_model(), build_model()]
        for model, dtype in zip(models, (torch.float32, torch.float64), strict=True):
            previous = torch.get_default_dtype()
            torch.set_default_dtype(dtype)
            try:
                optimizer = NeuralGraphOpt(model.parameters(), rule=rule)
                for number in range(2):
                    for param in model.parameters():
                        param.grad = (param.detach() + number).cos()
                    optimizer.step()
            finally:
                torch.set_default_dtype(previous)
        assert_same(*models)

    def test_nor_does_the_default_device(self, model):
        with torch.device("meta"):
            optimizer = NeuralGraphOpt(model.parameters())
            for param in model.parameters():
                param.grad = param.detach().cos()
            optimizer.step()
        assert all(param.device.type == "cpu" for param in model.parameters())
        assert optimizer.diagnostics().skipped == 0

    def test_no_random_number_is_drawn(self, model, loss_of):
        before = torch.get_rng_state()
        optimizer = NeuralGraphOpt(model.parameters())
        loss_of(model).backward()
        optimizer.step()
        assert torch.equal(torch.get_rng_state(), before)

    def test_gradients_stay_as_they_were(self, rule, model, loss_of):
        optimizer = NeuralGraphOpt(model.parameters(), rule=rule, maximize=True)
        loss_of(model).backward()
        before = [param.grad.clone() for param in model.parameters()]
        optimizer.step()
        for param, grad in zip(model.parameters(), before, strict=True):
            assert torch.equal(param.grad, grad)

    def test_parameters_stay_the_same_tensors(self, rule, model, train):
        """Aliases, such as a flat buffer, follow."""
        views = [param.data_ptr() for param in model.parameters()]
        alias = model[3].weight.detach()
        optimizer = NeuralGraphOpt(model.parameters(), rule=rule)
        train(model, optimizer, range(2))
        assert [param.data_ptr() for param in model.parameters()] == views
        assert torch.equal(alias, model[3].weight)


class TestDiagnostics:
    def test_counts_follow_a_growing_model(self, rule, model, train):
        optimizer = NeuralGraphOpt(model[0].named_parameters(), rule=rule)
        train(model, optimizer, range(2))
        before = optimizer.diagnostics()
        names = [(f"head.{name}", p) for name, p in model[3].named_parameters()]
        optimizer.add_param_group({"params": names})
        after = optimizer.diagnostics()
        assert after.steps == before.steps == 2
        assert after.largest_update["weight"] == before.largest_update["weight"] > 0
        assert after.largest_update["head.weight"] == 0

    def test_they_need_the_net(self, rule, model, train):
        optimizer = NeuralGraphOpt(model.parameters(), rule=rule, safety=None)
        train(model, optimizer, range(1))
        with pytest.raises(ValueError, match="needs the safety net; got safety=None"):
            optimizer.diagnostics()

    @pytest.mark.parametrize("name", ["max_update", "max_gradient"])
    def test_limits_are_positive(self, name):
        with pytest.raises(
            ValueError, match=rf"SafetyConfig {name} must be above zero"
        ):
            SafetyConfig(**{name: 0.0})

    def test_what_has_no_gradient_counts_zero(self, rule, model, loss_of):
        optimizer = NeuralGraphOpt(model.named_parameters(), rule=rule)
        loss_of(model).backward()
        model[0].bias.grad = None
        optimizer.step()
        seen = optimizer.diagnostics()
        assert seen.last_update["0.bias"] == seen.last_gradient["0.bias"] == 0
        assert seen.last_update["0.weight"] > 0


def test_tied_weights_move_once(rule, train):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(4, 4, bias=False)
            self.last = nn.Linear(4, 4, bias=False)
            self.last.weight = self.first.weight

        def forward(self, images):
            return self.last(self.first(images.flatten(1)[:, :4]).tanh())

    model = Tied()
    for params in (model.parameters(), model.named_parameters()):
        optimizer = NeuralGraphOpt(params, rule=rule)
        train(model, optimizer, range(2))
        assert len(optimizer.state) == 1
        assert model.last.weight is model.first.weight
