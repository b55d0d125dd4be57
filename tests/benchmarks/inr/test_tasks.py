import dataclasses

import pytest
import torch

from benchmarks.inr.tasks import (
    GRAPH,
    Classification,
    Editing,
    Nothing,
    dilate,
    edit,
    in_parts,
)
from l2o.companion import stack_networks
from optimizees.siren import render_images


def test_lines_grow_by_a_pixel_and_stop_at_the_edge():
    image = torch.zeros(1, 5, 6)
    image[0, 0, 0], image[0, 3, 4] = 0.5, 1.0
    wanted = torch.zeros(1, 5, 6)
    wanted[0, :2, :2] = 0.5
    wanted[0, 2:5, 3:6] = 1.0
    assert torch.equal(dilate(image), wanted)


def test_growing_takes_the_highest_neighbour():
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, 7, 9, generator=generator) - 0.5  # also below zero
    found = dilate(image)
    for row in range(7):
        for column in range(9):
            rows = slice(max(0, row - 1), row + 2)
            columns = slice(max(0, column - 1), column + 2)
            wanted = image[:, rows, columns].amax((1, 2))
            assert torch.equal(found[:, row, column], wanted)


def test_doing_nothing_shows_the_network_itself(splits):
    shown = render_images(splits.test.networks)
    wanted = dilate(splits.test.images / 255)
    found = Editing().evaluate(Nothing(), splits.test)
    assert found.loss == pytest.approx(float((shown - wanted).square().mean()))
    assert found.score == -found.loss
    assert found.accuracy is None


def test_an_edit_is_added(splits):
    class Shift(torch.nn.Module):
        def forward(self, batch):
            return {name: torch.full_like(w, 0.5) for name, w in batch.params.items()}

    batch = stack_networks(GRAPH, splits.test.networks)
    for name, weight in edit(Shift(), batch).items():
        assert torch.equal(weight, splits.test.networks[name] + 0.5)


def test_a_class_counts_if_it_is_named(splits):
    class Knows(torch.nn.Module):
        """Names the class of every network but the first."""

        def forward(self, batch):
            logits = 5 * torch.nn.functional.one_hot(splits.test.labels, 10).double()
            logits[0] = -logits[0]
            return logits

    found = Classification().evaluate(Knows(), splits.test)
    assert found.accuracy == found.score == pytest.approx(5 / 6)


def test_evaluation_switches_dropout_off_and_on_again(splits):
    model = torch.nn.Dropout(0.5)
    seen = []

    class Watch(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.dropout = model

        def forward(self, batch):
            seen.append(self.dropout.training)
            return torch.zeros(len(batch), 10)

    watch = Watch()
    Classification().evaluate(watch, splits.test)
    assert seen == [False]
    assert watch.training


def test_parts_are_in_order(splits):
    parts = list(in_parts(splits.train.networks, splits.train.labels, 8))
    assert [len(batch) for batch, _ in parts] == [8, 8, 4]
    joined = torch.cat([batch.params["seq.1.weight"] for batch, _ in parts])
    assert torch.equal(joined, splits.train.networks["seq.1.weight"])
    assert torch.equal(torch.cat([wanted for _, wanted in parts]), splits.train.labels)


def test_editing_needs_images(splits):
    blind = dataclasses.replace(splits.test, images=None)
    with pytest.raises(ValueError, match="Use what `l2o data siren-fits` makes"):
        Editing().targets(blind)
