"""The optimizer: features, update head, the pure step and its `torch.optim` shell."""
