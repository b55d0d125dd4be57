import dataclasses

import pytest
import torch

from benchmarks.inr.tasks import (
    CLASSIFICATION,
    EDITING,
    GRAPH,
    Nothing,
    dilate,
    edit,
)
from l2o.companion import evaluate, stack_networks
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
    found = evaluate(Nothing(), EDITING.read(splits.test), EDITING.objective)
    assert found["loss"] == pytest.approx(float((shown - wanted).square().mean()))
    assert found["score"] == -found["loss"]
    assert "accuracy" not in found


def test_an_edit_is_added(splits):
    class Shift(torch.nn.Module):
        def forward(self, batch):
            return {name: torch.full_like(w, 0.5) for name, w in batch.params.items()}

    batch = stack_networks(GRAPH, splits.test.networks)
    for name, weight in edit(Shift(), batch).items():
        assert torch.equal(weight, splits.test.networks[name] + 0.5)


def test_a_set_is_read_with_its_classes(splits):
    data = CLASSIFICATION.read(splits.test)
    assert torch.equal(data.targets, splits.test.labels)
    for name, weight in data.networks.params.items():
        assert torch.equal(weight, splits.test.networks[name])


def test_editing_needs_images(splits):
    blind = dataclasses.replace(splits.test, images=None)
    with pytest.raises(ValueError, match="Use what `l2o data siren-fits` makes"):
        EDITING.read(blind)
