"""What a network holds is read or refused, never left out in silence."""

import pytest
import torch
from torch import nn
from torch.func import functional_call

from l2o import neural_graph
from l2o.companion import (
    CompanionConfig,
    InputsConfig,
    NetworkClassifier,
    NetworkEditor,
    NGGNNBackboneConfig,
    ReadoutConfig,
    fold_running_statistics,
    infer_config,
    placed_part,
    stack_networks,
)
from l2o.companion.architecture import ACTIVATIONS
from l2o.companion.reach import parameters_off_the_way
from l2o.graph import permute_parameters, random_permutations


def mlp(activation):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), activation, nn.Linear(4, 2)).double()


def graph_of(model, *shape):
    example = torch.zeros(*(shape or (2, 3)), dtype=torch.float64)
    return neural_graph(model, example)


def reader(pooling="outputs", **inputs):
    torch.manual_seed(0)
    sizes = {"num_inputs": 3, "num_hidden": 4, "num_outputs": 2} | inputs
    config = CompanionConfig(
        inputs=InputsConfig(**sizes),
        backbone=NGGNNBackboneConfig(width=6, layers=4),
        readout=ReadoutConfig(width=32, pooling=pooling),
    )
    return NetworkClassifier(config, num_classes=2).double().eval()


def read(model, graph, tensors, **options):
    stacked = {name: value.detach()[None] for name, value in tensors.items()}
    return model(stack_networks(graph, stacked, **options))


class TestActivations:
    @pytest.mark.parametrize(
        ("activation", "name"),
        [
            (nn.ELU(), "elu"),
            (nn.SELU(), "selu"),
            (nn.Softplus(), "softplus"),
            (nn.Hardtanh(), "hardtanh"),
            (nn.ReLU6(), "relu6"),
            (nn.LogSigmoid(), "log_sigmoid"),
            (nn.Mish(), "mish"),
            (nn.Identity(), "none"),
            (nn.Dropout(0.1), "none"),
        ],
        ids=lambda item: item if isinstance(item, str) else "",
    )
    def test_each_has_a_row_of_its_own(self, activation, name):
        model, all_of_them = mlp(activation), reader(activations=ACTIVATIONS)
        row = ACTIVATIONS.index(name)
        answer = read(all_of_them, graph_of(model), dict(model.named_parameters()))
        table = all_of_them.encoder.inputs.activations
        (grad,) = torch.autograd.grad(answer.sum(), table)
        assert grad.abs().sum(1).nonzero().flatten().tolist() == [row]

    def test_one_that_is_not_listed_is_refused(self):
        model, without = mlp(nn.ELU()), reader(activations=("none", "relu"))
        with pytest.raises(ValueError, match=r"'elu' in '0'. Add it to the list"):
            read(without, graph_of(model), dict(model.named_parameters()))

    @pytest.mark.parametrize("functions", [[torch.erf], [torch.relu, torch.tanh]])
    def test_one_without_a_name_is_refused(self, functions):
        class Called(nn.Module):
            def forward(self, values):
                for function in functions:
                    values = function(values)
                return values

        model, any_named = mlp(Called()), reader(activations=ACTIVATIONS)
        with pytest.raises(ValueError, match=r"by activations=\(\)"):
            read(any_named, graph_of(model), dict(model.named_parameters()))


class TestRunningStatistics:
    @pytest.fixture
    def model(self):
        torch.manual_seed(0)
        found = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(2)
        )
        found.append(nn.AdaptiveAvgPool1d(1)).append(nn.Flatten())
        found.append(nn.Linear(4, 2)).double()
        for _ in range(3):
            found(3 * torch.randn(8, 3, 6, 6, dtype=torch.float64) + 1)
        return found.eval()

    def test_folded_parameters_compute_the_same(self, model):
        graph, images = graph_of(model, 2, 3, 6, 6), torch.randn(5, 3, 6, 6).double()
        folded = fold_running_statistics(graph, model.state_dict())
        assert folded.keys() == graph.shapes.keys()
        neutral = {
            "1.running_mean": torch.zeros(4).double(),
            "1.running_var": torch.full((4,), 1 - 1e-5).double(),
        }
        found = functional_call(model, {**folded, **neutral}, images)
        torch.testing.assert_close(found, model(images))
        plain = dict(model.named_parameters())
        other = functional_call(model, {**plain, **neutral}, images)
        assert not torch.allclose(other, model(images))

    def test_they_change_the_answer(self, model):
        graph = graph_of(model, 2, 3, 6, 6)
        network = reader(kernel=(3, 3))
        first = read(network, graph, model.state_dict())
        model[1].running_var.mul_(4.0)
        assert not torch.allclose(first, read(network, graph, model.state_dict()))

    def test_without_them_a_norm_is_refused(self, model):
        graph, params = graph_of(model, 2, 3, 6, 6), dict(model.named_parameters())
        network = reader(kernel=(3, 3))
        with pytest.raises(ValueError, match="Pass state dicts"):
            read(network, graph, params)
        left_out = read(network, graph, params, running_statistics=False)
        assert left_out.isfinite().all()

    def test_a_norm_without_weights_is_refused(self):
        model = nn.Sequential(
            nn.Linear(3, 4), nn.BatchNorm1d(4, affine=False), nn.Linear(4, 2)
        ).double()
        with pytest.raises(ValueError, match=r"use BatchNorm\(affine=True\)"):
            read(reader(), graph_of(model), model.state_dict())


class WithTable(nn.Module):
    """Tokens that get a learned vector for their position."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(3, 4)
        self.table = nn.Parameter(torch.randn(5, 4))
        self.last = nn.Linear(4, 2)
        self.double()

    def forward(self, tokens):
        return self.last(torch.relu(self.first(tokens) + self.table)).mean(1)


CASES = {
    "table": (WithTable(), (2, 5, 3), "table"),
    "volume": (
        nn.Sequential(
            nn.Conv3d(3, 4, (2, 3, 1)),
            nn.ReLU(),
            nn.AdaptiveAvgPool3d(1),
            nn.Flatten(),
            nn.Linear(4, 2),
        ).double(),
        (2, 3, 4, 4, 4),
        "0.weight",
    ),
}


class TestMoreThanOneEntryPerEdgeOrNeuron:
    """Position tables and kernels of three axes."""

    @pytest.fixture(params=CASES)
    def case(self, request):
        model, shape, name = CASES[request.param]
        graph = graph_of(model, *shape)
        config = infer_config(graph, width=8, layers=2)
        torch.manual_seed(0)
        network = NetworkClassifier(config, num_classes=2).double().eval()
        params = {key: value.detach() for key, value in model.named_parameters()}
        network.fit_statistics(
            stack_networks(
                graph, {n: torch.stack([v, 2 * v]) for n, v in params.items()}
            )
        )
        return graph, network, params, name

    def test_every_entry_changes_the_answer(self, case):
        graph, network, params, name = case
        leaf = params[name].clone().requires_grad_()
        answer = read(network, graph, {**params, name: leaf.detach()})
        stacked = {k: v[None] for k, v in params.items()} | {name: leaf[None]}
        found = network(stack_networks(graph, stacked))
        torch.testing.assert_close(found, answer)
        (grad,) = torch.autograd.grad(found.square().sum(), leaf)
        assert bool((grad != 0).all())

    def test_hidden_neurons_stay_exchangeable(self, case):
        graph, network, params, name = case
        orders = random_permutations(graph, torch.Generator().manual_seed(1))
        moved = permute_parameters(graph, orders, params)
        assert not torch.equal(moved[name], params[name])
        found, expected = (read(network, graph, own) for own in (moved, params))
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)

    def test_entries_are_told_apart(self, case):
        graph, network, params, name = case
        mixed = {**params, name: params[name].flip(0, -1)}
        found, expected = (read(network, graph, own) for own in (mixed, params))
        assert not torch.allclose(found, expected)

    def test_an_editor_gives_an_update_of_every_kernel_cell(self):
        model, shape, _ = CASES["volume"]
        graph = graph_of(model, *shape)
        editor = NetworkEditor(infer_config(graph, width=8, layers=2)).double()
        batch = stack_networks(
            graph, {n: v.detach()[None] for n, v in model.named_parameters()}
        )
        found = editor(batch)
        assert found["0.weight"].shape == (1, 4, 3, 2, 3, 1)
        assert bool((found["0.weight"] != 0).all())

    def test_kernels_have_two_axes_or_three(self):
        with pytest.raises(ValueError, match="two or three axes"):
            InputsConfig(num_inputs=1, num_hidden=1, num_outputs=1, kernel=(3,))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(3, 4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.last = nn.Linear(4, 2)
        self.double()

    def forward(self, tokens):
        hidden = self.first(tokens)
        return self.last(self.attention(hidden, hidden, hidden)[0]).mean(1)


class TestQueriesAndKeys:
    def gradient(self, network):
        model = Attention()
        params = {
            name: value.detach()[None].requires_grad_()
            for name, value in model.named_parameters()
        }
        batch = stack_networks(graph_of(model, 2, 5, 3), params)
        weight = params["attention.in_proj_weight"]
        (grad,) = torch.autograd.grad(network(batch).sum(), weight)
        return grad[0].abs().sum(1)

    def test_along_the_weights_they_are_refused(self):
        with pytest.raises(ValueError, match="Set reversed_edges=True"):
            self.gradient(reader())

    @pytest.mark.parametrize(
        "options", [{"reversed_edges": True}, {"pooling": "mean"}], ids=str
    )
    def test_otherwise_each_of_their_weights_counts(self, options):
        assert bool((self.gradient(reader(**options)) > 0).all())

    def test_a_perceptron_has_no_such_weights(self):
        assert parameters_off_the_way(graph_of(mlp(nn.ReLU())), True) == ()


class TestPReLU:
    def test_one_slope_for_all_is_refused_with_a_way_out(self):
        model = mlp(nn.PReLU())
        graph, params = graph_of(model), dict(model.named_parameters())
        with pytest.raises(ValueError, match=r"Leave them out with placed_part"):
            read(reader(), graph, params)
        placed = placed_part(graph)
        assert placed is placed_part(graph)
        kept = {name: params[name] for name in placed.shapes}
        assert read(reader(), placed, kept).isfinite().all()
        assert placed.symmetries == graph.symmetries

    def test_a_slope_per_neuron_is_no_second_bias(self):
        model = mlp(nn.PReLU(4))
        graph, params = graph_of(model), dict(model.named_parameters())
        with pytest.raises(ValueError, match="Set node_channels to what"):
            read(reader(), graph, params)
        network = reader(node_channels=2)
        answer = read(network, graph, params)
        moved = {**params, "1.weight": params["1.weight"] + 0.3}
        shifted = {**params, "0.bias": params["0.bias"] + 0.3}
        found = [answer, *(read(network, graph, x) for x in (moved, shifted))]
        gaps = torch.stack(found).diff(dim=0, append=answer[None]).abs().amax((1, 2))
        assert bool((gaps > 1e-9).all())

    def test_hidden_neurons_stay_exchangeable(self):
        model = mlp(nn.PReLU(4))
        with torch.no_grad():
            model[1].weight.copy_(torch.arange(4.0))
        graph = graph_of(model)
        params = {name: value.detach() for name, value in model.named_parameters()}
        orders = random_permutations(graph, torch.Generator().manual_seed(1))
        moved = permute_parameters(graph, orders, params)
        assert not torch.equal(moved["1.weight"], params["1.weight"])
        network = reader(node_channels=2)
        network.fit_statistics(
            stack_networks(
                graph, {n: torch.stack([v, 2 * v]) for n, v in params.items()}
            )
        )
        found, expected = (read(network, graph, own) for own in (moved, params))
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)

    def test_an_editor_edits_one_entry_per_neuron(self):
        inputs = InputsConfig(
            num_inputs=3, num_hidden=1, num_outputs=2, node_channels=2
        )
        backbone = NGGNNBackboneConfig(width=6)
        with pytest.raises(ValueError, match="Set node_channels=1"):
            NetworkEditor(CompanionConfig(inputs=inputs, backbone=backbone))
