import math
from collections import Counter

import pytest
import torch

from meta_train.inner_problem import ProblemRunner, unroll_range
from meta_train.loop import MetaTrainer
from meta_train.problems import TaskBuilder
from optimizees import Family
from optimizees.sampling import build_problem

FAMILY = {"networks": ["mlp"], "image_sizes": [7], "norms": ["none"]}


@pytest.fixture
def trainer(tiny, tmp_path):
    return lambda **changes: MetaTrainer(tiny(**changes), tmp_path)


def drawn(trainer, count=100):
    """Draw problems of one runner, as if each were over at once."""
    runner = trainer.runners[0]
    for _ in range(count):
        yield runner, runner._next_problem(0, is_first=False)


def test_a_problem_at_its_length_is_replaced_and_not_counted(trainer):
    trainer = trainer(unroll=[2, 2])
    trainer.meta_step()
    seeds = {runner.problem.seed for runner in trainer.runners.values()}
    assert all(runner.problem.is_over for runner in trainer.runners.values())
    trainer.meta_step()
    assert trainer.num_diverged == 0
    assert trainer.inner_steps == 8
    assert not seeds & {runner.problem.seed for runner in trainer.runners.values()}


def test_lengths_are_log_uniform(trainer):
    problems = drawn(trainer(unroll=[10, 1000]))
    lengths = torch.tensor([float(problem.length) for _, problem in problems])
    assert 10 <= lengths.min() < 25
    assert 600 < lengths.max() <= 1000
    # The mean place on a logarithmic scale, with a standard error of 0.13.
    assert lengths.log().mean() == pytest.approx(math.log(100), abs=0.4)


def test_a_curriculum_lets_lives_grow(tiny):
    config = tiny(unroll=[10, 1000], curriculum=4)
    found = [unroll_range(config, step) for step in (0, 1, 3, 4, 9)]
    highs = [10 * 100**0.25, 100, 1000, 1000, 1000]
    assert found == [(10, pytest.approx(high)) for high in highs]


def test_an_offset_passes_before_theta_learns(trainer):
    trainer = trainer(unroll=[10, 10], max_offset=0.5)
    positions = {problem.position for _, problem in drawn(trainer, 20)}
    assert positions <= set(range(5))
    assert len(positions) > 2


def test_some_rules_know_how_long_a_life_is(trainer):
    estimator = {"kind": "nres", "pairs": 1}
    told = trainer(unroll=[10, 20], horizon_share=0.5, estimator=estimator)
    problems = [problem for _, problem in drawn(told, 60)]
    horizons = [problem.bound.rule.horizon for problem in problems]
    known = [horizon is not None for horizon in horizons]
    assert 15 <= sum(known) <= 45
    for problem, horizon in zip(problems, horizons, strict=True):
        assert horizon in (None, problem.length)
    weights = dict(told.rule.named_parameters())
    for name, weight in problems[0].bound.rule.named_parameters():
        assert weight is weights[name]


AIMED = {
    "rule": {"kind": "neuron", "net": None},
    "unroll": [10, 20],
    "estimator": {"kind": "nres", "pairs": 1, "end_batches": 1},
}


def test_some_problems_are_judged_at_the_averaged_weights(trainer):
    told = trainer(**AIMED, average_share=0.5)
    problems = [problem for _, problem in drawn(told, 60)]
    aims = [problem.bound.rule.is_averaged for problem in problems]
    assert 15 <= sum(aims) <= 45
    assert aims == [bool(problem.averages) for problem in problems]


def test_a_resumed_problem_still_knows_what_it_is_for(trainer):
    told = trainer(**AIMED, horizon_share=0.99, average_share=1.0)
    runner, problem = next(drawn(told, 1))
    runner.problem = problem
    again = ProblemRunner(told.config, told.builder, 0)
    again.load_state_dict(runner.state_dict())
    assert again.problem.bound.rule.horizon == problem.length
    assert again.problem.bound.rule.is_averaged
    assert again.problem.averages


def test_tasks_come_as_often_as_they_weigh(trainer):
    task = {"name": "fashion-mlp", "image_size": 7, "batch_size": 16}
    tasks = [{**task, "weight": 3.0}, {**task, "batch_size": 8}]
    sizes = Counter(
        len(problem.batch.targets) for _, problem in drawn(trainer(tasks=tasks))
    )
    assert 0.6 < sizes[16] / 100 < 0.9


def test_tasks_of_one_shape_share_a_graph(trainer):
    task = {"name": "fashion-cnn", "image_size": 7, "batch_size": 16}
    trainer = trainer(tasks=[task, {**task, "image_size": 14}])
    problems = [problem for _, problem in drawn(trainer, 20)]
    assert {problem.batch.inputs.shape[-1] for problem in problems} == {7, 14}
    assert len({id(problem.bound) for problem in problems}) == 1


def test_slots_draw_differently_and_alone(tiny, trainer):
    """What a runner draws depends on its number, not on how many there are."""
    several = trainer(num_tasks=3)
    several.meta_step()
    seeds = [runner.problem.seed for runner in several.runners.values()]
    assert len(set(seeds)) == 3
    builder = TaskBuilder(tiny(num_tasks=1), several.rule, torch.device("cpu"))
    alone = ProblemRunner(tiny(num_tasks=1), builder, 2)
    alone.advance(0)
    assert alone.problem.seed == seeds[2]


class TestFamilies:
    def test_members_are_drawn_once(self, trainer):
        tasks = [{"kind": "family", "members": 3, "family": FAMILY}]
        trainer = trainer(tasks=tasks)
        found = {runner.member: p.task.name for runner, p in drawn(trainer, 30)}
        assert set(found) == {0, 1, 2}
        assert len(set(found.values())) == 3

    def test_they_are_what_the_family_draws(self, trainer):
        tasks = [{"kind": "family", "members": 3, "seed": 5, "family": FAMILY}]
        builder = trainer(tasks=tasks).builder
        generator = torch.Generator().manual_seed(5)
        family = Family(networks=("mlp",), image_sizes=(7,), norms=("none",))
        for member in range(3):
            task = builder.task(builder.config.tasks[0], member)
            data, kept = (
                builder._loader.images("fashion-mnist", split, 7)
                for split in ("train", "validation")
            )
            problem = family.draw(generator)
            expected = build_problem(problem, data, {"validation": kept})
            assert (task.name, task.unit_seed) == (expected.name, problem.seed)
            assert task.task.source == expected.source
            found, wanted = (item.batches(0).next() for item in (task, expected))
            assert torch.equal(found.inputs, wanted.inputs)
