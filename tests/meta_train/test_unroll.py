import copy
import io
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LinearLR

from l2o import PRESETS, NeuralGraphOpt, Rule
from meta_train.cuda_graphs import captured
from meta_train.es_lanes import PerturbedRuns
from meta_train.unroll import InnerRun, ProblemStart, RuleOnGraph
from meta_train.validation import Validation, validate
from optimizees import ConvNet, FunctionalTask, image_task, load_fashion_mnist


@pytest.fixture(scope="module")
def images():
    return load_fashion_mnist("validation", source="embedded").pooled(7)


@pytest.fixture(scope="module")
def task(images):
    return make_task(images, partial(ConvNet, 1, (3, 4), image_size=7))


def make_task(images, build):
    held_out = {"validation": images, "test": images.subset(0, 7)}
    return FunctionalTask(
        image_task("small", build, images, batch_size=16, held_out=held_out)
    )


@pytest.fixture(scope="module", params=["default", "default-ff"])
def bound(request, task):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        rule = Rule(PRESETS[request.param])
    with torch.no_grad():
        rule.net.entry.last.weight.normal_(
            std=0.05, generator=torch.Generator().manual_seed(0)
        )
    return RuleOnGraph(rule, task, compile=False)


def go(run, steps):
    return run.advance(steps)


def by_hand(task, bound, steps, build_scheduler=None):
    """Train as a user does; return the losses, the parameters, the optimizer."""
    model = task.task.init_model(seed=4)
    named = model.named_parameters()
    optimizer = NeuralGraphOpt(named, rule=bound.rule, graph=bound.graph)
    scheduler = None if build_scheduler is None else build_scheduler(optimizer)
    batches, params = task.batches(seed=4), dict(model.named_parameters())
    losses = []
    for _ in range(steps):
        loss, grads, _ = task.loss_and_grads(params, batches.next())
        losses.append(float(loss))
        for name, param in params.items():
            param.grad = grads[name]
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    return losses, params, optimizer


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


class TestInnerRun:
    def test_it_is_what_the_optimizer_does(self, task, bound):
        """Meta-training and users take the same steps, bit for bit."""
        run = InnerRun(ProblemStart(task, bound, seed=4, length=10))
        losses = [run.loss, *go(run, 5)]
        found, params, optimizer = by_hand(task, bound, 5)
        assert found == losses[:-1]
        assert_same(run.params, {name: p.detach() for name, p in params.items()})
        for name, param in params.items():
            assert_same(run.state[name], optimizer.state[param])

    def test_annealed_it_is_what_linear_lr_does(self, task, bound):
        run = InnerRun(ProblemStart(task, bound, seed=4, length=5), is_annealed=True)
        go(run, 5)
        anneal = partial(LinearLR, start_factor=1.0, end_factor=0.0, total_iters=5)
        _, params, _ = by_hand(task, bound, 5, anneal)
        for name, param in params.items():
            torch.testing.assert_close(run.params[name], param.detach())

    def test_a_record_is_what_the_rule_read(self, task, bound):
        run = InnerRun(ProblemStart(task, bound, seed=4, length=10))
        go(run, 2)
        params, grads = run.params, run.grads
        record = run.step()
        assert record.params is params
        assert record.grads is grads
        assert record.state is run.state
        with torch.no_grad():  # as the run: with autograd last digits may differ
            updates = bound.updates(record.params, record.grads, record.state)
        assert_same(run.params, {name: params[name] + updates[name] for name in params})

    def test_it_leaves_no_autograd_graph(self, task, bound):
        run = InnerRun(ProblemStart(task, bound, seed=4, length=10))
        go(run, 2)
        assert not any(param.requires_grad for param in run.params.values())

    def test_it_is_over_at_its_length(self, task, bound):
        run = InnerRun(ProblemStart(task, bound, seed=4, length=2))
        assert not run.is_over
        go(run, 2)
        assert run.is_over
        assert not run.has_diverged

    @pytest.mark.parametrize("loss", [float("nan"), float("inf"), 100.0])
    def test_it_is_over_when_it_diverges(self, task, bound, loss):
        run = InnerRun(ProblemStart(task, bound, seed=4, length=2))
        run.loss = loss
        assert run.has_diverged
        assert run.is_over

    @pytest.mark.parametrize("steps", [0, 3])
    def test_resume_is_exact(self, task, bound, steps):
        whole = InnerRun(ProblemStart(task, bound, seed=4, length=9))
        losses = go(whole, steps + 3)
        run = InnerRun(ProblemStart(task, bound, seed=4, length=9))
        go(run, steps)
        buffer = io.BytesIO()
        torch.save(run.state_dict(), buffer)
        buffer.seek(0)
        run = InnerRun(ProblemStart(task, bound, seed=0, length=1))
        run.load_state_dict(torch.load(buffer, weights_only=True))
        assert go(run, 3) == losses[steps:]
        assert (run.position, run.length, run.seed) == (steps + 3, 9, 4)
        assert_same(run.params, whole.params)
        for name in run.params:
            assert_same(run.state[name], whole.state[name])

    def test_a_rule_must_be_able_to_read_the_task(self, images):
        task = make_task(images, partial(ConvNet, 1, (3,), kernel_size=7))
        with pytest.raises(ValueError, match=r"NGGNNConfig\(kernel=None\)"):
            RuleOnGraph(Rule(PRESETS["paper"]), task, compile=False)


class TestRunningStatistics:
    """Batch norm as it comes: its statistics are part of an inner run."""

    @pytest.fixture
    def normed(self, images):
        def build():
            # A bias before the norm would have rounding errors as gradients.
            first, norm = nn.Linear(49, 6, bias=False), nn.BatchNorm1d(6)
            return nn.Sequential(nn.Flatten(), first, norm, nn.ReLU(), nn.Linear(6, 10))

        task = make_task(images, build)
        return task, RuleOnGraph(Rule(PRESETS["default-ff"]), task, compile=False)

    def test_they_are_those_of_a_users_loop(self, normed):
        task, bound = normed
        run = InnerRun(ProblemStart(task, bound, seed=4, length=10))
        go(run, 3)
        model, batches = task.task.init_model(4), task.batches(4)
        optimizer = NeuralGraphOpt(
            model.named_parameters(), rule=bound.rule, graph=bound.graph
        )
        for _ in range(3):
            optimizer.zero_grad()
            task.task.loss(model, batches.next()).backward()
            optimizer.step()
        task.task.loss(model, batches.next())  # the run has seen its next batch
        assert_same({**run.params, **run.buffers}, dict(model.state_dict()))
        (found,) = validate(task, bound, ["test"], seeds=(4,), steps=3)
        assert found.loss == task.task.evaluate(model, "test").loss
        assert found.loss != task.evaluate(run.params, "test").loss

    def test_averaged_weights_are_measured_with_their_own(self, normed):
        task, bound = normed
        torch.manual_seed(4)
        model = task.task.init_model(4)
        optimizer = NeuralGraphOpt(
            model.parameters(), rule=bound.rule, graph=bound.graph, average=True
        )
        batches = task.batches(4)
        for _ in range(3):
            optimizer.zero_grad()
            task.task.loss(model, batches.next()).backward()
            optimizer.step()
        task.task.loss(model, batches.next())
        optimizer.use_average()
        for _ in range(50):
            task.task.loss(model, batches.next())
        (found,) = validate(task, bound, ["test"], seeds=(4,), steps=3, at_average=True)
        expected = task.task.evaluate(model, "test").loss
        assert found.loss == pytest.approx(expected, rel=1e-4)
        (latest,) = validate(task, bound, ["test"], seeds=(4,), steps=3)
        assert latest.loss != pytest.approx(expected, rel=1e-3)

    def test_they_are_resumed(self, normed):
        whole, resumed = (
            InnerRun(ProblemStart(*normed, seed=seed, length=9)) for seed in (4, 5)
        )
        go(whole, 2)
        resumed.load_state_dict(whole.state_dict())
        assert go(resumed, 2) == go(whole, 2)
        assert_same(resumed.buffers, whole.buffers)

    def test_every_lane_has_its_own(self, normed):
        start = ProblemStart(*normed, seed=4, length=9)
        stacked, in_turn = (
            PerturbedRuns(start, pairs=2, stacked=stacked) for stacked in (True, False)
        )
        for lanes in (stacked, in_turn):
            lanes.draw_noise(torch.Generator().manual_seed(0))
            for _ in range(2):
                lanes.step(lanes.changed_theta(0.05))
        for name, item in in_turn.buffers.items():
            torch.testing.assert_close(stacked.buffers[name], item)
        means = in_turn.buffers["2.running_mean"]
        assert not torch.equal(means[0], means[1])


class TestValidation:
    def test_it_is_the_mean_over_the_seeds(self, task, bound):
        each = [
            validate(task, bound, ["validation"], seeds=(seed,), steps=3)[0]
            for seed in (1, 2)
        ]
        (both,) = validate(task, bound, ["validation"], seeds=(1, 2), steps=3)
        for name in Validation._fields:
            mean = sum(getattr(item, name) for item in each) / 2
            assert getattr(both, name) == pytest.approx(mean)
        assert each[0] != each[1]

    def test_it_measures_the_trained_network(self, task, bound):
        run = InnerRun(ProblemStart(task, bound, seed=1, length=3))
        losses = go(run, 3)
        splits = ["validation", "test"]
        both = validate(task, bound, splits, seeds=(1,), steps=3)
        for found, split in zip(both, splits, strict=True):
            expected = task.evaluate(run.params, split)
            assert (found.loss, found.metric) == (expected.loss, expected.metric)
            assert found.train_loss == pytest.approx(sum(losses) / 3)
        assert both[0].loss != both[1].loss

    def test_a_run_that_diverges_counts_as_ten_nats(self, task, random_rule):
        rule = random_rule(PRESETS["paper-ff"], dtype=torch.float32)
        with torch.no_grad():
            rule.net.entry.last.bias.copy_(torch.tensor([1e4, 0.0]))
        bound = RuleOnGraph(rule, task, compile=False)
        found = validate(task, bound, ["validation"] * 2, seeds=(1,), steps=3)
        assert found == [Validation(10.0, 0.0, 10.0)] * 2


@pytest.mark.compile
class TestCaptured:
    def test_a_run_is_the_plain_one(self, bound, task):
        captures = RuleOnGraph(
            bound.rule, task, compile=False, graph=bound.graph, captures=True
        )
        plain, captured = (
            InnerRun(ProblemStart(task, each, seed=4, length=9))
            for each in (bound, captures)
        )
        torch.testing.assert_close(go(captured, 6), go(plain, 6), rtol=1e-4, atol=0)
        torch.testing.assert_close(captured.params, plain.params, rtol=0, atol=1e-5)
        other = InnerRun(ProblemStart(task, bound, seed=5, length=9))
        go(other, 6)
        with pytest.raises(AssertionError):
            torch.testing.assert_close(captured.params, other.params, rtol=0, atol=1e-5)

    def test_what_it_returned_outlives_the_next_call(self):
        double = captured(lambda values: {"twice": 2 * values["one"]})
        first = double({"one": torch.ones(3)})["twice"]
        second = double({"one": torch.zeros(3)})["twice"]
        assert first.tolist() == [2, 2, 2]
        assert second.tolist() == [0, 0, 0]

    def test_it_records_nothing_for_autograd(self):
        double = captured(lambda values: 2 * values)
        assert not double(torch.ones(3, requires_grad=True)).requires_grad


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_cuda_graphs_are_the_plain_run_on_a_gpu(bound, images):
    build = partial(ConvNet, 1, (3, 4), image_size=7)
    task = make_task(images.to(torch.device("cuda")), build)
    rule = copy.deepcopy(bound.rule).cuda()
    runs = [
        InnerRun(ProblemStart(task, bound, seed=4, length=50))
        for bound in (
            RuleOnGraph(rule, task, compile=False, captures=captures)
            for captures in (False, True)
        )
    ]
    plain, graphs = (go(run, 20) for run in runs)
    torch.testing.assert_close(graphs, plain, rtol=1e-3, atol=0)
