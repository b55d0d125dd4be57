"""Networks made to mislead a tracer: what it calls exchangeable must be.

Each treats some neurons unlike others in a way that neuron labels alone do not show, or
uses a parameter in an unusual place. The second number says how many hidden neurons may
move at least, so that freezing everything is no way out.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from l2o import neural_graph
from l2o.graph import permute_parameters, random_permutations


class Middle(nn.Module):
    """Three inputs, eight hidden neurons, something in between, two outputs."""

    def __init__(self, middle, width=8, **parts):
        super().__init__()
        self.first, self.last = nn.Linear(3, 8), nn.Linear(width, 2)
        self.middle = middle
        for name, part in parts.items():
            if type(part) is torch.Tensor:
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, values):
        return self.last(self.middle(self, torch.tanh(self.first(values))))


def weight(*shape):
    return nn.Parameter(torch.randn(*shape))


def shift_in_time(x):
    moved = torch.zeros_like(x)
    moved[:, 1:, :3], moved[:, :-1, 3:6], moved[:, :, 6:] = (
        x[:, :-1, :3],
        x[:, 1:, 3:6],
        x[:, :, 6:],
    )
    return moved


def touch_some(x):
    x = x.clone()
    x[:, :3].relu_()
    x[:, 3:5].mul_(2.0)
    return x


def gate_in_two_orders(x):
    order = torch.tensor([0, 5, 2, 7, 4, 1, 6, 3])
    gated = x[:, order[:4]] * x[:, order[4:]].tanh()
    return torch.cat([gated, x[:, 4:]], -1)


def channel_attention(s, x):
    scores = (s.q(x).mT @ s.k(x)).softmax(-1)
    return (scores @ s.v(x).mT).mT


def query_attention(s, x):
    return (s.q(s.latent) @ s.k(x).mT).softmax(-1) @ s.v(x)


def maps(n=8):
    return {name: nn.Linear(8, n) for name in ("q", "k", "v")}


SEQUENCE, ROWS = (2, 5, 3), (4, 3)
CASES = {
    # values of some neurons move, meet constants, or come in an order
    "time shift": (SEQUENCE, 8, lambda: Middle(lambda s, x: shift_in_time(x))),
    "cumulative": (ROWS, 0, lambda: Middle(lambda s, x: x.cumsum(-1))),
    "sorted": (ROWS, 0, lambda: Middle(lambda s, x: x.sort(-1)[0])),
    "argmax": (ROWS, 0, lambda: Middle(lambda s, x: x * x.argmax(-1, keepdim=True))),
    "ring": (ROWS, 0, lambda: Middle(lambda s, x: x + x.roll(1, -1))),
    "mirror": (ROWS, 16, lambda: Middle(lambda s, x: x * x.flip(-1).sigmoid())),
    "two orders": (ROWS, 8, lambda: Middle(lambda s, x: gate_in_two_orders(x))),
    "some in place": (ROWS, 8, lambda: Middle(lambda s, x: touch_some(x))),
    "some activated": (
        ROWS,
        8,
        lambda: Middle(lambda s, x: torch.cat([x[:, :5].relu(), x[:, 5:]], -1)),
    ),
    "half normed": (
        ROWS,
        8,
        lambda: Middle(
            lambda s, x: torch.cat([F.layer_norm(x[:, :4], (4,)), x[:, 4:]], -1)
        ),
    ),
    "some summed": (
        ROWS,
        8,
        lambda: Middle(lambda s, x: x * x[:, :3].sum(-1, keepdim=True)),
    ),
    "fixed encoding": (
        SEQUENCE,
        0,
        lambda: Middle(lambda s, x: torch.relu(x + s.code), code=torch.randn(5, 8)),
    ),
    "even constant": (
        ROWS,
        8,
        lambda: Middle(lambda s, x: x * s.code, code=torch.full((8,), 2.0)),
    ),
    "one read out": (
        ROWS,
        7,
        lambda: Middle(lambda s, x: x if float(x[0, 0]) > 0 else -x),
    ),
    "gathered apart": (
        SEQUENCE,
        0,
        lambda: Middle(
            lambda s, x: x.gather(1, s.index.expand(2, 5, 8)),
            index=torch.randint(5, (1, 5, 8)),
        ),
    ),
    "gathered alike": (
        SEQUENCE,
        8,
        lambda: Middle(
            lambda s, x: x.gather(1, s.index.expand(2, 5, 8)),
            index=torch.randint(5, (1, 5, 1)),
        ),
    ),
    "filter over neurons": (
        SEQUENCE,
        0,
        lambda: Middle(
            lambda s, x: x * s.mix(x.mean(1, keepdim=True)).sigmoid(),
            mix=nn.Conv1d(1, 1, 3, padding=1),
        ),
    ),
    "rotary pairs": (
        ROWS,
        0,
        lambda: Middle(
            lambda s, x: torch.view_as_real(
                torch.view_as_complex(x.view(-1, 4, 2)) * s.turn
            ).flatten(1),
            turn=torch.randn(4, dtype=torch.complex128),
        ),
    ),
    # attention of every kind
    "channel attention": (SEQUENCE, 24, lambda: Middle(channel_attention, **maps())),
    "gram matrix": (
        SEQUENCE,
        8,
        lambda: Middle(lambda s, x: ((x.mT @ x).softmax(-1) @ x.mT).mT),
    ),
    "learned queries": (
        SEQUENCE,
        24,
        lambda: Middle(query_attention, latent=weight(3, 8), **maps()),
    ),
    "a gate a head": (
        SEQUENCE,
        16,
        lambda: Middle(
            lambda s, x: (s.v(x).view(2, 5, 4, 2) * s.g(x)[..., None]).flatten(2),
            v=nn.Linear(8, 8),
            g=nn.Linear(8, 4),
        ),
    ),
    "branches weighed": (
        ROWS,
        40,
        lambda: Middle(
            lambda s, x: (s.h(x).view(4, 2, 8) * s.g(x).view(4, 2, 8).softmax(1)).sum(
                1
            ),
            h=nn.Linear(8, 16),
            g=nn.Linear(8, 16),
        ),
    ),
    "pairs centred": (
        ROWS,
        20,
        lambda: Middle(
            lambda s, x: (
                x.view(4, 2, 4) - x.view(4, 2, 4).mean(1, keepdim=True)
            ).flatten(1)
        ),
    ),
    # weights computed from parameters
    "masked weight": (
        ROWS,
        0,
        lambda: Middle(
            lambda s, x: F.linear(x, s.w * s.mask),
            w=weight(8, 8),
            mask=torch.ones(8, 8).tril(),
        ),
    ),
    "exponential weight": (
        ROWS,
        16,
        lambda: Middle(lambda s, x: F.linear(x, s.w.exp()), w=weight(8, 8)),
    ),
    "standardised weight": (
        ROWS,
        16,
        lambda: Middle(
            lambda s, x: F.linear(
                x, s.g * (s.w - s.w.mean(1, keepdim=True)) / s.w.std(1, keepdim=True)
            ),
            w=weight(8, 8),
            g=weight(8, 1),
        ),
    ),
    "two weights in one": (
        ROWS,
        16,
        lambda: Middle(
            lambda s, x: F.linear(x, s.w * s.v), w=weight(8, 8), v=weight(8, 8)
        ),
    ),
    "weight and transpose": (
        ROWS,
        0,
        lambda: Middle(lambda s, x: F.linear(x, s.w + s.w.t()), w=weight(8, 8)),
    ),
    "weight there and back": (
        ROWS,
        24,
        lambda: Middle(
            lambda s, x: F.linear(F.linear(x, s.w).relu(), s.w.t()), w=weight(8, 8)
        ),
    ),
    "weight used twice": (
        ROWS,
        16,
        lambda: Middle(
            lambda s, x: F.linear(F.linear(x, s.w).relu(), s.w), w=weight(8, 8)
        ),
    ),
    "rows in another order": (
        ROWS,
        16,
        lambda: Middle(
            lambda s, x: F.linear(x, s.w[s.index]),
            w=weight(8, 8),
            index=torch.randperm(8),
        ),
    ),
    "positions scrambled": (
        SEQUENCE,
        0,
        lambda: Middle(
            lambda s, x: torch.relu(
                x + torch.stack([s.p[:, i].roll(i) for i in range(8)], -1)
            ),
            p=weight(5, 8),
        ),
    ),
    "some positions": (
        SEQUENCE,
        8,
        lambda: Middle(lambda s, x: torch.relu(x + s.p[:5]), p=weight(9, 8)),
    ),
    "experts in one tensor": (
        ROWS,
        32,
        lambda: Middle(
            lambda s, x: torch.einsum("bi,eio->beo", x, s.w).mean(1), w=weight(3, 8, 8)
        ),
    ),
    # members of an ensemble, and one value in many places
    "experts of an expanded input": (
        ROWS,
        32,
        lambda: Middle(
            lambda s, x: torch.bmm(x.expand(3, -1, -1), s.w).mean(0), w=weight(3, 8, 8)
        ),
    ),
    "vmap over members": (
        ROWS,
        16,
        lambda: Middle(
            lambda s, x: torch.vmap(
                lambda w, b: torch.tanh(F.linear(x, w, b)), out_dims=0
            )(s.w, s.b).mean(0),
            w=weight(3, 8, 8),
            b=weight(3, 8),
        ),
    ),
    "modules stacked": (
        ROWS,
        16,
        lambda: Middle(
            lambda s, x: torch.vmap(lambda w, b: torch.tanh(F.linear(x, w, b)))(
                torch.stack([m.weight for m in s.members]),
                torch.stack([m.bias for m in s.members]),
            ).mean(0),
            members=nn.ModuleList(nn.Linear(8, 8) for _ in range(3)),
        ),
    ),
    "one neuron everywhere": (
        ROWS,
        7,
        lambda: Middle(lambda s, x: x * x[:, :1].expand(-1, 8)),
    ),
    "one neuron as every source": (
        ROWS,
        7,
        lambda: Middle(lambda s, x: x + s.h(x[:, :1].expand(-1, 8)), h=nn.Linear(8, 8)),
    ),
    "gray to colour": (
        ROWS,
        8,
        lambda: Middle(
            lambda s, x: x + s.c(x[:, :1, None].expand(-1, 3, 4)).mean(-1),
            c=nn.Conv1d(3, 8, 2),
        ),
    ),
    "maximum of pieces": (
        ROWS,
        32,
        lambda: Middle(lambda s, x: s.h(x).view(4, 8, 3).amax(-1), h=nn.Linear(8, 24)),
    ),
    "weights from values": (
        ROWS,
        0,
        lambda: Middle(
            lambda s, x: torch.einsum("bi,bij->bj", x, s.h(x).view(4, 8, 8)),
            h=nn.Linear(8, 64),
        ),
    ),
}


@pytest.fixture(params=CASES)
def case(request):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        shape, least, build = CASES[request.param]
        model, values = build().double(), torch.randn(shape, dtype=torch.float64)
    return model, values, least


def distance(model, values, graph, seed):
    """Return how far outputs move when neurons are renumbered."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    orders = random_permutations(graph, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        expected = model(values)
        for name, moved in permute_parameters(graph, orders, before).items():
            model.get_parameter(name).copy_(moved)
        found = model(values)
        for name, own in before.items():
            model.get_parameter(name).copy_(own)
    return float((found - expected).abs().max() / expected.abs().max())


def movable(graph):
    """Count the hidden neurons that change places in some symmetry."""
    moved = {
        (member.group, place)
        for symmetry in graph.symmetries
        for member in symmetry.members
        for place in member.index
    }
    return sum(graph.groups[group].role == "hidden" for group, _ in moved)


def test_permutations_leave_the_outputs(case):
    model, values, least = case
    graph = neural_graph(model, values)
    assert max(distance(model, values, graph, seed) for seed in range(3)) < 1e-9
    assert movable(graph) >= least


def test_the_law_can_fail():
    """Shapes see a chain where the network adds positions to its neurons."""
    torch.manual_seed(0)
    model = Middle(lambda s, x: x.cumsum(-1)).double()
    values = torch.randn(ROWS, dtype=torch.float64)
    assert distance(model, values, neural_graph(model), 0) > 1e-3
