"""Networks of attention, written out and from `torch.nn`."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def split_heads(values: Tensor, heads: int) -> Tensor:
    """From [batch, position, channel] to [batch, head, position, channel]."""
    return values.unflatten(-1, (heads, -1)).transpose(1, 2)


class Attention(nn.Module):
    """Queries, keys and values packed in one projection."""

    def __init__(self, width: int, heads: int, *, is_causal: bool = False) -> None:
        super().__init__()
        self.heads, self.is_causal = heads, is_causal
        self.packed = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, values: Tensor) -> Tensor:
        parts = self.packed(values).chunk(3, dim=-1)
        q, k, v = (split_heads(part, self.heads) for part in parts)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.is_causal)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and a perceptron, each with a norm before and a sum behind."""

    def __init__(self, width: int, heads: int, *, is_causal: bool = False) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, is_causal=is_causal)
        self.up, self.down = nn.Linear(width, 12), nn.Linear(12, width)

    def forward(self, values: Tensor) -> Tensor:
        values = values + self.attention(self.norm1(values))
        return values + self.down(F.gelu(self.up(self.norm2(values))))


class ViT(nn.Module):
    """Patches, a class token, learned positions."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.positions = nn.Parameter(torch.zeros(1, 5, 8))
        self.blocks = nn.Sequential(Block(8, 2), Block(8, 2))
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patches(images).flatten(2).mT
        token = self.token.expand(len(images), -1, -1)
        values = torch.cat([token, patches], dim=1) + self.positions
        return self.head(self.norm(self.blocks(values))[:, 0])


def vit():
    return ViT(), (torch.randn(2, 3, 8, 8),)


class GPT(nn.Module):
    """The output projection is the embedding itself."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(11, 8), nn.Embedding(6, 8)
        causal = {"is_causal": True}
        self.blocks = nn.Sequential(Block(8, 2, **causal), Block(8, 2, **causal))
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 11, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, tokens: Tensor) -> Tensor:
        positions = torch.arange(tokens.shape[1])
        values = self.tokens(tokens) + self.positions(positions)
        return self.head(self.norm(self.blocks(values)))


def gpt():
    return GPT(), (torch.randint(11, (2, 5)),)


def rotate(values: Tensor) -> Tensor:
    """Rotary positions: channel k turns with channel k + half."""
    half = values.shape[-1] // 2
    rates = 10.0 ** -torch.arange(half, dtype=values.dtype)
    angles = torch.arange(values.shape[-2], dtype=values.dtype)[:, None] * rates
    left, right = values.split(half, dim=-1)
    turned = left * angles.cos() - right * angles.sin()
    return torch.cat([turned, right * angles.cos() + left * angles.sin()], dim=-1)


class LlamaBlock(nn.Module):
    """RMS norms, rotary positions, two query heads a key head, a gated perceptron."""

    def __init__(self, width: int, heads: int, groups: int) -> None:
        super().__init__()
        self.heads, self.groups, narrow = heads, groups, width // heads * groups
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, narrow, bias=False)
        self.value = nn.Linear(width, narrow, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.gate = nn.Linear(width, 10, bias=False)
        self.up = nn.Linear(width, 10, bias=False)
        self.down = nn.Linear(10, width, bias=False)

    def forward(self, values: Tensor) -> Tensor:
        normed, repeats = self.norm1(values), self.heads // self.groups
        q = rotate(split_heads(self.query(normed), self.heads))
        k = rotate(split_heads(self.key(normed), self.groups))
        v = split_heads(self.value(normed), self.groups)
        k, v = k.repeat_interleave(repeats, dim=1), v.repeat_interleave(repeats, dim=1)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        values = values + self.out(mixed.transpose(1, 2).flatten(2))
        normed = self.norm2(values)
        return values + self.down(F.silu(self.gate(normed)) * self.up(normed))


class Llama(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(11, 16)
        self.blocks = nn.Sequential(LlamaBlock(16, 4, 2), LlamaBlock(16, 4, 2))
        self.norm, self.head = nn.RMSNorm(16), nn.Linear(16, 11, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.tokens(tokens))))


def llama():
    return Llama(), (torch.randint(11, (2, 5)),)


class EinsumAttention(nn.Module):
    """Every projection keeps a head axis of its own, as in JAX code."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(3, 8), nn.Linear(8, 2)
        self.query = nn.Parameter(torch.randn(2, 8, 4) / 3)
        self.key = nn.Parameter(torch.randn(2, 8, 4) / 3)
        self.value = nn.Parameter(torch.randn(2, 8, 4) / 3)
        self.out = nn.Parameter(torch.randn(2, 4, 8) / 3)

    def forward(self, values: Tensor) -> Tensor:
        values = torch.tanh(self.embed(values))
        q = torch.einsum("bpc,hcd->bhpd", values, self.query)
        k = torch.einsum("bpc,hcd->bhpd", values, self.key)
        v = torch.einsum("bpc,hcd->bhpd", values, self.value)
        scores = torch.einsum("bhpd,bhqd->bhpq", q, k).softmax(dim=-1)
        mixed = torch.einsum("bhpq,bhqd->bhpd", scores, v)
        values = values + torch.einsum("bhpd,hdc->bpc", mixed, self.out)
        return self.head(values.mean(dim=1))


def einsum_attention():
    return EinsumAttention(), (torch.randn(2, 5, 3),)


class CrossAttention(nn.Module):
    """Queries come from one input, keys and values from another."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(3, 8), nn.Linear(4, 6)
        self.attention = nn.MultiheadAttention(
            8, 2, kdim=6, vdim=6, batch_first=True, bias=False
        )
        self.head = nn.Linear(8, 2)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        left, right = torch.tanh(self.left(left)), torch.tanh(self.right(right))
        mixed, _ = self.attention(left, right, right, need_weights=False)
        return self.head(left + mixed)


def cross_attention():
    return CrossAttention(), (torch.randn(2, 5, 3), torch.randn(2, 4, 4))


class SequenceClassifier(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.embed, self.body, self.head = nn.Linear(3, 8), body, nn.Linear(8, 4)

    def forward(self, values: Tensor) -> Tensor:
        return self.head(self.body(self.embed(values)).mean(dim=1))


def transformer_encoder():
    layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True)
    body = nn.TransformerEncoder(layer, num_layers=2)
    return SequenceClassifier(body), (torch.randn(2, 5, 3),)


class Translator(nn.Module):
    """`nn.Transformer` between two vocabularies."""

    def __init__(self) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(9, 8), nn.Embedding(7, 8)
        self.body = nn.Transformer(8, 2, 1, 1, 12, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, 7)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        return self.head(self.body(self.source(source), self.target(target)))


def encoder_decoder():
    return Translator(), (torch.randint(9, (2, 5)), torch.randint(7, (2, 4)))


class MixerBlock(nn.Module):
    """One perceptron over positions, one over channels."""

    def __init__(self, positions: int, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.tokens = nn.Sequential(
            nn.Linear(positions, 6), nn.GELU(), nn.Linear(6, positions)
        )
        self.channels = nn.Sequential(
            nn.Linear(channels, 10), nn.GELU(), nn.Linear(10, channels)
        )

    def forward(self, values: Tensor) -> Tensor:
        values = values + self.tokens(self.norm1(values).mT).mT
        return values + self.channels(self.norm2(values))


def mlp_mixer():
    body = nn.Sequential(MixerBlock(5, 8), MixerBlock(5, 8), nn.LayerNorm(8))
    return SequenceClassifier(body), (torch.randn(2, 5, 3),)
