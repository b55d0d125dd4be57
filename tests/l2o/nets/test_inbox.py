import torch

from l2o.nets import messages as module
from l2o.nets.messages import NUM_REDUCTIONS, Inbox, reduced


def test_many_neurons_are_updated_some_at_a_time(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    nodes = torch.randn(11, 3, generator=generator, dtype=torch.float64)
    targets = torch.randint(10, (1, 5), generator=generator)  # the last hears nothing
    degree = torch.zeros(11).index_add(0, targets.flatten(), torch.full((5,), 4.0))
    inbox = Inbox(degree, is_pure=False)
    messages = torch.randn(1, 5, 4, 3, generator=generator, dtype=torch.float64)
    inbox.take(targets, *reduced(messages, 2))
    seen = []

    def update(some, reduced):
        seen.append(len(some))
        assert reduced.shape == (len(some), NUM_REDUCTIONS * 3)
        return torch.cat([some, reduced], dim=-1)

    whole = inbox.follow(nodes, update)
    monkeypatch.setattr(module, "UPDATED_NEURONS", 4)
    assert torch.equal(inbox.follow(nodes, update), whole)
    assert seen == [11, 4, 4, 3]
