"""Inside `higher`: code written for `innerloop_ctx` takes a learned optimizer too.

Theta, the weights of the rule itself, learns from short training runs of new networks.
"""

import argparse

import torch
from torch import nn
from torch.nn import functional

from l2o import NeuralGraphOpt, load_rule
from l2o.optim.higher_adapter import register_with_higher


def main() -> None:
    """Print the loss after twenty inner steps, before and after the meta-training."""
    import higher

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20, help="of the meta-training")
    meta_steps = parser.parse_args().steps
    register_with_higher()
    torch.manual_seed(0)
    rule = load_rule("ff")
    meta_optimizer = torch.optim.Adam(rule.parameters(), lr=1e-3)
    inputs = torch.randn(256, 2)
    targets = (inputs[:, :1] * inputs[:, 1:]).sign()

    def loss_after_training(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1))
        optimizer = NeuralGraphOpt(model.parameters(), rule=rule)
        with higher.innerloop_ctx(model, optimizer) as (network, inner):
            for _ in range(20):
                inner.step(functional.mse_loss(network(inputs), targets))
            return functional.mse_loss(network(inputs), targets)

    before = loss_after_training(seed=0)
    for meta_step in range(meta_steps):
        meta_optimizer.zero_grad()
        loss_after_training(seed=1 + meta_step).backward()
        meta_optimizer.step()
    after = loss_after_training(seed=0)
    print(f"loss {before:.3f} -> {after:.3f} after {meta_steps} steps of meta-training")


if __name__ == "__main__":
    main()
