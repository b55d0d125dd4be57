"""Transformers of published sizes: GPT-2 for text, ViT for images."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override


class TransformerBlock(nn.Module):
    """Self-attention, then a perceptron, each with a norm and a residual connection.

    Queries, keys and values are one packed projection, as in GPT-2 and ViT.

    Args:
        width: channels of a token.
        num_heads: must divide `width`.
        is_causal: whether a token sees only those before it.
    """

    def __init__(self, width: int, num_heads: int, *, is_causal: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.is_causal = is_causal
        self.attention_norm = nn.LayerNorm(width)
        self.packed = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    @override
    def forward(self, tokens: Tensor) -> Tensor:
        """Return tokens `[B, token, width]` of the same shape."""
        query, key, value = (
            item.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for item in self.packed(self.attention_norm(tokens)).chunk(3, dim=-1)
        )
        mixed = F.scaled_dot_product_attention(
            query, key, value, is_causal=self.is_causal
        )
        tokens = tokens + self.out(mixed.transpose(1, 2).flatten(2))
        return tokens + self.down(F.gelu(self.up(self.mlp_norm(tokens))))


@dataclass(frozen=True, kw_only=True)
class BlockSizes:
    """Sizes of a stack of attention blocks; by default those of GPT-2 and ViT-B."""

    width: int = 768
    """Channels of a token; a multiple of `num_heads`."""
    num_blocks: int = 12
    """Attention blocks."""
    num_heads: int = 12
    """Heads of each block."""

    def build(self, *, is_causal: bool) -> nn.Sequential:
        """Return the blocks; a causal one lets a token see only those before it."""
        return nn.Sequential(
            *(
                TransformerBlock(self.width, self.num_heads, is_causal=is_causal)
                for _ in range(self.num_blocks)
            )
        )


class GPT(nn.Module):
    """A causal language model whose output layer is its token table.

    Args:
        vocabulary: number of tokens.
        context: longest text in tokens.
        sizes: of the attention blocks.

    Example:
        >>> with torch.device("meta"):  # sizes only, no memory
        ...     sum(weight.numel() for weight in GPT().parameters())
        124439808

    Reference:
        Radford et al., 2019, "Language Models are Unsupervised Multitask Learners";
        the defaults are the small one.
    """

    def __init__(
        self,
        vocabulary: int = 50257,
        context: int = 1024,
        sizes: BlockSizes = BlockSizes(),
    ) -> None:
        super().__init__()
        width = sizes.width
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(context, width)
        for table in (self.tokens, self.positions):
            nn.init.normal_(table.weight, std=0.02)
        self.blocks = sizes.build(is_causal=True)
        self.norm = nn.LayerNorm(width)

    @override
    def forward(self, text: Tensor) -> Tensor:
        """Return logits `[B, token, vocabulary]` for integers `[B, token]`."""
        places = torch.arange(text.shape[1], device=text.device)
        tokens = self.tokens(text) + self.positions(places)
        return self.norm(self.blocks(tokens)) @ self.tokens.weight.T


class ViT(nn.Module):
    """Patches and a class token with learned positions, attention blocks, one layer.

    Args:
        image_size: side of the image in pixels, a multiple of `patch_size`.
        patch_size: side of a patch in pixels.
        sizes: of the attention blocks.
        num_classes: outputs.

    Example:
        >>> with torch.device("meta"):  # sizes only, no memory
        ...     sum(weight.numel() for weight in ViT().parameters())
        86567656

    Reference:
        Dosovitskiy et al., 2021, "An Image is Worth 16x16 Words",
        https://arxiv.org/abs/2010.11929; the defaults are ViT-B/16.
    """

    def __init__(
        self,
        image_size: int = 224,
        patch_size: int = 16,
        sizes: BlockSizes = BlockSizes(),
        num_classes: int = 1000,
    ) -> None:
        super().__init__()
        width = sizes.width
        num_tokens = (image_size // patch_size) ** 2 + 1
        self.patches = nn.Conv2d(3, width, patch_size, stride=patch_size)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, num_tokens, width))
        self.blocks = sizes.build(is_causal=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_classes)

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        """Return one logit per class for every image `[B, 3, size, size]`."""
        patches = self.patches(inputs).flatten(2).transpose(1, 2)
        start = self.class_token.expand(len(inputs), -1, -1)
        tokens = torch.cat([start, patches], dim=1) + self.positions
        return self.head(self.norm(self.blocks(tokens))[:, 0])
