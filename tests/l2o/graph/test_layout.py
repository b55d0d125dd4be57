import pytest
import torch

from l2o.graph.layout import crop_cells, pad_cells


@pytest.mark.parametrize(
    ("cells", "size", "places"),
    [
        ((3, 3), (5, 5), [6, 7, 8, 11, 12, 13, 16, 17, 18]),
        ((2, 2), (5, 5), [6, 7, 11, 12]),
        ((1, 1), (3, 3), [4]),
        ((), (3, 3), [4]),
        ((), (5, 5), [12]),
        ((1, 1), (7, 7), [24]),
        (
            (3, 5),
            (7, 7),
            [7 * row + column for row in (2, 3, 4) for column in range(1, 6)],
        ),
        (
            (5, 3),
            (7, 7),
            [7 * row + column for row in range(1, 6) for column in (2, 3, 4)],
        ),
        ((4,), (5, 5), [10, 11, 12, 13]),
        ((5, 5), (5, 5), list(range(25))),
        ((3,), (4,), [0, 1, 2]),
    ],
)
@pytest.mark.parametrize("features", [(), (2,), (2, 3)])
def test_kernels_are_centred_and_come_back(cells, size, places, features):
    generator = torch.Generator().manual_seed(0)
    kernel = torch.rand(4, 3, len(places), *features, generator=generator)
    padded = pad_cells(kernel, cells, size)
    assert padded.shape == (4, 3, torch.Size(size).numel(), *features)
    assert torch.equal(padded[:, :, places], kernel)
    empty = [i for i in range(padded.shape[2]) if i not in places]
    assert not padded[:, :, empty].any()
    assert torch.equal(crop_cells(padded, cells, size), kernel)


@pytest.mark.parametrize("cells", [(6, 6), (3, 6), (6,), (1, 1, 1)])
def test_a_kernel_that_does_not_fit_is_refused(cells):
    kernel = torch.zeros(1, 1, torch.Size(cells).numel())
    with pytest.raises(ValueError, match=r"Use a rule that pools kernel cells"):
        pad_cells(kernel, cells, (5, 5))
