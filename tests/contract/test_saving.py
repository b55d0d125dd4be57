"""State dictionaries: what is in them, who may load them, which hooks see them."""

import copy
import math

import pytest
import torch
from torch import nn

from l2o import PRESETS, NeuralGraphOpt, Rule
from l2o.rule.checkpoint import rule_hash

PLAIN = (int, float, bool, str, tuple, list)


@pytest.fixture
def trained(rule, model, train):
    optimizer = NeuralGraphOpt(model.parameters(), rule=rule)
    train(model, optimizer, range(2))
    return optimizer


@pytest.fixture
def fresh(rule, build_model):
    """Build an optimizer of a model of the same kind."""

    def build(model=None, **options):
        model = build_model() if model is None else model
        return NeuralGraphOpt(model.parameters(), **{"rule": rule, **options})

    return build


class TestContent:
    def test_states_hold_tensors_and_groups_hold_plain_values(self, trained):
        saved = trained.state_dict()
        assert saved.keys() == {"state", "param_groups"}
        for state in saved["state"].values():
            assert all(isinstance(value, torch.Tensor) for value in state.values())
        for group in saved["param_groups"]:
            assert all(isinstance(value, PLAIN) for value in group.values())

    def test_loading_leaves_it_alone_and_takes_copies(self, trained, fresh):
        saved = trained.state_dict()
        kept = copy.deepcopy(saved)
        other = fresh()
        other.load_state_dict(saved)
        for state in other.state.values():
            for value in state.values():
                value.add_(1)
        assert saved["param_groups"] == kept["param_groups"]
        for key, state in saved["state"].items():
            for name, value in state.items():
                assert torch.equal(value, kept["state"][key][name])

    def test_frozen_parameters_have_none(self, rule, model, train, fresh):
        model[0].requires_grad_(requires_grad=False)
        optimizer = NeuralGraphOpt(model.parameters(), rule=rule)
        train(model, optimizer, range(2))
        saved = optimizer.state_dict()
        assert sorted(saved["state"]) == [2, 3]
        other = fresh()
        other.load_state_dict(saved)
        assert len(other.state) == 2


class TestWidth:
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
    def test_it_is_that_of_the_parameters_or_float32(self, trained, fresh, dtype):
        model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Linear(12, 4)).to(dtype)
        optimizer = fresh(model)
        optimizer.load_state_dict(trained.state_dict())
        wide = torch.promote_types(dtype, torch.float32)
        for state in optimizer.state.values():
            assert state["momenta"].dtype == state["second_moment"].dtype == wide
            assert state["step"].dtype == torch.int64

    def test_a_number_may_stand_for_the_step(self, trained, fresh):
        saved = copy.deepcopy(trained.state_dict())
        for state in saved["state"].values():
            state["step"] = state["step"].item()
        other = fresh()
        other.load_state_dict(saved)
        assert {float(state["step"]) for state in other.state.values()} == {2.0}


class TestWhoMayLoad:
    def test_not_another_rule(self, trained, fresh):
        other = fresh(rule="ff")
        with pytest.raises(
            ValueError, match=r"state of its own rule.*delete rule_hash"
        ):
            other.load_state_dict(trained.state_dict())
        assert not other.state

    def test_another_rule_on_purpose(self, trained, fresh):
        saved = trained.state_dict()
        for group in saved["param_groups"]:
            del group["rule_hash"]
        other = fresh(rule="ff")
        other.load_state_dict(saved)
        assert len(other.state) == 4
        assert other.param_groups[0]["rule_hash"] == rule_hash(other.rule)

    def test_not_another_model(self, trained, fresh):
        model = nn.Sequential(nn.Conv2d(1, 3, 2), nn.Linear(12, 4))
        with pytest.raises(ValueError, match=r"momenta \[5, 3, 1, 3, 3\].*and model"):
            fresh(model).load_state_dict(trained.state_dict())

    def test_not_another_optimizer(self, model, train, fresh):
        adam = torch.optim.Adam(model.parameters())
        train(model, adam, range(1))
        with pytest.raises(ValueError, match=r"amsgrad.* of another.*start without"):
            fresh(model).load_state_dict(adam.state_dict())

    def test_not_even_an_empty_state_of_another_optimizer(self, model, fresh):
        adam = torch.optim.Adam(model.parameters(), lr=7.0)
        other = fresh(model)
        lr = other.param_groups[0]["lr"]
        with pytest.raises(ValueError, match=r"of another optimizer.*start without"):
            other.load_state_dict(adam.state_dict())
        assert other.param_groups[0]["lr"] == lr

    @pytest.mark.parametrize(
        ("name", "bad"),
        [("second_moment", -1.0), ("second_moment", math.nan), ("momenta", math.inf)],
    )
    def test_averages_are_finite_and_squares_not_negative(
        self, trained, fresh, name, bad
    ):
        saved = copy.deepcopy(trained.state_dict())
        fresh().load_state_dict(saved)
        saved["state"][1][name].view(-1)[0] = bad
        other = fresh()
        with pytest.raises(
            ValueError, match=rf"{name} of parameter 1\. Load an earlier"
        ):
            other.load_state_dict(saved)
        assert not other.state

    @pytest.mark.parametrize(
        "change",
        [
            lambda saved: saved.pop("state"),
            lambda saved: saved.update(param_groups=3),
            lambda saved: saved["param_groups"][0].update(params=None),
            lambda saved: saved["param_groups"][0].update(lr="fast"),
            lambda saved: saved["param_groups"][0].update(lr=-1.0),
            lambda saved: saved["param_groups"][0].update(betas=[0.9]),
            lambda saved: saved["state"].update({0: [1, 2]}),
        ],
    )
    def test_a_malformed_state_changes_nothing(self, trained, fresh, change):
        saved = copy.deepcopy(trained.state_dict())
        change(saved)
        other = fresh()
        lr = other.param_groups[0]["lr"]
        with pytest.raises(ValueError, match="needs a state dictionary that it saved"):
            other.load_state_dict(saved)
        assert other.param_groups[0]["lr"] == lr
        assert not other.state

    def test_an_empty_state_of_its_own(self, rule, model, fresh):
        other = fresh(model)
        saved = NeuralGraphOpt(model.parameters(), rule=rule, lr=0.5).state_dict()
        other.load_state_dict(saved)
        assert other.param_groups[0]["lr"] == 0.5

    def test_nothing_is_loaded_where_a_hook_fails(self, trained, fresh):
        def fail(_):
            raise OSError("no more disk")

        other = fresh(lr=0.3)
        other.register_load_state_dict_post_hook(fail)
        with pytest.raises(OSError, match="no more disk"):
            other.load_state_dict(trained.state_dict())
        assert not other.state
        assert other.param_groups[0]["lr"] == 0.3

    def test_other_groups_are_refused_by_torch(self, trained, fresh):
        other = fresh(nn.Linear(3, 2))
        with pytest.raises(ValueError, match="doesn't match the size"):
            other.load_state_dict(trained.state_dict())

    def test_the_hash_follows_a_rule_that_learns(self, random_rule, build_model):
        rule = random_rule(PRESETS["default-ff"], dtype=torch.float32)
        optimizer = NeuralGraphOpt(build_model().parameters(), rule=rule)
        before = optimizer.state_dict()
        with torch.no_grad():
            next(rule.parameters()).add_(1)
        with pytest.raises(ValueError, match="delete rule_hash"):
            optimizer.load_state_dict(before)
        optimizer.load_state_dict(optimizer.state_dict())

    def test_new_groups_carry_it(self, rule, model):
        optimizer = NeuralGraphOpt(model[0].parameters(), rule=rule)
        optimizer.add_param_group({"params": model[3].parameters()})
        hashes = {group["rule_hash"] for group in optimizer.param_groups}
        assert hashes == {rule_hash(rule)}


class TestHash:
    def test_it_is_the_same_for_a_copy(self, rule):
        assert rule_hash(copy.deepcopy(rule)) == rule_hash(rule)
        assert 0 <= rule_hash(rule) < 2**63

    def test_it_tells_rules_apart(self, random_rule):
        def build():
            return random_rule(PRESETS["default-ff"], dtype=torch.float32)

        class Other(Rule):
            pass

        moved = build()
        with torch.no_grad():
            next(moved.parameters()).view(-1)[0] += 1e-6
        paper = random_rule(PRESETS["paper-ff"], dtype=torch.float32)
        other = random_rule(PRESETS["default-ff"], dtype=torch.float32, kind=Other)
        rules = [build(), moved, paper, other, build().double(), build().to("meta")]
        assert len({rule_hash(rule) for rule in rules}) == len(rules)
        assert rule_hash(build()) == rule_hash(build())


class TestHooks:
    def test_what_a_hook_returns_is_what_is_loaded(self, trained, fresh):
        """The wide state too, although torch hands no hook the result of another."""

        def double(optimizer, saved):
            saved = copy.deepcopy(saved)
            for state in saved["state"].values():
                state["momenta"] *= 2
            return saved

        other = fresh()
        other.register_load_state_dict_pre_hook(double)
        other.load_state_dict(trained.state_dict())
        pairs = zip(other.state.values(), trained.state.values(), strict=True)
        for state, expected in pairs:
            assert torch.equal(state["momenta"], 2 * expected["momenta"])

    def test_a_hook_behind_sees_the_wide_state(self, trained, fresh, build_model):
        seen = []
        other = fresh(build_model().bfloat16())
        other.register_load_state_dict_post_hook(
            lambda optimizer: seen.extend(
                state["momenta"].dtype for state in optimizer.state.values()
            )
        )
        other.load_state_dict(trained.state_dict())
        assert set(seen) == {torch.float32}

    def test_none_of_ours_remain(self, trained):
        for _ in range(2):
            trained.load_state_dict(trained.state_dict())
        assert not trained._optimizer_load_state_dict_pre_hooks
        assert not trained._optimizer_load_state_dict_post_hooks

    def test_state_that_belongs_to_no_parameter_is_kept(self, trained, fresh):
        trained.state["epoch"] = 3
        other = fresh()
        other.load_state_dict(trained.state_dict())
        assert other.state["epoch"] == 3
