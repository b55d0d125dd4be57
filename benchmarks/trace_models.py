"""Three well-known networks in full size, in plain PyTorch: what a trace must bear."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, 1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(inplace=True),
            nn.Conv2d(after, after, 3, 1, 1, bias=False),
            nn.BatchNorm2d(after),
        )
        self.shortcut = nn.Sequential()
        if before != after:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
            )

    def forward(self, images: Tensor) -> Tensor:
        """Return feature maps of `after` channels."""
        return F.relu(self.body(images) + self.shortcut(images))


def resnet18() -> nn.Module:
    """Return ResNet-18 for 1,000 classes: 11.7 million parameters."""
    widths = (64, 64, 128, 256, 512)
    blocks = [
        BasicBlock(widths[k + turn], widths[k + 1], 2 if k > turn * 3 else 1)
        for k in range(4)
        for turn in (0, 1)
    ]
    return nn.Sequential(
        nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(512, 1000),
    )


class Transformer(nn.Module):
    """A stack of pre-norm layers on something embedded."""

    def __init__(self, embed: nn.Module, places: int, classes: int) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            *(768, 12, 3072, 0.0, "gelu"), batch_first=True, norm_first=True
        )
        self.embed = embed
        self.places = nn.Parameter(torch.randn(1, places, 768) / 50)
        self.layers = nn.TransformerEncoder(layer, 12, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(768)
        self.head = nn.Linear(768, classes, bias=False)


class VisionTransformer(Transformer):
    """ViT-B/16 for 1,000 classes: 86 million parameters."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 768, 16, 16), 197, 1000)
        self.token = nn.Parameter(torch.zeros(1, 1, 768))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits from the class token."""
        patches = self.embed(images).flatten(2).transpose(1, 2)
        token = self.token.expand(len(patches), -1, -1)
        values = torch.cat([token, patches], dim=1) + self.places
        return self.head(self.norm(self.layers(values))[:, 0])


class LanguageModel(Transformer):
    """GPT-2 small, the embedding tied to the head: 124 million parameters."""

    def __init__(self) -> None:
        embed = nn.Embedding(50257, 768)
        super().__init__(embed, 1024, 50257)
        self.head.weight = embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits of the next token at every place."""
        length = tokens.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length)
        values = self.embed(tokens) + self.places[:, :length]
        return self.head(self.norm(self.layers(values, mask, is_causal=True)))


MODELS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "ResNet-18": lambda: (resnet18(), torch.randn(2, 3, 224, 224)),
    "ViT-B/16": lambda: (VisionTransformer(), torch.randn(2, 3, 224, 224)),
    "GPT-2 small": lambda: (LanguageModel(), torch.randint(50257, (2, 128))),
}
"""Each with two samples: images of 224 x 224 pixels, or 128 tokens."""
