"""One formula, many callers: the shell, stacked networks, other precisions."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from l2o import (
    Hyper,
    NeuralGraphOpt,
    Rule,
    SafetyConfig,
    learned_step,
    neural_graph,
)
from l2o.rule.config import NominalHeadConfig, PaperHeadConfig


def assert_same(found, expected):
    """Compare dictionaries of tensors bit for bit."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)


def tensors_of(model):
    return {name: param.detach().clone() for name, param in model.named_parameters()}


def set_grads(model, grads):
    for name, param in model.named_parameters():
        param.grad = None if grads is None else grads.get(name)


@pytest.fixture
def model(sequential):
    """A fresh MLP; tests may train it."""
    return sequential(lambda: nn.Linear(3, 4), nn.Tanh, lambda: nn.Linear(4, 2))


HYPER = {"weight": Hyper(lr=0.5, weight_decay=0.1), "bias": Hyper(lr=2.0)}


class TestShell:
    """`NeuralGraphOpt` is `learned_step` and nothing else."""

    def compare(self, rule, model, random_grads, hyper):
        weights = [p for name, p in model.named_parameters() if "weight" in name]
        biases = [p for name, p in model.named_parameters() if "bias" in name]
        optimizer = NeuralGraphOpt(
            [{"params": weights, "lr": 0.5, "weight_decay": 0.1}, {"params": biases}],
            lr=2.0,
            rule=rule,
            model=model,
            safety=SafetyConfig(max_update=1e6),  # a rule at random takes large steps
        )
        params, state = tensors_of(model), {}
        graph = neural_graph(params)
        by_name = {name: hyper[name.split(".")[1]] for name in params}
        for grads in random_grads(params, steps=5):
            set_grads(model, grads)
            optimizer.step()
            with torch.no_grad():
                params, state = learned_step(rule, graph, params, grads, state, by_name)
        assert_same(tensors_of(model), params)
        for name, param in model.named_parameters():
            assert_same(optimizer.state[param], state[name])

    def test_it_takes_the_pure_step_bit_for_bit(self, rule, model, random_grads):
        self.compare(rule, model, random_grads, HYPER)

    @pytest.mark.parametrize("wrong", [{"lr": 1.0}, {"weight_decay": 0.0}])
    def test_the_law_can_fail(self, small_rule, model, random_grads, wrong):
        hyper = {**HYPER, "weight": replace(HYPER["weight"], **wrong)}
        with pytest.raises(AssertionError):
            self.compare(small_rule, model, random_grads, hyper)

    def test_names_do_not_matter_in_a_plain_chain(self, rule, model, random_grads):
        twin = tensors_of(model)
        params = [nn.Parameter(tensor) for tensor in twin.values()]
        by_order = NeuralGraphOpt(params, rule=rule)
        by_pairs = NeuralGraphOpt(model.named_parameters(), rule=rule)
        for grads in random_grads(twin):
            set_grads(model, grads)
            for param, grad in zip(params, grads.values(), strict=True):
                param.grad = grad
            by_order.step()
            by_pairs.step()
        assert_same(tensors_of(model), dict(zip(twin, params, strict=True)))

    def test_inputs_of_the_pure_step_stay_as_they_were(self, rule, model, random_grads):
        params = tensors_of(model)
        graph = neural_graph(params)
        first, second = random_grads(params, steps=2)
        with torch.no_grad():
            _, state = learned_step(rule, graph, params, first, {})
            kept = {name: dict(item) for name, item in state.items()}
            copies = [
                {name: tensor.clone() for name, tensor in item.items()}
                for item in (params, second, *kept.values())
            ]
            learned_step(rule, graph, params, second, state)
        for item, copy in zip((params, second, *kept.values()), copies, strict=True):
            assert_same(item, copy)


class TestStackedNetworks:
    def compare(self, rule, build_network, random_grads, assert_updates_agree, order):
        networks = [build_network("pooled", 2).params for _ in range(3)]
        networks = [
            {name: (index + 1) * param for name, param in params.items()}
            for index, params in enumerate(networks)
        ]
        graph = neural_graph(networks[0])
        gradients = [random_grads(networks[0], steps=2, seed=seed) for seed in range(3)]

        def two_steps(params, first, second):
            new, state = learned_step(rule, graph, params, first, {})
            last, _ = learned_step(rule, graph, new, second, state)
            return {name: last[name] - params[name] for name in params}

        def stack(items):
            return {
                name: torch.stack([item[name] for item in items])
                for name in graph.shapes
            }

        with torch.no_grad():
            stacked = torch.func.vmap(two_steps)(
                stack(networks), *(stack(step) for step in zip(*gradients, strict=True))
            )
            for place, index in enumerate(order):
                assert_updates_agree(
                    {name: tensor[place] for name, tensor in stacked.items()},
                    two_steps(networks[index], *gradients[index]),
                )

    def test_vmap_equals_a_loop(
        self, rule, build_network, random_grads, assert_updates_agree
    ):
        self.compare(
            rule, build_network, random_grads, assert_updates_agree, order=(0, 1, 2)
        )

    def test_the_law_can_fail(
        self, small_rule, build_network, random_grads, assert_updates_agree
    ):
        with pytest.raises(AssertionError, match="is off by"):
            self.compare(
                small_rule,
                build_network,
                random_grads,
                assert_updates_agree,
                order=(1, 2, 0),
            )

    def test_states_stack_too(self, rule, mlp, random_grads, assert_updates_agree):
        """A vmapped step may start from any state, its step count included."""
        states, all_grads = [], random_grads(mlp.params, steps=3)
        with torch.no_grad():
            for count in (1, 3):
                state, params = {}, mlp.params
                for grads in all_grads[:count]:
                    params, state = learned_step(rule, mlp.graph, params, grads, state)
                states.append(state)

            def step(state):
                new, _ = learned_step(rule, mlp.graph, mlp.params, all_grads[0], state)
                return {name: new[name] - mlp.params[name] for name in new}

            stacked = {
                name: {
                    key: torch.stack([state[name][key] for state in states])
                    for key in states[0][name]
                }
                for name in mlp.params
            }
            found = torch.func.vmap(step)(stacked)
            for index, state in enumerate(states):
                assert_updates_agree(
                    {name: tensor[index] for name, tensor in found.items()}, step(state)
                )


class TestPrecision:
    def test_float32_is_close_to_float64(
        self, config, random_rule, mlp, random_grads, last_update, assert_updates_agree
    ):
        grads = random_grads(mlp.params)
        expected = last_update(random_rule(config), mlp.graph, mlp.params, grads)

        def narrow(tensors):
            return {name: tensor.float() for name, tensor in tensors.items()}

        found = last_update(
            random_rule(config, dtype=torch.float32),
            mlp.graph,
            narrow(mlp.params),
            [narrow(step) for step in grads],
        )
        # An update is the difference of parameters about a hundred times its size.
        assert_updates_agree(found, expected, tolerance=1e-3)
        with pytest.raises(AssertionError, match="is off by"):
            assert_updates_agree(found, expected)

    def test_the_rule_computes_in_its_own_precision(
        self, config, random_rule, mlp, random_grads
    ):
        (grads,) = random_grads(mlp.params, steps=1)
        rule = random_rule(config, dtype=torch.float32)
        new, state = learned_step(rule, mlp.graph, mlp.params, grads, {})
        for name in new:
            assert new[name].dtype == torch.float64
            assert state[name]["momenta"].dtype == torch.float64

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_narrow_parameters_keep_wide_momenta(
        self, config, random_rule, model, random_grads, dtype
    ):
        model = model.to(dtype)
        rule = random_rule(config, dtype=torch.float32)
        optimizer = NeuralGraphOpt(model.parameters(), rule=rule)
        before = tensors_of(model)
        for grads in random_grads(before):
            set_grads(model, grads)
            optimizer.step()
        for name, param in model.named_parameters():
            state = optimizer.state[param]
            assert param.dtype == dtype
            assert param.isfinite().all()
            assert not torch.equal(param, before[name])
            assert state["momenta"].dtype == torch.float32
            assert state["second_moment"].dtype == torch.float32


class TestNothingToDo:
    def test_without_gradients_nothing_changes(self, rule, model):
        optimizer = NeuralGraphOpt(model.parameters(), rule=rule)
        before = tensors_of(model)
        assert optimizer.step() is None
        assert_same(tensors_of(model), before)
        assert not optimizer.state

    def test_a_parameter_without_gradient_keeps_value_and_state(
        self, rule, model, random_grads
    ):
        optimizer = NeuralGraphOpt(model.parameters(), weight_decay=0.1, rule=rule)
        first, second, third = random_grads(tensors_of(model))
        del first["0.bias"], third["2.weight"]
        set_grads(model, first)
        before = tensors_of(model)
        optimizer.step()
        assert model[0].bias not in optimizer.state
        assert torch.equal(model[0].bias, before["0.bias"])
        set_grads(model, second)
        optimizer.step()
        assert optimizer.state[model[0].bias]["step"] == 1
        assert optimizer.state[model[2].weight]["step"] == 2
        kept = model[2].weight.detach().clone(), optimizer.state[model[2].weight]
        set_grads(model, third)
        optimizer.step()
        assert torch.equal(model[2].weight, kept[0])
        assert_same(optimizer.state[model[2].weight], kept[1])
        assert all(param.isfinite().all() for param in model.parameters())

    def test_frozen_layers_are_read_and_not_moved(self, rule, model, random_grads):
        """Fine-tuning: the others move by finite amounts from the first step on."""
        model[0].requires_grad_(requires_grad=False)
        optimizer = NeuralGraphOpt(model.parameters(), weight_decay=0.1, rule=rule)
        before = tensors_of(model)
        for _ in range(3):
            loss = model(torch.ones(2, 3, dtype=torch.float64)).square().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        for name, param in model.named_parameters():
            assert param.isfinite().all()
            assert torch.equal(param, before[name]) == name.startswith("0.")
        assert len(optimizer.state) == 2

    def test_zero_gradients_from_the_start(self, rule, model):
        optimizer = NeuralGraphOpt(model.parameters(), rule=rule)
        before = tensors_of(model)
        for _ in range(3):
            set_grads(model, {name: p * 0.0 for name, p in before.items()})
            optimizer.step()
        if isinstance(rule.config.head, NominalHeadConfig):
            assert_same(tensors_of(model), before)
        else:
            assert isinstance(rule.config.head, PaperHeadConfig)
            assert all(param.isfinite().all() for param in model.parameters())

    def test_lr_zero_moves_nothing_but_the_state(self, rule, model, random_grads):
        optimizer = NeuralGraphOpt(
            model.parameters(), lr=0.0, weight_decay=0.1, rule=rule
        )
        before = tensors_of(model)
        for grads in random_grads(before):
            set_grads(model, grads)
            optimizer.step()
        assert_same(tensors_of(model), before)
        assert all(state["step"] == 3 for state in optimizer.state.values())

    def test_the_closure_is_called_with_gradients_on(self, rule, model):
        optimizer = NeuralGraphOpt(model.parameters(), rule=rule)
        before = tensors_of(model)

        def closure():
            assert torch.is_grad_enabled()
            optimizer.zero_grad()
            loss = model(torch.ones(2, 3, dtype=torch.float64)).square().sum()
            loss.backward()
            return loss

        with torch.no_grad():
            loss = optimizer.step(closure)
            assert not torch.is_grad_enabled()
        assert loss > 0
        after = tensors_of(model)
        assert not any(torch.equal(after[name], before[name]) for name in before)


def test_an_untrained_rule_with_the_nominal_head_does_not_depend_on_its_seed(
    configs, mlp, random_grads
):
    (grads,) = random_grads(mlp.params, steps=1)
    for config in configs.values():
        if isinstance(config.head, PaperHeadConfig):
            continue
        found = [
            learned_step(Rule(config).double(), mlp.graph, mlp.params, grads, {})[0]
            for _ in range(2)
        ]
        assert_same(*found)
