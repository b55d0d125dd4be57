"""Muon for hidden matrices with AdamW for the rest, as one optimizer."""

from collections.abc import Callable
from typing import overload

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override


def hidden_weights(model: nn.Module) -> list[nn.Parameter]:
    """Return the weights that Muon takes: those of all layers but the output layer.

    Weights are matrices and kernels; those of `nn.LSTM` are among them, tables of
    `nn.Embedding` are not. The last weight is the output layer's, unless the model's
    outputs are scores against a table of tokens.
    """
    tables = [layer for layer in model.modules() if isinstance(layer, nn.Embedding)]
    found = [
        weight
        for layer in model.modules()
        if not isinstance(layer, nn.Embedding)
        for name, weight in layer.named_parameters(recurse=False)
        if name.startswith("weight") and weight.ndim > 1
    ]
    sizes = {len(weight) for weight in found}
    is_tied = any(table.num_embeddings not in sizes for table in tables)
    return found if is_tied else found[:-1]


class MuonAndAdamW(Optimizer):
    """Muon for hidden matrices, AdamW for everything else, as one optimizer.

    `hidden_weights` says which those are. `torch.optim.Muon` takes matrices only, so a
    kernel `[O, I, H, W]` is passed to it as the matrix `[O, I * H * W]`, in place.

    Args:
        model: the network.
        lr: learning rate of Muon.
        weight_decay: decoupled weight decay of both parts, per step and unit of `lr`.
        momentum: share of Muon's momentum that a step keeps.
        scale: "match_rms_adamw" scales Muon's updates to the size of AdamW's, so that
            one learning rate serves both; "original" keeps their spectral norm.
        adamw_share: AdamW's learning rate in units of Muon's.
        adamw_betas: decays of AdamW's averages.
        skips_first: whether AdamW takes the first layer, too.

    Reference: Jordan et al., 2024, "Muon: An optimizer for hidden layers in neural
        networks", https://kellerjordan.github.io/posts/muon/; the scale of the updates
        is that of Liu et al., 2025, "Muon is Scalable for LLM Training",
        https://arxiv.org/abs/2502.16982.
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float,
        *,
        weight_decay: float,
        momentum: float,
        scale: str = "match_rms_adamw",
        adamw_share: float = 1.0,
        adamw_betas: tuple[float, float] = (0.9, 0.999),
        skips_first: bool = False,
    ) -> None:
        weights = hidden_weights(model)[1 if skips_first else 0 :]
        is_hidden = {id(weight) for weight in weights}
        others = [param for param in model.parameters() if id(param) not in is_hidden]
        super().__init__(model.parameters(), {"lr": lr})
        self._adamw_share = adamw_share
        self._views: list[tuple[Tensor, Tensor]] = [
            (weight, weight.detach().view(len(weight), -1)) for weight in weights
        ]
        self._adamw = torch.optim.AdamW(
            others, lr=adamw_share * lr, betas=adamw_betas, weight_decay=weight_decay
        )
        self._muon = (
            torch.optim.Muon(
                [view for _, view in self._views],
                lr=lr,
                weight_decay=weight_decay,
                momentum=momentum,
                adjust_lr_fn=scale,
            )
            if weights
            else None
        )

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @override
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update all parameters; return the closure's loss, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for weight, view in self._views:
            grad = weight.grad
            view.grad = None if grad is None else grad.reshape(view.shape)
        lr = self.param_groups[0]["lr"]
        self._adamw.param_groups[0]["lr"] = self._adamw_share * lr
        self._adamw.step()
        if self._muon is not None:
            self._muon.param_groups[0]["lr"] = lr
            self._muon.step()
        return loss
