import copy
import pickle
from dataclasses import replace

import pytest
import torch
from torch import nn

from l2o import PRESETS, NeuralGraphOpt, Rule, neural_graph, save_rule


@pytest.fixture(scope="module")
def rule(random_rule):
    return random_rule(PRESETS["default-ff"], dtype=torch.float32)


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def train(model, optimizer, steps=1):
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.ones(5, 3)).square().sum().backward()
        optimizer.step()


def values(model):
    return [param.detach().clone() for param in model.parameters()]


def moved(model, before):
    pairs = zip(model.parameters(), before, strict=True)
    return [not torch.equal(param, old) for param, old in pairs]


class TestParameters:
    def test_nothing_is_refused(self, rule):
        with pytest.raises(ValueError, match="a generator that was already used"):
            NeuralGraphOpt([], rule=rule)

    def test_a_used_generator_is_refused(self, rule, model):
        params = model.parameters()
        NeuralGraphOpt(params, rule=rule)
        with pytest.raises(ValueError, match="a generator that was already used"):
            NeuralGraphOpt(params, rule=rule)

    @pytest.mark.parametrize("groups", [[{"params": []}], [{"params": []}] * 2])
    def test_empty_groups_are_refused(self, rule, groups):
        with pytest.raises(ValueError, match="at least one parameter"):
            NeuralGraphOpt(groups, rule=rule)

    @pytest.mark.parametrize("kind", [torch.complex64, torch.int64])
    def test_numbers_that_are_not_real_are_refused(self, rule, kind):
        param = torch.zeros(2, 3, dtype=kind)
        with pytest.raises(TypeError, match=r"Leave it out, or convert it"):
            NeuralGraphOpt([torch.zeros(3), param], rule=rule)
        with pytest.raises(TypeError, match=f"got dtype {kind} for parameter 'w'"):
            NeuralGraphOpt([("w", param)], rule=rule)

    def test_what_is_no_tensor_is_refused(self, rule):
        with pytest.raises(TypeError, match="can only optimize Tensors"):
            NeuralGraphOpt([1.0], rule=rule)

    def test_sparse_gradients_are_refused(self, rule):
        embedding = nn.Embedding(5, 3, sparse=True)
        optimizer = NeuralGraphOpt(embedding.parameters(), rule=rule)
        embedding(torch.tensor([1, 2])).sum().backward()
        with pytest.raises(TypeError, match="sparse=False"):
            optimizer.step()

    @pytest.mark.parametrize("lr", [-1.0, float("nan")])
    def test_lr_is_not_negative(self, rule, model, lr):
        with pytest.raises(ValueError, match=rf"lr={lr}\. 1\.0 is as meta-trained"):
            NeuralGraphOpt(model.parameters(), lr=lr, rule=rule)
        with pytest.raises(ValueError, match="lr must be finite, and zero or above"):
            NeuralGraphOpt([{"params": [*model.parameters()], "lr": lr}], rule=rule)

    def test_weight_decay_is_not_negative(self, rule, model):
        with pytest.raises(ValueError, match=r"weight_decay=-0\.1\. 0\.0 means none"):
            NeuralGraphOpt(model.parameters(), weight_decay=-0.1, rule=rule)

    def step_with_odd_shapes(self, rule, *, named):
        params = {"a": torch.tensor(1.0), "b": torch.ones(0, 3), "c": torch.ones(2, 3)}
        params = {key: nn.Parameter(value) for key, value in params.items()}
        optimizer = NeuralGraphOpt(
            params.items() if named else params.values(), rule=rule
        )
        for param in params.values():
            param.grad = torch.ones_like(param)
        optimizer.step()
        assert params["a"] != 1
        assert (params["c"] != 1).all()

    @pytest.mark.parametrize("name", sorted({*PRESETS} - {"paper-nfn"}))
    def test_scalars_and_empty_tensors_with_names(self, random_rule, name):
        rule = random_rule(PRESETS[name], dtype=torch.float32)
        self.step_with_odd_shapes(rule, named=True)

    def test_nfn_reads_chains_only(self, random_rule):
        rule = random_rule(PRESETS["paper-nfn"], dtype=torch.float32)
        with pytest.raises(ValueError, match="NFNNet needs a plain chain"):
            self.step_with_odd_shapes(rule, named=True)

    @pytest.mark.parametrize("name", ["default", "paper"])
    def test_scalars_and_empty_tensors_without_names(self, random_rule, name):
        rule = random_rule(PRESETS[name], dtype=torch.float32)
        self.step_with_odd_shapes(rule, named=False)

    def test_two_networks_with_the_same_names(self, rule):
        first, second = nn.Linear(3, 2), nn.Linear(3, 2)
        before = values(first), values(second)
        optimizer = NeuralGraphOpt(
            [*first.named_parameters(), *second.named_parameters()], rule=rule
        )
        (first(torch.ones(1, 3)) + second(torch.ones(1, 3))).sum().backward()
        optimizer.step()
        assert all(moved(second, before[1]))
        assert all(moved(first, before[0]))


class TestRule:
    def test_a_file_will_do(self, rule, model, tmp_path):
        save_rule(rule, tmp_path / "rule.safetensors")
        twin = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
        twin.load_state_dict(model.state_dict())
        train(model, NeuralGraphOpt(model.parameters(), rule=rule))
        path = tmp_path / "rule.safetensors"
        train(twin, NeuralGraphOpt(twin.parameters(), rule=str(path)))
        assert moved(twin, values(model)) == [False] * 4

    def test_a_missing_file_is_named(self, model):
        with pytest.raises(FileNotFoundError, match=r"'no/rule'.*Check the spelling"):
            NeuralGraphOpt(model.parameters(), rule="no/rule")

    def test_it_is_shared_not_copied(self, rule, model):
        assert NeuralGraphOpt(model.parameters(), rule=rule).rule is rule

    def test_it_must_lie_with_the_parameters(self, model):
        rule = Rule(PRESETS["default-ff"]).to("meta")
        with pytest.raises(ValueError, match=r"Call rule\.to\('cpu'\) first"):
            NeuralGraphOpt(model.parameters(), rule=rule)
        with pytest.raises(ValueError, match=r"Call rule\.to\('meta'\) first"):
            NeuralGraphOpt(model.to("meta").parameters(), rule=Rule())

    def test_a_file_is_moved_to_the_parameters(self, rule, tmp_path):
        save_rule(rule, tmp_path / "rule.safetensors")
        model = nn.Linear(3, 2, device="meta")
        path = tmp_path / "rule.safetensors"
        optimizer = NeuralGraphOpt(model.parameters(), rule=path)
        assert {param.device.type for param in optimizer.rule.parameters()} == {"meta"}

    def test_parameters_lie_together(self, rule, model):
        model[2].bias = nn.Parameter(torch.zeros(2, device="meta"))
        with pytest.raises(ValueError, match=r"got '2\.bias' on meta\. Move the model"):
            NeuralGraphOpt(model.named_parameters(), rule=rule)

    def move(self, params):
        """Send parameters to another device, as accelerate does behind our back."""
        for param in params:
            moved_away = nn.Parameter(torch.zeros_like(param, device="meta"))
            moved_away.grad = torch.zeros_like(moved_away)
            torch.utils.swap_tensors(param, moved_away)

    def test_it_follows_the_parameters(self, model):
        optimizer = NeuralGraphOpt(model.parameters())
        train(model, optimizer)
        self.move(model.parameters())
        optimizer.step()
        held = [v for state in optimizer.state.values() for v in state.values()]
        held += [*optimizer.rule.parameters()]
        assert {value.device.type for value in held} == {"meta"}

    def test_parameters_stay_together(self, model):
        optimizer = NeuralGraphOpt(model.parameters())
        train(model, optimizer)
        self.move(model[2].parameters())
        with pytest.raises(ValueError, match="use one optimizer per device"):
            optimizer.step()

    def test_the_users_rule_does_not_follow(self, rule, model):
        optimizer = NeuralGraphOpt(model.parameters(), rule=rule)
        self.move(model.parameters())
        with pytest.raises(ValueError, match=r"Call rule\.to\('meta'\) first"):
            optimizer.step()


class TestGraph:
    def test_it_is_inferred_from_what_is_given(self, rule, model):
        for params, module, source in [
            (list(model.parameters()), None, "parameter shapes"),
            (model.parameters(), None, "parameter names and shapes"),
            (model.named_parameters(), None, "parameter names and shapes"),
            (model.parameters(), model, "parameter names and shapes"),
        ]:
            optimizer = NeuralGraphOpt(params, rule=rule, model=module)
            assert optimizer.graph.source == source
            assert optimizer.graph.placed_share == 1.0

    def test_it_may_be_given(self, rule, model):
        graph = neural_graph(model)
        loose = neural_graph(
            {f"{name}?": torch.zeros(shape) for name, shape in []} or model
        )
        assert loose == graph
        optimizer = NeuralGraphOpt(model.named_parameters(), rule=rule, graph=graph)
        assert optimizer.graph is graph
        train(model, optimizer)

    def test_it_must_fit(self, rule, model):
        graph = neural_graph(nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)))
        with pytest.raises(ValueError, match="Build it from the same parameters"):
            NeuralGraphOpt(model.named_parameters(), rule=rule, graph=graph)
        params = list(model.parameters())
        with pytest.raises(ValueError, match="under the same names"):
            NeuralGraphOpt(params, rule=rule, graph=neural_graph(model))

    def test_the_rule_must_be_able_to_read_it(self):
        model = nn.Conv2d(1, 2, 7)
        with pytest.raises(ValueError, match=r"NGGNNConfig\(kernel=None\)"):
            NeuralGraphOpt(model.parameters(), rule=Rule(PRESETS["paper"]))

    def test_the_model_must_own_the_parameters(self, rule, model):
        other = nn.Linear(3, 2)
        params = [*model.parameters(), *other.parameters()]
        with pytest.raises(ValueError, match=r"got 2 of 6 that it does not own"):
            NeuralGraphOpt(params, rule=rule, model=model)

    def test_it_spans_the_model_where_some_parameters_are_optimised(
        self, random_rule, model
    ):
        rule = random_rule(PRESETS["default"], dtype=torch.float32)
        before = values(model)
        optimizer = NeuralGraphOpt(model[2].parameters(), rule=rule, model=model)
        assert [group.size for group in optimizer.graph.groups] == [3, 4, 2]
        train(model, optimizer, steps=2)
        assert moved(model, before) == [False, False, True, True]
        assert all(param.isfinite().all() for param in model.parameters())
        assert len(optimizer.state) == 2


class TestGrowing:
    def test_a_group_joins_the_graph(self, random_rule, model):
        rule = random_rule(PRESETS["default"], dtype=torch.float32)
        optimizer = NeuralGraphOpt(model[0].parameters(), rule=rule)
        assert [group.size for group in optimizer.graph.groups] == [3, 4]
        train(model, optimizer)
        before = values(model)
        optimizer.add_param_group({"params": model[2].parameters(), "lr": 0.5})
        assert [group.size for group in optimizer.graph.groups] == [3, 4, 2]
        assert optimizer.param_groups[1]["lr"] == 0.5
        train(model, optimizer)
        assert all(moved(model, before))
        assert optimizer.state[model[0].bias]["step"] == 2
        assert optimizer.state[model[2].bias]["step"] == 1

    @pytest.mark.parametrize(
        ("group", "error"),
        [
            ({"params": [torch.zeros(2, dtype=torch.int64)]}, TypeError),
            ({"params": [torch.zeros(2)], "lr": -1.0}, ValueError),
            ({"params": [torch.zeros(2)], "weight_decay": -1.0}, ValueError),
            ({"params": [torch.zeros(2, device="meta")]}, ValueError),
            ({"params": [torch.zeros(1, 1, 7, 7)]}, ValueError),
        ],
        ids=["integer", "lr", "weight_decay", "device", "kernel"],
    )
    def test_a_refused_group_leaves_everything_as_it_was(
        self, random_rule, model, group, error
    ):
        rule = random_rule(PRESETS["paper"], dtype=torch.float32)
        optimizer = NeuralGraphOpt(model.parameters(), rule=rule)
        train(model, optimizer)
        graph, shown = optimizer.graph, repr(optimizer)
        with pytest.raises(error):
            optimizer.add_param_group(group)
        assert optimizer.graph is graph
        assert repr(optimizer) == shown
        assert len(optimizer.param_groups) == 1
        before = values(model)
        train(model, optimizer)
        assert all(moved(model, before))

    def test_a_given_graph_does_not_grow(self, rule, model):
        graph = neural_graph(model[0])
        optimizer = NeuralGraphOpt(model[0].named_parameters(), rule=rule, graph=graph)
        names = [(f"2.{name}", param) for name, param in model[2].named_parameters()]
        with pytest.raises(ValueError, match="a graph over exactly its parameters"):
            optimizer.add_param_group({"params": names})
        assert optimizer.graph is graph
        train(model, optimizer)

    def test_a_model_takes_only_its_own(self, rule, model):
        optimizer = NeuralGraphOpt(model[0].parameters(), rule=rule, model=model)
        with pytest.raises(ValueError, match="does not own"):
            optimizer.add_param_group({"params": nn.Linear(2, 2).parameters()})
        optimizer.add_param_group({"params": model[2].parameters()})
        before = values(model)
        train(model, optimizer)
        assert all(moved(model, before))


class TestUse:
    def test_it_says_what_it_is(self, rule, model):
        text = repr(NeuralGraphOpt(model.named_parameters(), lr=0.5, rule=rule))
        weights = sum(param.numel() for param in rule.parameters())
        assert "lr: 0.5" in text
        assert f"rule: Rule of {weights:,} weights" in text
        assert text.endswith("graph: parameter names and shapes, 100% placed")

    def test_a_scheduler_sets_the_multiplier(self, rule, model):
        optimizer = NeuralGraphOpt(model.parameters(), rule=rule)
        scheduler = torch.optim.lr_scheduler.LinearLR(
            optimizer, 1.0, 0.0, total_iters=2
        )
        for step in range(3):
            before = values(model)
            train(model, optimizer)
            assert all(moved(model, before)) == (step < 2)
            scheduler.step()

    def test_autocast_does_not_reach_into_the_step(self, rule, model):
        twin = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
        twin.load_state_dict(model.state_dict())
        first = NeuralGraphOpt(model.parameters(), rule=rule)
        second = NeuralGraphOpt(twin.parameters(), rule=rule)
        for param, other in zip(model.parameters(), twin.parameters(), strict=True):
            param.grad = torch.ones_like(param)
            other.grad = torch.ones_like(other)
        first.step()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            second.step()
        assert moved(twin, values(model)) == [False] * 4

    def test_nothing_of_a_step_stays_in_the_autograd_graph(self, rule, model):
        optimizer = NeuralGraphOpt(model.parameters(), rule=rule)
        train(model, optimizer)
        assert all(
            param.requires_grad and param.is_leaf for param in model.parameters()
        )
        for state in optimizer.state.values():
            assert not any(value.requires_grad for value in state.values())
        assert all(weight.grad is None for weight in rule.parameters())

    @pytest.mark.parametrize(
        "duplicate", [copy.deepcopy, lambda item: pickle.loads(pickle.dumps(item))]
    )
    def test_a_compiled_optimizer_can_be_copied(self, rule, model, duplicate):
        optimizer = NeuralGraphOpt(model.parameters(), rule=rule, compile=True)
        assert repr(duplicate(optimizer)) == repr(optimizer)

    def test_the_memory_format_does_not_matter(self, random_rule):
        rule = random_rule(PRESETS["default"])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            kernel = torch.randn(4, 3, 3, 3, dtype=torch.float64)
        found = []
        for layout in (torch.contiguous_format, torch.channels_last):
            param = nn.Parameter(kernel.clone(memory_format=layout))
            optimizer = NeuralGraphOpt([param], rule=rule)
            for step in range(3):
                param.grad = (kernel * step).sin().clone(memory_format=layout)
                optimizer.step()
            assert param.is_contiguous(memory_format=layout)
            found.append(param.detach())
        torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)

    def test_tied_weights_are_one_parameter(self, rule):
        model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
        model[2].weight = model[0].weight
        optimizer = NeuralGraphOpt(model.parameters(), rule=rule, model=model)
        before = values(model)
        train(model, optimizer)
        assert all(moved(model, before))
        assert len(optimizer.state) == 3


@pytest.mark.compile
@pytest.mark.parametrize("name", ["default", "paper-ng-t"])
def test_compiled_is_eager_to_rounding(random_rule, model, name):
    """Several steps with another learning rate each."""
    net = PRESETS[name].net
    net = replace(net, width=8, layers=1, head=replace(net.head, width=4, layers=1))
    config = replace(PRESETS[name], net=net)
    twin = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    twin.load_state_dict(model.state_dict())
    before = values(model)
    for network, compiled in ((model, False), (twin, True)):
        optimizer = NeuralGraphOpt(
            network.parameters(),
            weight_decay=0.1,
            rule=random_rule(config, dtype=torch.float32),
            compile=compiled,
        )
        for step in range(4):
            optimizer.param_groups[0]["lr"] = 1.0 / (step + 1)
            train(network, optimizer)
    assert all(moved(model, before))
    for param, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(other, param, rtol=0, atol=1e-5)
