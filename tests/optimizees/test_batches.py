import pytest
import torch
from torch import nn

from optimizees import Batch, BatchSampler, image_task


@pytest.fixture
def images(data):
    return data


@pytest.fixture
def whole(images):
    return Batch(images.images, images.labels)


class TestBatchSampler:
    def test_an_epoch_visits_every_image_once(self, whole):
        sampler = BatchSampler(whole, batch_size=10, seed=0)
        seen = torch.cat([sampler.next().inputs for _ in range(4)])
        order = {tuple(image.flatten().tolist()) for image in seen}
        assert len(order) == len(whole.targets)

    def test_images_keep_their_labels(self, whole):
        batch = BatchSampler(whole, batch_size=10, seed=0).next()
        for image, label in zip(batch.inputs, batch.targets, strict=True):
            index = (whole.inputs == image).flatten(1).all(dim=1).nonzero().item()
            assert whole.targets[index] == label

    def test_every_epoch_has_another_order_and_drops_the_rest(self, whole):
        sampler = BatchSampler(whole, batch_size=15, seed=0)
        first, _, second = (sampler.next() for _ in range(3))
        assert sampler.state_dict()["position"] == 15
        assert not torch.equal(first.inputs, second.inputs)

    def test_the_seed_decides_the_order(self, whole):
        same = [BatchSampler(whole, 10, seed=5).next().targets for _ in range(2)]
        assert torch.equal(*same)
        assert not torch.equal(same[0], BatchSampler(whole, 10, seed=6).next().targets)

    @pytest.mark.parametrize("steps", [0, 1, 2, 3, 5])
    def test_resume_is_exact(self, whole, steps):
        sampler = BatchSampler(whole, batch_size=15, seed=0)
        for _ in range(steps):
            sampler.next()
        state = sampler.state_dict()
        expected = [sampler.next() for _ in range(5)]
        resumed = BatchSampler(whole, batch_size=15, seed=99)
        resumed.load_state_dict(state)
        for batch in expected:
            again = resumed.next()
            assert torch.equal(again.inputs, batch.inputs)
            assert torch.equal(again.targets, batch.targets)

    def test_the_state_survives_a_safe_save(self, whole, tmp_path):
        sampler = BatchSampler(whole, batch_size=15, seed=0)
        torch.save(sampler.state_dict(), tmp_path / "state.pt")
        state = torch.load(tmp_path / "state.pt", weights_only=True)
        assert all(isinstance(value, torch.Tensor | int) for value in state.values())
        expected = sampler.next()
        sampler.load_state_dict(state)
        assert torch.equal(sampler.next().inputs, expected.inputs)

    def test_the_state_of_another_sampler_is_refused(self, whole):
        sampler = BatchSampler(whole, batch_size=15, seed=0)
        other_data = BatchSampler(
            Batch(whole.inputs[:20], whole.targets[:20]), batch_size=15, seed=0
        )
        with pytest.raises(ValueError, match="with the data of the interrupted run"):
            sampler.load_state_dict(other_data.state_dict())
        other_size = BatchSampler(whole, batch_size=10, seed=0)
        with pytest.raises(ValueError, match="the batch size of the interrupted run"):
            sampler.load_state_dict(other_size.state_dict())

    @pytest.mark.parametrize("batch_size", [0, 41])
    def test_impossible_batches_are_refused(self, images, whole, batch_size):
        with pytest.raises(ValueError, match="Pass a smaller batch or more data"):
            BatchSampler(whole, batch_size, seed=0)
        with pytest.raises(ValueError, match="Pass a smaller batch or more data"):
            image_task("small", nn.Identity, images, batch_size=batch_size)

    def test_inputs_may_be_several_tensors(self, whole):
        several = Batch((whole.inputs, whole.targets), {"class": whole.targets})
        (images, classes), targets = BatchSampler(several, 10, seed=0).next()
        assert images.shape == (10, 1, 8, 8)
        assert torch.equal(classes, targets["class"])
