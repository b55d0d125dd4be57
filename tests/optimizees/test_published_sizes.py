import pytest
import torch

from optimizees.resnet import ResNet18
from optimizees.transformer import GPT, BlockSizes, ViT


@pytest.mark.parametrize(
    ("build", "weights"),
    [
        (ResNet18, 11_689_512),  # torchvision's resnet18
        (ViT, 86_567_656),  # torchvision's vit_b_16
        (GPT, 124_439_808),  # Hugging Face's gpt2
    ],
)
def test_the_published_networks_have_their_published_sizes(build, weights):
    with torch.device("meta"):
        assert sum(weight.numel() for weight in build().parameters()) == weights


def test_resnet_takes_images_of_either_size():
    images = torch.randn(2, 3, 32, 32)
    assert ResNet18(10, "cifar")(images).shape == (2, 10)
    assert ResNet18(7)(images).shape == (2, 7)


def test_a_token_does_not_see_those_behind_it():
    torch.manual_seed(0)
    model = GPT(
        vocabulary=11, context=6, sizes=BlockSizes(width=8, num_blocks=2, num_heads=2)
    )
    text = torch.tensor([[1, 2, 3, 4]])
    other = torch.tensor([[1, 2, 9, 9]])
    torch.testing.assert_close(model(text)[:, :2], model(other)[:, :2])
    assert model(text).shape == (1, 4, 11)
    assert not torch.allclose(model(text)[:, 2:], model(other)[:, 2:])


def test_the_output_layer_is_the_token_table():
    model = GPT(
        vocabulary=11, context=4, sizes=BlockSizes(width=8, num_blocks=1, num_heads=2)
    )
    model(torch.tensor([[1, 2]])).sum().backward()
    assert model.tokens.weight.grad is not None
    assert model.tokens.weight.grad[7].abs().sum() > 0  # a token that was not read


def test_the_class_token_sees_every_patch():
    torch.manual_seed(0)
    model = ViT(
        8, 4, sizes=BlockSizes(width=8, num_blocks=1, num_heads=2), num_classes=3
    )
    images = torch.randn(2, 3, 8, 8, requires_grad=True)
    scores = model(images)
    assert scores.shape == (2, 3)
    scores.sum().backward()
    assert images.grad is not None
    assert images.grad.ne(0).flatten(1).float().mean() > 0.9
