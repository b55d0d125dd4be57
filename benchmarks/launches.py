"""How many operators a step launches on an accelerator, counted without one."""

from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import override

from l2o import AbstractRule, neural_graph
from meta_train.unroll import RuleOnGraph
from optimizees import FunctionalTask, fashion_cnn, image_task
from optimizees.data.images import ImageData

VIEWS = frozenset(
    (
        *("view", "_unsafe_view", "t", "transpose", "permute", "expand", "unsqueeze"),
        *("squeeze", "select", "slice", "split", "split_with_sizes", "unbind"),
        *("detach", "alias", "as_strided", "_reshape_alias", "unflatten", "narrow"),
        *(
            "lift_fresh",
            "empty",
            "empty_strided",
            "new_empty",
            "empty_like",
            "promote_types",
        ),
        *("_record_function_enter_new", "_record_function_exit"),
    )
)
"""What launches nothing: views, uninitialised memory, questions."""

_META = torch.device("meta")


class Launches(TorchDispatchMode):
    """Counts operators, those of a backward pass too; one on a list is one launch.

    Example:
        >>> with Launches() as counted:
        ...     _ = torch.ones(2, device="meta").view(1, 2) + 1
        >>> sorted(counted.names.items())
        [('add', 1), ('ones', 1)]
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    @override
    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if name not in VIEWS:
            self.names[name] += 1
        return func(*args, **(kwargs or {}))


def launches_of_inner_step(rule: AbstractRule) -> tuple[int, int]:
    """Return the launches of a step of meta-training on the FashionMNIST CNN.

    Sizes and code paths are those of an accelerator: all lies on the meta device.

    Args:
        rule: its weights stay as they are, but it moves to the meta device.

    Returns:
        Of a step without autograd: the update, the next batch, loss and gradients. Of
        the update computed again with autograd, forward and backward.
    """
    images = ImageData(
        images=torch.zeros(400, 1, 28, 28),
        labels=torch.zeros(400, dtype=torch.int64),
        source="no images",
    )
    task = FunctionalTask(
        image_task("cnn", fashion_cnn, images.to(_META), batch_size=128)
    )
    graph = neural_graph(fashion_cnn(), torch.zeros(2, 1, 28, 28))
    bound = RuleOnGraph(rule.to(_META), task, compile=False, graph=graph)
    batches, params = task.batches(0), task.init_params(0)
    _, grads, buffers = task.loss_and_grads(params, batches.next())
    state = rule.init_state(params)
    with torch.no_grad():  # builds what is kept
        params, state = bound.step(params, grads, state)
    with Launches() as plain:
        with torch.no_grad():
            params, state = bound.step(params, grads, state)
        task.loss_and_grads(params, batches.next(), buffers)
    with Launches() as differentiated:
        updates = bound.updates(params, grads, state)
        slopes = [torch.empty_like(update) for update in updates.values()]
        torch.autograd.backward(list(updates.values()), slopes)
    return plain.names.total(), differentiated.names.total()
