import pytest
import torch

from optimizees.data.images import ImageData, normalise


def test_a_subset_is_a_view_and_says_so_in_its_source(data):
    part = data.subset(10, 15)
    assert len(part) == 5
    assert part.images.data_ptr() == data.images[10:].data_ptr()
    assert part.labels.tolist() == [0, 1, 2, 3, 4]
    assert part.source == "random images, images 10 to 14"


@pytest.mark.parametrize(("start", "stop"), [(-1, 5), (5, 5), (5, 4), (0, 41)])
def test_a_subset_outside_the_data_is_refused(data, start, stop):
    with pytest.raises(ValueError, match="Choose a range inside the data"):
        data.subset(start, stop)


def test_pooling_averages_squares_of_pixels(data):
    pooled = data.pooled(4)
    expected = data.images[:, :, 2:4, 6:8].mean(dim=(2, 3))
    assert pooled.images.shape == (40, 1, 4, 4)
    torch.testing.assert_close(pooled.images[:, :, 1, 3], expected)
    assert pooled.source == "random images, average-pooled to 4 x 4 pixels"


def test_pooling_to_the_own_size_changes_nothing(data):
    assert torch.equal(data.pooled(8).images, data.images)


@pytest.mark.parametrize("size", [0, 3, 16])
def test_pooling_needs_a_divisor(data, size):
    with pytest.raises(ValueError, match="Pass a divisor"):
        data.pooled(size)


def test_images_and_labels_must_be_of_one_split(data):
    torn = object.__new__(ImageData)  # the type hook would refuse it first
    torn.__dict__.update(images=data.images, labels=data.labels[:-1])
    with pytest.raises(ValueError, match="of the same split"):
        torn.__post_init__()


def test_to_moves_both_and_copies_nothing_that_is_there(data):
    assert data.to("cpu").images.data_ptr() == data.images.data_ptr()
    moved = data.to("meta")
    assert moved.images.device.type == moved.labels.device.type == "meta"


def test_normalise_scales_then_shifts_each_channel():
    pixels = torch.tensor([[[[0, 255]], [[51, 102]]]], dtype=torch.uint8)
    expected = torch.tensor([[[[-1.0, 1.0]], [[0.0, 2.0]]]])
    got = normalise(pixels, mean=(0.5, 0.2), std=(0.5, 0.1))
    torch.testing.assert_close(got, expected)
    assert pixels.flatten().tolist() == [0, 255, 51, 102]


class TestClasses:
    def test_chosen_ones_are_kept_and_renumbered(self, data):
        found = data.of_classes((7, 2))
        assert len(found) == 8
        assert found.labels.tolist() == [1, 0] * 4
        assert torch.equal(
            found.images[found.labels == 0], data.images[data.labels == 7]
        )
        assert found.source.endswith("random images, classes 7, 2")

    @pytest.mark.parametrize("classes", [(3, 3), (3, 10), ()])
    def test_they_must_be_there_once(self, data, classes):
        with pytest.raises(ValueError, match=r"each once; got .* Choose among those"):
            data.of_classes(classes)
