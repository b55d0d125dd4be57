"""Fit one small network to each of many images, a few at a time."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from optimizees.siren import FREQUENCY, OFFSET, LastLayer, draw_siren

AT_ONCE = 8
"""Networks that are fitted together: as many as keep their layers in a cache."""


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How networks are fitted to images; the defaults are those of our data sets."""

    steps: int = 500
    """Steps of Adam, each on all pixels of the image."""
    lr: float = 1e-3
    """Adam's step size, the same for all steps."""
    seed: int = 0
    """Decides initial weights, together with the number of the image."""
    last_layer: LastLayer = "sine"
    """How the last layer is drawn, see `draw_siren`."""

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 < self.lr < math.inf or self.seed < 0:
            raise ValueError(
                "FitConfig needs at least one step of a positive, finite size, and a "
                f"seed of at least 0; got steps={self.steps}, lr={self.lr}, "
                f"seed={self.seed}. Choose positive numbers."
            )


def fit_sirens(
    images: Float[Tensor, "N H W"],
    draws: list[dict[str, Tensor]],
    config: FitConfig,
    *,
    at_once: int = AT_ONCE,
) -> tuple[dict[str, Tensor], Float[Tensor, " N"]]:
    """Train one `Siren` of two hidden layers on each image.

    On a CPU the result of an image does not depend on the other images, bit for bit, if
    the number of pixels is a multiple of 16: no vector of the processor then holds two
    images. Two things make it faster than autograd and `torch.func.vmap`. The pixels
    lie on a grid, so the sines of the first layer follow from those of its rows and its
    columns. And all steps share a few buffers that fit in a cache.

    Args:
        images: grey values in [0, 1], on the device to compute on.
        draws: initial weights for each image, from `draw_siren`.
        config: steps, their size and the seed.
        at_once: networks at a time.

    Returns:
        The parameters by name with a leading axis N, and the mean squared error of the
        pixels for each image, on the device of the images.

    Raises:
        ValueError: unless there are initial weights for each image.
    """
    if len(images) != len(draws) or not draws:
        raise ValueError(
            "fit_sirens needs initial weights for each image; got "
            f"{len(draws)} for {len(images)} images. Draw one for each with draw_siren."
        )
    fitted, errors = [], []
    for start in range(0, len(draws), at_once):
        part = slice(start, start + at_once)
        fit = _Fit(images[part], draws[part])
        for step in range(1, config.steps + 1):
            fit.step(step, config.lr)
        fitted.append(fit.theta)
        errors.append(fit.errors())
    flat = torch.cat(fitted)
    return _views(flat, draws[0]), torch.cat(errors)


def initial_weights(config: FitConfig, part: int, index: int) -> dict[str, Tensor]:
    """Draw the initial weights of the network that one image will have.

    Args:
        config: its seed.
        part: a number of the data set that the image belongs to, so that images of
            the same number in two sets share nothing.
        index: number of the image.
    """
    entropy = np.random.SeedSequence((config.seed, part, index))
    (word,) = entropy.generate_state(1, np.uint64)
    generator = torch.Generator().manual_seed(int(word) >> 1)
    return draw_siren(generator=generator, last_layer=config.last_layer)


class _Fit:
    """Stacked networks, their gradients and Adam's moments, all updated in place."""

    def __init__(
        self, images: Float[Tensor, "n H W"], draws: list[dict[str, Tensor]]
    ) -> None:
        num, height, width = images.shape
        dtype = images.dtype
        self.theta = torch.stack(
            [torch.cat([w.flatten() for w in draw.values()]) for draw in draws]
        ).to(images)
        self.grads = torch.empty_like(self.theta)
        self.mean = torch.zeros_like(self.theta)
        self.square = torch.zeros_like(self.theta)
        self.weights = list(_views(self.theta, draws[0]).values())
        self.slopes = list(_views(self.grads, draws[0]).values())
        self.targets = (images - OFFSET).flatten(1).unsqueeze(1)
        self.rows, self.columns = (
            torch.linspace(-1, 1, count, dtype=dtype).to(images) * FREQUENCY
            for count in (height, width)
        )
        hidden = [self.weights[0].shape[1], self.weights[2].shape[1]]
        self.sine = [self.targets.new_empty(num, h, height * width) for h in hidden]
        self.cosine = [torch.empty_like(sine) for sine in self.sine]
        self.angle = torch.empty_like(self.sine[1])
        self.back = torch.empty_like(self.sine[0])
        self.error = torch.empty_like(self.targets)

    def errors(self) -> Float[Tensor, " n"]:
        """Return the mean squared error of each image."""
        self._forward()
        return self.error.square().mean((1, 2))

    def step(self, step: int, lr: float) -> None:
        """Make one step of Adam; the first has the number 1."""
        self._forward()
        self._backward()
        self.mean.lerp_(self.grads, 0.1)
        self.square.mul_(0.999).addcmul_(self.grads, self.grads, value=0.001)
        root = self.square.sqrt().div_(math.sqrt(1 - 0.999**step)).add_(1e-8)
        self.theta.addcdiv_(self.mean, root, value=-lr / (1 - 0.9**step))

    def _forward(self) -> None:
        """Leave sines and cosines of both hidden layers, and output minus target."""
        first, shift, second, bias, last, top = self.weights
        across = first[..., :1] * self.columns
        down = first[..., 1:] * self.rows + FREQUENCY * shift.unsqueeze(-1)
        sin_x, cos_x, sin_y, cos_y = across.sin(), across.cos(), down.sin(), down.cos()
        x = torch.stack([sin_x, cos_x], dim=-2).flatten(0, 1)
        y = torch.stack([cos_y, sin_y], dim=-1).flatten(0, 1)
        self._outer(y, x, self.sine[0])
        x = torch.stack([cos_x, sin_x], dim=-2).flatten(0, 1)
        y = torch.stack([cos_y, -sin_y], dim=-1).flatten(0, 1)
        self._outer(y, x, self.cosine[0])
        torch.baddbmm(bias.unsqueeze(2), second, self.sine[0], out=self.angle)
        self.angle.mul_(FREQUENCY)
        _sine_and_cosine(self.angle, self.sine[1], self.cosine[1])
        torch.baddbmm(top.unsqueeze(2), last, self.sine[1], out=self.error)
        self.error.sub_(self.targets)

    @staticmethod
    def _outer(y: Tensor, x: Tensor, out: Tensor) -> None:
        torch.bmm(y, x, out=out.view(len(y), y.shape[1], x.shape[2]))

    def _backward(self) -> None:
        """Leave the gradients of the mean squared error of each image."""
        _, _, second, _, last, _ = self.weights
        slope, shift, slope_second, slope_bias, slope_last, slope_top = self.slopes
        pixels = self.error.shape[2]
        error = self.error.mul_(2 / pixels)
        slope_last.copy_(torch.bmm(error, self.sine[1].mT))
        slope_top.copy_(error.sum(2))
        delta = self.cosine[1].mul_(error).mul_(FREQUENCY * last.mT)
        slope_second.copy_(torch.bmm(delta, self.sine[0].mT))
        slope_bias.copy_(delta.sum(2))
        torch.bmm(second.mT, delta, out=self.back)
        delta = self.cosine[0].mul_(self.back)
        grid = delta.unflatten(2, (len(self.rows), len(self.columns)))
        across, down = grid.sum(2), grid.sum(3)
        slope[..., 0] = across @ self.columns
        slope[..., 1] = down @ self.rows
        shift.copy_(down.sum(2).mul_(FREQUENCY))


def _sine_and_cosine(angle: Tensor, sine: Tensor, cosine: Tensor) -> None:
    """Fill two tensors; on a CPU with NumPy's, which take half the time of torch's."""
    if angle.device.type == "cpu":
        np.sin(angle.numpy(), out=sine.numpy())
        np.cos(angle.numpy(), out=cosine.numpy())
    else:
        torch.sin(angle, out=sine)
        torch.cos(angle, out=cosine)


def _views(flat: Tensor, like: dict[str, Tensor]) -> dict[str, Tensor]:
    """Cut rows of all parameters into tensors by name."""
    parts = flat.split([weight.numel() for weight in like.values()], dim=1)
    return {
        name: part.unflatten(1, weight.shape)
        for (name, weight), part in zip(like.items(), parts, strict=True)
    }
