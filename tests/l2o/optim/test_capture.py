"""The optimizer finds the module behind its parameters and watches it run once."""

import copy
import gc
import pickle
import warnings
import weakref

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from l2o import NeuralGraphOpt, Rule, neural_graph
from l2o.optim.capture import Capture, owner_of
from l2o.rule.config import PRESETS

TRACED = "graph: trace of Sequential, 100% placed"
SHAPES = "graph: parameter names and shapes, 73% placed"


@pytest.fixture
def rule():
    return Rule(PRESETS["default"])


@pytest.fixture
def model():
    return build()


def build():
    return nn.Sequential(
        nn.Linear(3, 6, bias=False), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2)
    )


def run(module, batch=5):
    module(torch.randn(batch, 3)).float().sum().backward()


def level(optimizer):
    return repr(optimizer).splitlines()[-1]


def hooks(module):
    return [len(part._forward_pre_hooks) for part in module.modules()]


class TestOwner:
    def test_it_is_found_in_what_parameters_returns(self, model):
        for params in (
            model.parameters(),
            model.named_parameters(),
            filter(lambda param: param.requires_grad, model.parameters()),
            {"params": model.parameters()},
            [{"params": model.parameters(), "lr": 0.5}],
        ):
            assert owner_of(params) is model

    def test_it_is_nobody_elsewhere(self, model):
        used = model.parameters()
        list(used)
        for params in (
            used,
            list(model.parameters()),
            (param for param in model.parameters()),
            [{"params": model[0].parameters()}, {"params": model[3].parameters()}],
            iter([]),
        ):
            assert owner_of(params) is None

    def test_looking_takes_nothing(self, model):
        params = model.parameters()
        owner_of(params)
        assert len(list(params)) == 5


class TestFirstForward:
    def test_it_gives_the_graph(self, rule, model):
        optimizer = NeuralGraphOpt(model.parameters(), rule=rule)
        assert level(optimizer) == SHAPES
        run(model)
        assert level(optimizer) == TRACED
        optimizer.step()
        expected = neural_graph(model, torch.randn(5, 3))
        assert optimizer.graph == expected
        assert list(optimizer.graph.shapes) == [n for n, _ in model.named_parameters()]

    def test_no_hook_stays(self, rule, model):
        optimizer = NeuralGraphOpt(model.parameters(), rule=rule)
        assert sum(hooks(model)) == 1
        run(model)
        assert sum(hooks(model)) == 0
        optimizer.step()
        assert sum(hooks(model)) == 0

    @pytest.mark.parametrize("grad", [torch.no_grad, torch.inference_mode])
    def test_it_may_be_one_without_gradients(self, rule, model, grad):
        optimizer = NeuralGraphOpt(model.parameters(), rule=rule)
        with grad():
            model(torch.randn(5, 3))
        assert level(optimizer) == TRACED

    def test_it_may_run_under_autocast(self, rule, model):
        optimizer = NeuralGraphOpt(model.parameters(), rule=rule)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            model(torch.randn(5, 3).bfloat16())
        assert level(optimizer) == TRACED

    def test_it_may_take_named_inputs(self, rule):
        class Named(nn.Module):
            def __init__(self):
                super().__init__()
                self.norm, self.last = nn.LayerNorm(3), nn.Linear(3, 2)

            def forward(self, *, values, scale=1.0):
                return self.last(self.norm(values)) * scale

        module = Named()
        optimizer = NeuralGraphOpt(module.parameters(), rule=rule)
        module(values=torch.randn(4, 3), scale=2.0)
        assert level(optimizer) == "graph: trace of Named, 100% placed"

    def test_calls_on_other_tensors_do_not_count(self, rule, model):
        optimizer = NeuralGraphOpt(model.parameters(), rule=rule)
        copies = {name: p.detach().clone() for name, p in model.named_parameters()}
        torch.func.functional_call(model, copies, (torch.randn(5, 3),))
        torch.func.vmap(model.eval())(torch.randn(1, 5, 3))
        assert level(optimizer) == SHAPES
        run(model)
        assert level(optimizer) == TRACED

    def test_a_wrapper_for_many_processes_is_looked_through(
        self, rule, model, tmp_path
    ):
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
        )
        try:
            wrapped = DistributedDataParallel(model)
            inner = NeuralGraphOpt(model.parameters(), rule=rule)
            outer = NeuralGraphOpt(wrapped.parameters(), rule=rule)
            run(wrapped)
            assert level(inner) == level(outer) == TRACED
            assert next(iter(outer.graph.shapes)) == "module.0.weight"
        finally:
            torch.distributed.destroy_process_group()

    def test_a_named_model_is_watched_too(self, rule, model):
        optimizer = NeuralGraphOpt([model[3].weight], rule=rule, model=model)
        run(model)
        assert level(optimizer) == TRACED
        assert len(optimizer.graph.shapes) == 5

    def test_some_parameters_of_a_model_will_do(self, rule, model):
        model[0].requires_grad_(False)
        chosen = filter(lambda param: param.requires_grad, model.parameters())
        optimizer = NeuralGraphOpt(chosen, rule=rule)
        run(model)
        optimizer.step()
        assert list(optimizer.graph.shapes) == ["1.weight", "1.bias", *NAMES[3:]]
        assert optimizer.graph.placed_share == 1


NAMES = ["0.weight", "1.weight", "1.bias", "3.weight", "3.bias"]


class TestWithoutForward:
    def test_shapes_do_and_one_warning_says_so(self, rule, model):
        optimizer = NeuralGraphOpt(model.parameters(), rule=rule)
        for param in model.parameters():
            param.grad = torch.ones_like(param)
        with pytest.warns(UserWarning, match="Call the model itself before"):
            optimizer.step()
        optimizer.step()
        run(model)
        optimizer.step()
        assert level(optimizer) == TRACED

    def test_nothing_is_said_where_shapes_prove_all(self, rule):
        layer = nn.Linear(3, 2)
        optimizer = NeuralGraphOpt(layer.parameters(), rule=rule)
        layer.weight.grad = torch.ones_like(layer.weight)
        optimizer.step()


class Stubborn(nn.Module):
    """Fails when it runs a second time."""

    def __init__(self):
        super().__init__()
        self.norm, self.last, self.runs = nn.LayerNorm(3), nn.Linear(3, 2), []

    def forward(self, values):
        self.runs.append(1)
        if len(self.runs) > 1:
            raise OSError("the data are gone")
        return self.last(self.norm(values))


class TestFailure:
    def test_becomes_one_warning(self, rule):
        module = Stubborn()
        optimizer = NeuralGraphOpt(module.parameters(), rule=rule)
        run(module)
        with pytest.warns(UserWarning, match="OSError: the data are gone"):
            optimizer.step()
        optimizer.step()
        assert optimizer.graph.source == "parameter names and shapes"

    def test_a_graph_that_the_rule_cannot_read_is_left(self, rule):
        """A trace may find cells where shapes saw a pooled head."""

        class Flat(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv, self.last = nn.Conv2d(1, 2, 3), nn.Linear(2 * 36, 2)

            def forward(self, values):
                return self.last(self.conv(values).flatten(1))

        class Narrow(Rule):
            def check(self, graph):
                if graph.source.startswith("trace"):
                    raise ValueError("too wide")

        module = Flat()
        optimizer = NeuralGraphOpt(module.parameters(), rule=Narrow(PRESETS["default"]))
        module(torch.randn(2, 1, 8, 8)).sum().backward()
        with pytest.warns(UserWarning, match="too wide"):
            optimizer.step()


class TestCopies:
    def test_of_the_model_are_not_watched(self, rule, model):
        optimizer = NeuralGraphOpt(model.parameters(), rule=rule)
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            run(twin)
            assert sum(hooks(twin)) == 0
        assert level(optimizer) == SHAPES
        run(model)
        assert level(optimizer) == TRACED

    def test_of_both_watch_each_other(self, rule, model):
        pair = (model, NeuralGraphOpt(model.parameters(), rule=rule))
        module, optimizer = copy.deepcopy(pair)
        run(module)
        optimizer.step()
        assert level(optimizer) == TRACED
        assert level(pair[1]) == SHAPES

    def test_pickled_go_on_by_shapes(self, rule, model):
        pair = (model, NeuralGraphOpt(model.parameters(), rule=rule))
        module, optimizer = pickle.loads(pickle.dumps(pair))
        run(module)
        optimizer.step()
        assert level(optimizer) == SHAPES
        assert sum(hooks(module)) == 0

    def test_keep_a_traced_graph(self, rule, model):
        optimizer = NeuralGraphOpt(model.parameters(), rule=rule)
        run(model)
        twin = copy.deepcopy(optimizer)
        assert level(twin) == level(optimizer) == TRACED

    def test_a_checkpoint_fits_every_level(self, rule, model):
        optimizer = NeuralGraphOpt(model.parameters(), rule=rule)
        run(model)
        optimizer.step()
        other = build()
        later = NeuralGraphOpt(other.parameters(), rule=rule)
        later.load_state_dict(optimizer.state_dict())
        assert level(later) == SHAPES
        run(other)
        later.step()
        assert level(later) == TRACED


class TestReferences:
    def test_the_optimizer_does_not_keep_the_model(self, rule, model):
        optimizer = NeuralGraphOpt(model.parameters(), rule=rule)
        gone = weakref.ref(model)
        del model
        gc.collect()
        # pytest keeps the fixture's value; drop what only the optimizer could hold.
        assert optimizer._capture is not None
        assert optimizer._capture.model is gone()

    def test_the_hook_leaves_with_the_optimizer(self, rule, model):
        optimizer = NeuralGraphOpt(model.parameters(), rule=rule)
        del optimizer
        gc.collect()
        assert sum(hooks(model)) == 0

    def test_a_capture_holds_its_module_weakly(self):
        module = build()
        capture = Capture(module)
        gone = weakref.ref(module)
        del module
        gc.collect()
        assert gone() is None
        assert capture.model is None
        assert capture.read({}, lambda graph: None) is None


class TestGrowing:
    def test_parameters_of_the_same_model_are_traced_again(self, rule, model):
        chosen = filter(lambda param: param.dim() > 1, model.parameters())
        optimizer = NeuralGraphOpt(chosen, rule=rule)
        run(model)
        optimizer.step()
        vectors = [param for param in model.parameters() if param.dim() == 1]
        optimizer.add_param_group({"params": vectors})
        run(model)
        optimizer.step()
        assert sorted(optimizer.graph.shapes) == sorted(NAMES)
        assert len(optimizer.state) == 5

    def test_strangers_stand_alone_beside_the_trace(self, rule, model):
        optimizer = NeuralGraphOpt(model.parameters(), rule=rule)
        run(model)
        optimizer.step()
        other = nn.LayerNorm(4)
        optimizer.add_param_group({"params": other.parameters()})
        assert [item.parameter for item in optimizer.graph.unplaced] == [
            "added.5",
            "added.6",
        ]
        assert optimizer.graph.source == "trace of Sequential"


@pytest.mark.compile
class TestCompiled:
    @pytest.mark.parametrize("fullgraph", [False, True])
    def test_afterwards(self, rule, model, fullgraph):
        optimizer = NeuralGraphOpt(model.parameters(), rule=rule)
        torch._dynamo.reset()  # else it finds the code of another model's call
        compiled = torch.compile(model, backend="eager", fullgraph=fullgraph)
        for _ in range(3):
            run(compiled)
            optimizer.step()
        assert level(optimizer) == TRACED
        assert sum(hooks(model)) == 0

    def test_before(self, rule, model):
        compiled = torch.compile(model, backend="eager")
        optimizer = NeuralGraphOpt(compiled.parameters(), rule=rule)
        run(compiled)
        optimizer.step()
        assert level(optimizer) == TRACED

    def test_in_place(self, rule, model):
        model.compile(backend="eager")
        optimizer = NeuralGraphOpt(model.parameters(), rule=rule)
        for _ in range(2):
            run(model)
            optimizer.step()
        assert level(optimizer) == TRACED


def test_a_lazy_model_is_told_to_run_first(rule):
    lazy = nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 2))
    with pytest.raises(ValueError, match="Run the model once on real inputs first"):
        neural_graph(lazy, torch.randn(2, 3))
    with pytest.raises(ValueError, match="once before you build the optimizer"):
        NeuralGraphOpt(lazy.parameters(), rule=rule)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lazy(torch.randn(2, 3))
    assert neural_graph(lazy, torch.randn(2, 3)).placed_share == 1
