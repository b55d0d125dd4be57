import torch
from torch import nn

from l2o import neural_graph
from l2o.graph.linear_maps import fan_ins


class Mixed(nn.Module):
    """Kernels, matrices, tables and scales, one after another."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(11, 6)
        self.places = nn.Parameter(torch.zeros(5, 6))
        self.attend = nn.MultiheadAttention(6, 2, batch_first=True)
        self.scale = nn.Parameter(torch.ones(1, 6))
        self.turned = nn.Parameter(torch.randn(6, 9))
        self.kernel = nn.Conv1d(9, 9, 3, padding=1, groups=9)
        self.mixed = nn.Conv1d(9, 4, 3)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, tokens):
        hidden = self.tokens(tokens) + self.places
        hidden = self.scale * self.attend(hidden, hidden, hidden)[0]
        hidden = torch.relu(hidden @ self.turned).mT
        return self.norm(self.mixed(torch.relu(self.kernel(hidden))))


def test_matrices_and_kernels_are_maps_and_tables_are_none():
    model = Mixed().eval()
    graph = neural_graph(model, torch.randint(11, (3, 5)))
    assert fan_ins(graph) == {
        "attend.in_proj_weight": 6,
        "attend.out_proj.weight": 6,
        "turned": 6,
        "kernel.weight": 1,
        "mixed.weight": 9,
    }
    tables = {"tokens.weight", "places", "scale"}
    assert all(len(graph.shapes[name]) > 1 for name in tables)


def test_of_a_kernel_counts_what_is_new_at_each_position():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 4, stride=4),
        nn.Conv2d(8, 8, 3, stride=2, padding=1),
        nn.ConvTranspose2d(8, 6, 4, stride=2),
        nn.Conv2d(6, 4, 3, groups=2),
        nn.Flatten(),
        nn.Linear(144, 5),
    )
    graph = neural_graph(model, torch.zeros(2, 3, 20, 20))
    found = list(fan_ins(graph).values())
    assert found == [3 * 16, 8 * 4, 8 * 4, 3, 144]


def test_a_tied_table_is_none():
    table = nn.Embedding(11, 6)
    model = nn.Sequential(table, nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 11))
    model[3].weight = table.weight
    graph = neural_graph(model, torch.randint(11, (3, 5)))
    assert list(fan_ins(graph)) == ["1.weight"]


def test_what_only_shapes_tell_is_a_map():
    """A bare list shows no use; matrices are taken for maps."""
    graph = neural_graph(nn.Linear(7, 5))
    assert fan_ins(graph) == {"weight": 7}
