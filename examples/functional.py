"""The step as a pure function: many networks at once, and gradients through training.

Eight networks learn XOR-like labels at once under `vmap`. Then theta, the weights of
the rule, improves by differentiating through twenty of their steps.
"""

import argparse

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn import functional

from l2o import learned_step, load_rule, neural_graph, with_theta

Params = dict[str, Tensor]
NETWORKS, INNER_STEPS = 8, 20


def build_model() -> nn.Module:
    """Return a new multi-layer perceptron of 65 weights."""
    return nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1))


def main() -> None:
    """Improve theta on some networks; compare it with the shipped one on others."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20, help="of the meta-training")
    meta_steps = parser.parse_args().steps
    torch.manual_seed(0)
    inputs = torch.randn(256, 2)
    targets = (inputs[:, :1] * inputs[:, 1:]).sign()
    model = build_model()
    rule, graph = load_rule("ff"), neural_graph(model)

    def loss(params: Params) -> Tensor:
        return functional.mse_loss(functional_call(model, params, inputs), targets)

    def loss_after_training(theta: Params, params: Params) -> Tensor:
        """Train one network from `params` with the rule that `theta` makes."""
        trained = with_theta(rule, theta)
        state = trained.init_state(params)
        for _ in range(INNER_STEPS):
            params, state = learned_step(
                trained, graph, params, grad(loss)(params), state
            )
        return loss(params)

    def meta_loss(theta: Params, networks: Params) -> Tensor:
        """Return the mean final loss of a stack of networks."""
        return vmap(loss_after_training, in_dims=(None, 0))(theta, networks).mean()

    def new_networks() -> Params:
        return stack_module_state([build_model() for _ in range(NETWORKS)])[0]

    theta = {name: weight.detach().clone() for name, weight in rule.named_parameters()}
    held_out = new_networks()
    start = vmap(loss)(held_out).mean()
    before = meta_loss(theta, held_out).item()
    meta_optimizer = torch.optim.Adam(theta.values(), lr=1e-3)
    for _ in range(meta_steps):
        slopes = grad(meta_loss)(theta, new_networks())
        for name, weight in theta.items():
            weight.grad = slopes[name].detach()
        meta_optimizer.step()
    after = meta_loss(theta, held_out)
    print(f"{NETWORKS} new networks, {INNER_STEPS} steps each, loss {start:.3f}")
    print(f"loss {before:.3f} -> {after:.3f} after {meta_steps} steps of meta-training")


if __name__ == "__main__":
    main()
