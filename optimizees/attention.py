"""Small transformers for images."""

import torch
from torch import Tensor, nn
from typing_extensions import override

from optimizees.activations import build_activation


class AttentionBlock(nn.Module):
    """Self-attention, then a perceptron, each with a residual connection.

    Scores and softmax are written out, since the fused kernel has no second
    derivative.

    Args:
        width: channels of a token.
        num_heads: must divide `width`.
        activation: name for `build_activation`, in the perceptron.
    """

    def __init__(self, width: int, num_heads: int, activation: str) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.activation = build_activation(activation)
        self.down = nn.Linear(2 * width, width)

    @override
    def forward(self, tokens: Tensor) -> Tensor:
        """Return tokens `[B, token, width]` of the same shape."""
        normed = self.attention_norm(tokens)
        query, key, value = (
            layer(normed).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        mixed = torch.softmax(scores, dim=-1) @ value
        tokens = tokens + self.out(mixed.transpose(1, 2).flatten(2))
        return tokens + self.down(self.activation(self.up(self.mlp_norm(tokens))))


class ImageTransformer(nn.Module):
    """Patches with learned positions, attention blocks, mean over tokens, one layer.

    Args:
        in_channels: channels of the image.
        image_size: side of the image in pixels.
        patch_size: side of a patch in pixels; must divide `image_size`.
        width: channels of a token; a multiple of `num_heads`.
        num_blocks: attention blocks.
        num_classes: outputs.
        num_heads: of every attention.
        activation: name for `build_activation`, in the perceptrons.

    Raises:
        ValueError: if the patches do not cover the image, or heads do not divide.

    Reference: Dosovitskiy et al., 2021, "An Image is Worth 16x16 Words",
        https://arxiv.org/abs/2010.11929; smaller, and the mean of all tokens in place
        of a class token.
    """

    def __init__(
        self,
        in_channels: int,
        image_size: int,
        patch_size: int,
        width: int,
        num_blocks: int,
        num_classes: int = 10,
        num_heads: int = 2,
        activation: str = "gelu",
    ) -> None:
        super().__init__()
        if image_size % patch_size or width % num_heads:
            raise ValueError(
                "ImageTransformer needs patches that cover the image and heads that "
                f"divide the width; got image_size={image_size}, patch_size="
                f"{patch_size}, width={width}, num_heads={num_heads}. Pass divisors."
            )
        self.patches = nn.Conv2d(in_channels, width, patch_size, stride=patch_size)
        num_tokens = (image_size // patch_size) ** 2
        self.positions = nn.Parameter(0.02 * torch.randn(num_tokens, width))
        self.blocks = nn.Sequential(
            *(AttentionBlock(width, num_heads, activation) for _ in range(num_blocks))
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_classes)

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        """Return one logit per class for every image."""
        tokens = self.patches(inputs).flatten(2).transpose(1, 2) + self.positions
        return self.head(self.norm(self.blocks(tokens)).mean(1))
