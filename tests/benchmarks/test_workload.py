from dataclasses import replace

import pytest
import torch
from torch import nn

from benchmarks.workload import classify, cut
from optimizees import Batch


def test_a_workload_has_the_tasks_loss_and_evaluation(workload, task, images):
    model, params = workload.init_model(4), task.init_params(4)
    batch = task.batches(4).next()
    assert workload.loss(model, batch).item() == task.loss(params, batch).item()
    expected = task.evaluate(params, images)
    measured = workload.evaluate(model)
    assert measured.loss == pytest.approx(expected.loss)
    assert measured.accuracy == expected.accuracy


def test_an_evaluation_runs_in_eval_mode_and_leaves_training_mode(workload):
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.Linear(784, 10))
    assert workload.evaluate(model) == workload.evaluate(model)
    assert model.training


def test_pieces_do_not_change_an_evaluation(task, images):
    whole, parts = classify(task, images), classify(task, images)
    parts = replace(parts, held_out=cut(whole.held_out[0], piece=7))
    model = whole.init_model(0)
    assert len(parts.held_out) == 9
    assert parts.evaluate(model).loss == pytest.approx(whole.evaluate(model).loss)
    assert parts.evaluate(model).accuracy == whole.evaluate(model).accuracy


def test_a_squared_error_has_no_accuracy(workload):
    targets = torch.ones(4, 2)
    squared = replace(
        workload, criterion="squared error", held_out=[Batch(targets * 3, targets)]
    )
    assert squared.evaluate(nn.Identity()) == (4.0, None)


def test_characters_are_classified_one_by_one(workload):
    inputs = torch.randn(3, 5, 7)
    targets = torch.randint(7, (3, 5))
    text = replace(workload, held_out=[Batch(inputs, targets)])
    expected = nn.functional.cross_entropy(inputs.transpose(1, 2), targets)
    found = text.evaluate(nn.Identity())
    assert found.loss == pytest.approx(expected.item())
    assert found.accuracy == pytest.approx(
        (inputs.argmax(-1) == targets).float().mean().item()
    )


def test_logits_that_are_no_numbers_have_no_accuracy(workload):
    broken = replace(
        workload,
        held_out=[Batch(torch.full((4, 3), torch.nan), torch.zeros(4).long())],
    )
    assert broken.evaluate(nn.Identity()).accuracy is None
