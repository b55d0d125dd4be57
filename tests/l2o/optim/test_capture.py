"""The optimizer finds the modules of its parameters when they run."""

import copy
import gc
import io
import pickle
import warnings
import weakref

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules.module import (
    _global_forward_hooks,
    _global_forward_hooks_with_kwargs,
    _global_forward_pre_hooks,
)
from torch.nn.parallel import DistributedDataParallel

from l2o import NeuralGraphOpt, Rule, neural_graph
from l2o.optim.names import names_in
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


def hooks():
    """Count the global hooks."""
    gc.collect()  # of optimizers that other tests left
    kinds = (_global_forward_pre_hooks, _global_forward_hooks)
    return sum(map(len, (*kinds, _global_forward_hooks_with_kwargs)))


def hooks_of(module):
    parts = module.modules()
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in parts)


class TestNames:
    def test_they_are_found_in_what_parameters_returns(self, model):
        for params in (
            model.parameters(),
            model.named_parameters(),
            filter(lambda param: param.requires_grad, model.parameters()),
            {"params": model.parameters()},
            [{"params": model.parameters(), "lr": 0.5}],
        ):
            assert list(names_in(params).values()) == NAMES

    def test_there_are_none_elsewhere(self, model):
        used = model.parameters()
        list(used)
        for params in (
            used,
            list(model.parameters()),
            (param for param in model.parameters()),
            [{"params": model[0].parameters()}, {"params": model[3].parameters()}],
            iter([]),
        ):
            assert names_in(params) == {}

    def test_looking_takes_nothing(self, model):
        params = model.parameters()
        names_in(params)
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
        before, filters = hooks(), list(warnings.filters)
        optimizer = NeuralGraphOpt(model.parameters(), rule=rule)
        assert hooks() == before + 3
        assert hooks_of(model) == 0
        run(model)
        assert hooks() == before
        optimizer.step()
        assert hooks() == before
        assert warnings.filters == filters

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
        assert level(optimizer) == SHAPES

    def test_nothing_is_said_where_shapes_prove_all(self, rule):
        layer = nn.Linear(3, 2)
        optimizer = NeuralGraphOpt(layer.parameters(), rule=rule)
        layer.weight.grad = torch.ones_like(layer.weight)
        optimizer.step()

    @pytest.mark.filterwarnings("ignore:NeuralGraphOpt needs a place in the graph")
    @pytest.mark.parametrize("lr", [0.0, 1.0])
    def test_a_step_that_only_makes_a_state_does_not_end_the_watch(
        self, model, rule, lr
    ):
        """As torch.distributed.checkpoint does before it loads; 1 is the control."""
        optimizer = NeuralGraphOpt(model.parameters(), lr=lr, rule=rule)
        for param in model.parameters():
            param.grad = torch.zeros_like(param)
        optimizer.step()
        assert (hooks() > 0) == (lr == 0)
        optimizer.param_groups[0]["lr"] = 1.0
        run(model)
        optimizer.step()
        assert level(optimizer) == (TRACED if lr == 0 else SHAPES)
        assert hooks() == 0


class Coupling(nn.Module):
    """Two networks whose shapes are those of one chain."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 2))
        self.shift = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 2))

    def log_prob(self, values):
        return (values * self.scale(values).exp() + self.shift(values)).square()


def _wires(graph):
    names = [group.name for group in graph.groups]
    return {
        (names[b.source.group], b.parameter, names[b.target.group])
        for b in graph.blocks
    }


class TestSeveralModules:
    def test_a_method_is_traced_module_by_module(self, rule):
        """Networks that read the same tensor read the same input neurons."""
        model = Coupling()
        optimizer = NeuralGraphOpt(model.parameters(), rule=rule)
        model.log_prob(torch.randn(8, 2)).sum().backward()
        optimizer.step()
        graph = optimizer.graph
        assert graph.source == "trace of Sequential and Sequential"
        assert graph.placed_share == 1
        assert list(graph.shapes) == [name for name, _ in model.named_parameters()]

        class Whole(Coupling):
            forward = Coupling.log_prob

        expected = neural_graph(Whole(), torch.randn(8, 2))
        assert _wires(graph) == _wires(expected)

    def test_inputs_that_were_written_in_between_are_two(self, rule):
        """The control: then nothing joins the networks."""
        model, values = Coupling(), torch.randn(8, 2)
        optimizer = NeuralGraphOpt(model.parameters(), rule=rule)
        with torch.no_grad():
            model.scale(values)
        values.add_(1)
        model.shift(values).sum().backward()
        optimizer.step()
        assert optimizer.graph.num_components == 2

    def test_a_tensor_that_is_passed_on_joins_them(self, rule):
        first, second = nn.Linear(3, 4), nn.Linear(4, 2)
        params = [*first.parameters(), *second.parameters()]
        optimizer = NeuralGraphOpt(params, rule=rule)
        second(first(torch.randn(5, 3))).sum().backward()
        optimizer.step()
        assert optimizer.graph.num_components == 1
        assert list(optimizer.graph.shapes) == [
            *("Linear.weight", "Linear.bias", "Linear#2.weight", "Linear#2.bias")
        ]

    @pytest.mark.parametrize(
        "between",
        [
            torch.Tensor.detach,
            lambda values: values[:, 0],
            lambda values: values.flatten(0, 1),
            lambda values: values.transpose(0, 1),
        ],
    )
    def test_so_does_a_view_of_it(self, rule, between):
        first, second = nn.Linear(3, 4), nn.Linear(4, 2)
        params = [*first.parameters(), *second.parameters()]
        optimizer = NeuralGraphOpt(params, rule=rule)
        second(between(first(torch.randn(5, 6, 3)))).sum().backward()
        second.weight.grad = torch.ones_like(second.weight)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            optimizer.step()
        assert optimizer.graph.num_components == 1
        assert optimizer.graph.placed_share == 1

    @pytest.mark.parametrize(
        "between", [torch.relu, torch.relu_, lambda values: torch.cat([values, values])]
    )
    def test_what_is_computed_in_between_is_told(self, rule, between):
        first, second = nn.Linear(3, 4), nn.Linear(4, 2)
        params = [*first.parameters(), *second.parameters()]
        optimizer = NeuralGraphOpt(params, rule=rule)
        second(between(first(torch.randn(5, 3)))).sum().backward()
        with pytest.warns(UserWarning, match="Let the forward of one module do it all"):
            optimizer.step()
        assert optimizer.graph.num_components == 2

    def test_nothing_is_told_of_independent_modules(self, rule):
        first, second = nn.Linear(3, 4), nn.Linear(4, 2)
        params = [*first.parameters(), *second.parameters()]
        optimizer = NeuralGraphOpt(params, rule=rule)
        first(torch.randn(5, 3)).sum().backward()
        second(torch.randn(5, 4).requires_grad_().relu()).sum().backward()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            optimizer.step()
        assert optimizer.graph.num_components == 2

    def test_the_whole_takes_the_place_of_its_parts(self, rule, model):
        optimizer = NeuralGraphOpt(list(model.parameters()), rule=rule)
        model[0](torch.randn(5, 3))
        run(model)
        optimizer.step()
        assert level(optimizer) == TRACED

    def test_a_part_that_never_ran_is_named(self, rule, model):
        other = nn.Linear(30, 20)
        params = [*model.parameters(), *other.parameters()]
        optimizer = NeuralGraphOpt(params, rule=rule)
        run(model)
        with pytest.warns(UserWarning, match="never used it"):
            optimizer.step()
        optimizer.step()
        loose = [item.parameter for item in optimizer.graph.unplaced]
        assert loose == ["added.5", "added.6"]

    def test_a_foreign_module_is_nothing(self, rule, model):
        optimizer = NeuralGraphOpt(list(model.parameters()), rule=rule)
        nn.Linear(3, 2)(torch.randn(5, 3))
        assert level(optimizer) == "graph: parameter shapes, 73% placed"
        run(model)
        assert level(optimizer) == TRACED


class Switch(nn.Module):
    """Experts of which each call uses one."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.chosen = 0

    def forward(self, values):
        return self.experts[self.chosen](self.first(values))


class TestLaterPasses:
    @pytest.mark.filterwarnings("ignore:NeuralGraphOpt needs a place")
    def test_experts_are_placed_when_they_are_reached(self, rule):
        model, before = Switch(), hooks()
        optimizer = NeuralGraphOpt(list(model.parameters()), rule=rule)
        loose = []
        for chosen in (0, 0, 1, 1, 2, 2, 0):
            model.chosen = chosen
            optimizer.zero_grad()
            run(model)
            optimizer.step()
            loose.append(len(optimizer.graph.unplaced))
        assert loose == [4, 4, 4, 2, 2, 0, 0]
        assert hooks() == before

    def test_the_watch_ends_where_nothing_moves(self, rule):
        model, before = Switch(), hooks()
        optimizer = NeuralGraphOpt(list(model.parameters()), rule=rule)
        run(model)
        with pytest.warns(UserWarning, match="never used"):
            optimizer.step()
        assert hooks() == before


class Memory:
    hidden, calls = None, 0


class Remembering(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.last = nn.GRUCell(3, 4), nn.Linear(4, 1)

    def forward(self, values, memory):
        memory.hidden = self.cell(values, memory.hidden)
        memory.calls += 1
        return self.last(memory.hidden)


class TestSideEffects:
    def test_an_object_that_is_passed_in_stays_as_it_is(self, rule):
        model, memory = Remembering(), Memory()
        optimizer = NeuralGraphOpt(model.parameters(), rule=rule)
        model(torch.randn(5, 3), memory).sum().backward()
        hidden = memory.hidden
        optimizer.step()
        assert memory.calls == 1
        assert memory.hidden is hidden
        assert optimizer.graph.source == "trace of Remembering"

    def test_hooks_see_one_call(self, rule, model):
        seen = []
        model[0].register_forward_hook(lambda module, args, out: seen.append(out))
        model[0].register_forward_pre_hook(lambda module, args: seen.append(args))
        optimizer = NeuralGraphOpt(model.parameters(), rule=rule)
        run(model)
        optimizer.step()
        assert len(seen) == 2
        assert level(optimizer) == TRACED

    def test_random_numbers_go_on(self, rule):
        model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(), nn.Linear(4, 2))
        optimizer = NeuralGraphOpt(model.parameters(), rule=rule)
        run(model)
        # beartype, which checks the types in tests, draws from Python's own generator.
        states = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
        optimizer.step()
        assert torch.equal(torch.get_rng_state(), states[0])
        now = np.random.get_state()  # noqa: NPY002
        assert (now[1] == states[1][1]).all()
        assert now[2:] == states[1][2:]

    def test_the_trace_draws_the_numbers_of_the_call(self, rule):
        """A branch that chance takes is taken again."""

        class Chance(nn.Module):
            def __init__(self):
                super().__init__()
                self.parts = nn.ModuleList(nn.Linear(3, 3) for _ in range(8))

            def forward(self, values):
                for part in self.parts:
                    if torch.rand(()) < 0.5:
                        values = part(values)
                return values

        model = Chance()
        optimizer = NeuralGraphOpt(list(model.parameters()), rule=rule)
        torch.manual_seed(0)
        model(torch.randn(5, 3)).sum().backward()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            optimizer.step()
        loose = {item.parameter for item in optimizer.graph.unplaced}
        idle = {n for n, p in model.named_parameters() if p.grad is None}
        assert loose == idle

    def test_the_model_can_be_saved_and_scripted(self, rule, model):
        optimizer = NeuralGraphOpt(model.parameters(), rule=rule)
        file = io.BytesIO()
        torch.save(model, file)
        assert b"l2o" not in file.getvalue()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit is deprecated
            torch.jit.script(model)
        assert level(optimizer) == SHAPES

    def test_calls_of_tools_do_not_count(self, rule, model):
        optimizer = NeuralGraphOpt(model.parameters(), rule=rule)
        torch.fx.symbolic_trace(model)
        with FakeTensorMode(allow_non_fake_inputs=True) as fake:
            model(fake.from_tensor(torch.randn(5, 3)))
        assert level(optimizer) == SHAPES
        run(model)
        assert level(optimizer) == TRACED


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
        assert level(optimizer) == SHAPES
        run(model)
        assert level(optimizer) == TRACED

    @pytest.mark.parametrize(
        "duplicate", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))]
    )
    def test_of_both_watch_each_other(self, rule, model, duplicate):
        pair = (model, NeuralGraphOpt(model.parameters(), rule=rule))
        module, optimizer = duplicate(pair)
        run(module)
        before = hooks()
        optimizer.step()
        assert hooks() == before
        assert level(optimizer) == TRACED
        assert level(pair[1]) == SHAPES

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
    def test_the_optimizer_does_not_keep_the_model(self, rule):
        model = build()
        weight = model[0].weight
        optimizer = NeuralGraphOpt([weight], rule=rule)
        model(torch.randn(5, 3))
        gone = weakref.ref(model)
        del model
        gc.collect()
        assert gone() is None
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        assert optimizer.graph.source == "parameter shapes"

    def test_the_hooks_leave_with_the_optimizer(self, rule, model):
        before = hooks()
        optimizer = NeuralGraphOpt(model.parameters(), rule=rule)
        assert hooks() == before + 3
        del optimizer
        assert hooks() == before

    def test_the_hooks_leave_at_the_first_step(self, rule, model):
        before = hooks()
        optimizer = NeuralGraphOpt(model[0].parameters(), rule=rule)
        model[0].weight.grad = torch.ones_like(model[0].weight)
        optimizer.step()
        assert hooks() == before


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

    def test_the_hooks_cost_no_second_compilation(self, rule, model):
        graphs = []

        def backend(graph, _):
            graphs.append(graph)
            return graph

        torch._dynamo.reset()
        compiled = torch.compile(model, backend=backend, fullgraph=True)
        optimizer = NeuralGraphOpt(list(model.parameters()), rule=rule)
        for _ in range(3):
            run(compiled)
            optimizer.step()
        assert level(optimizer) == TRACED
        assert len(graphs) == 1

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
