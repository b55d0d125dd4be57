"""The published sizes, and what each switch of the front end does."""

from dataclasses import replace

import pytest
import torch

from l2o import neural_graph
from l2o.companion import (
    InputsConfig,
    NetworkClassifier,
    NetworkEditor,
    NetworkPredictor,
    NGGNNBackboneConfig,
    collate_networks,
    inr_classifier,
    inr_editor,
    layered_graph,
    park_predictor,
    stack_networks,
    typical_log_degree,
    zoo_predictor,
)

SIREN = layered_graph(
    {
        "seq.0.weight": (32, 2),
        "seq.0.bias": (32,),
        "seq.1.weight": (32, 32),
        "seq.1.bias": (32,),
        "seq.2.weight": (1, 32),
        "seq.2.bias": (1,),
    },
    activations=("sin", "sin"),
)


def no_values(graph, params, points):
    return []


def size(model):
    return sum(weight.numel() for weight in model.parameters())


@pytest.mark.parametrize(
    ("kind", "width", "sizes"),
    [
        ("ng_gnn", 32, {0: 92_010, 16: 94_474, 64: 100_714, 128: 109_034}),
        ("ng_gnn", 64, {0: 331_466, 16: 336_362, 64: 348_746, 128: 365_258}),
        ("ng_t", 64, {0: 376_586, 16: 381_482, 64: 393_866, 128: 410_378}),
    ],
)
def test_inr_classifiers_have_the_published_sizes(kind, width, sizes):
    for num_probes, published in sizes.items():
        config = inr_classifier(kind, width=width, num_probes=num_probes)
        model = NetworkClassifier(config, num_classes=10, evaluate=no_values)
        assert size(model) == published


@pytest.mark.parametrize(
    ("kind", "width", "published"),
    [("ng_gnn", 128, 1_186_696), ("ng_gnn", 64, 298_440), ("ng_t", 64, 391_112)],
)
def test_inr_editors_have_the_published_sizes(kind, width, published):
    assert size(NetworkEditor(inr_editor(kind, width=width))) == published


def test_small_transformers_have_the_sizes_that_are_documented():
    classifier = inr_classifier("ng_t", small_transformer=True, dropout=0.4)
    assert classifier.backbone.layer.dropout == 0.4
    assert size(NetworkClassifier(classifier, num_classes=10)) == 72_810
    editor = inr_editor("ng_t", small_transformer=True)
    assert editor.backbone.layer.dropout == 0.3
    assert size(NetworkEditor(editor)) == 78_184


@pytest.mark.parametrize(
    ("config", "published"),
    [
        (zoo_predictor("ng_t"), 1_807_873),
        (zoo_predictor("ng_t", linear_as_conv=False), 1_828_481),
        (zoo_predictor("ng_gnn"), 5_587_969),
        (zoo_predictor("ng_gnn", linear_as_conv=True), 5_456_385),
        (park_predictor("ng_gnn"), 369_025),
        (park_predictor("ng_t"), 92_705),
    ],
)
def test_predictors_have_the_published_sizes(config, published):
    assert size(NetworkPredictor(config)) == published


def random_networks(graph):
    generator = torch.Generator().manual_seed(0)
    return stack_networks(
        graph,
        {
            name: 3 + 2 * torch.randn(6, *shape, generator=generator)
            for name, shape in graph.shapes.items()
        },
    )


@pytest.fixture
def sirens():
    return random_networks(SIREN)


@pytest.mark.parametrize("kind", ["ng_gnn", "ng_t"])
def test_a_network_learns_to_tell_two_classes(kind):
    torch.manual_seed(0)
    networks = random_networks(layered_graph({"a": (4, 2), "b": (3, 4), "c": (1, 3)}))
    config = inr_classifier(kind, width=16, dropout=0.0)
    model = NetworkClassifier(config, num_classes=2)
    model.fit_statistics(networks)
    labels = torch.tensor([0, 1, 0, 1, 1, 0])
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(25):
        loss = torch.nn.functional.cross_entropy(model(networks), labels)
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert min(losses) < 0.8 * losses[0]
    assert all(weight.grad is not None for weight in model.parameters())


def test_residual_sums_carry_what_tells_networks_apart(sirens):
    config = inr_classifier("ng_gnn", width=32, dropout=0.0)
    spreads, weights = [], []
    for is_residual in (False, True):
        torch.manual_seed(0)
        backbone = replace(config.backbone, residual=is_residual)
        model = NetworkClassifier(replace(config, backbone=backbone), num_classes=10)
        weights.append(model.state_dict())
        logits = model(sirens).detach()
        spreads.append(float(logits.std(0).mean() / logits.mean(0).abs().mean()))
    for name, weight in weights[0].items():
        assert torch.equal(weight, weights[1][name]), name
    assert spreads[1] > 5 * spreads[0]


def test_updates_have_the_shapes_of_parameters_and_are_small(sirens):
    model = NetworkEditor(inr_editor("ng_gnn", width=16))
    updates = model(sirens)
    assert updates.keys() == sirens.params.keys()
    for name, update in updates.items():
        assert update.shape == sirens.params[name].shape
        assert 0 < update.abs().max() < 0.1
    sum(update.square().sum() for update in updates.values()).backward()
    assert all(weight.grad is not None for weight in model.readout.parameters())


def test_statistics_are_one_number_a_layer(sirens):
    model = NetworkClassifier(inr_classifier("ng_gnn", width=16), num_classes=2)
    model.fit_statistics(sirens)
    inputs = model.encoder.inputs
    for row, layer in enumerate(("seq.0", "seq.1", "seq.2"), start=1):
        for name, mean, std in (
            ("weight", inputs.weight_mean, inputs.weight_std),
            ("bias", inputs.bias_mean, inputs.bias_std),
        ):
            values = sirens.params[f"{layer}.{name}"]
            assert mean[row] == pytest.approx(float(values.mean()), rel=1e-5)
            expected = float(values.std(correction=0))
            assert std[row] == pytest.approx(expected, rel=1e-5)
    assert "encoder.inputs.weight_std" in model.state_dict()


def test_a_layer_of_equal_values_is_not_scaled(sirens):
    model = NetworkClassifier(inr_classifier("ng_gnn", width=16), num_classes=2)
    params = {name: torch.ones_like(value) for name, value in sirens.params.items()}
    model.fit_statistics(stack_networks(SIREN, params))
    assert torch.equal(model.encoder.inputs.weight_std, torch.ones(4))
    assert model(stack_networks(SIREN, params)).isfinite().all()


@pytest.mark.parametrize("kind", ["ng_gnn", "ng_t"])
def test_activations_and_ties_are_seen_where_they_are_switched_on(kind):
    shapes = {
        "0.weight": (4, 3, 3, 3),
        "1.weight": (4, 4, 5, 3),
        "2.weight": (4, 4, 3, 3),
        "head.weight": (10, 4),
    }
    generator = torch.Generator().manual_seed(0)
    params = {name: torch.randn(s, generator=generator) for name, s in shapes.items()}
    skips = (None, None, 0)
    graphs = [
        layered_graph(shapes, activations=("relu", "relu", "gelu"), skips=skips),
        layered_graph(shapes, activations=("relu", "relu", "tanh"), skips=skips),
        layered_graph(shapes, activations=("relu", "relu", "gelu")),
    ]
    batch = collate_networks(graphs, [params] * 3)
    config = park_predictor(kind)
    for switches, other_activation, no_tie in (
        ({}, True, True),
        ({"activations": ()}, False, True),
        ({"ties": False}, True, False),
    ):
        torch.manual_seed(0)
        inputs = replace(config.inputs, **switches)
        model = NetworkPredictor(replace(config, inputs=inputs)).double().eval()
        first, second, third = model.logits(batch.to(torch.float64)).tolist()
        assert (abs(second - first) > 1e-9) == other_activation
        assert (abs(third - first) > 1e-9) == no_tie


def test_the_typical_degree_is_the_mean_over_neurons(sirens):
    degrees = torch.tensor([0.0] * 2 + [2.0] * 32 + [32.0] * 33)
    expected = float(degrees.log1p().mean())
    found = typical_log_degree(sirens, reversed_edges=False)
    assert found == pytest.approx(expected)
    found = typical_log_degree(sirens, reversed_edges=True)
    backbone = inr_classifier("ng_gnn").backbone
    assert isinstance(backbone, NGGNNBackboneConfig)
    assert found == pytest.approx(backbone.typical_log_degree, abs=1e-4)


class TestErrors:
    @pytest.mark.parametrize(
        ("change", "advice"),
        [
            ({"num_hidden": 1}, "Raise num_hidden"),
            ({"num_inputs": 1}, "Raise num_inputs or num_outputs"),
            ({"num_outputs": 2}, "pool over all neurons"),
            ({"activations": ("relu",)}, "Add it to the list"),
        ],
    )
    def test_networks_that_do_not_fit(self, change, advice, sirens):
        config = inr_classifier("ng_gnn", width=16)
        config = replace(config, inputs=replace(config.inputs, **change))
        model = NetworkClassifier(config, num_classes=2)
        with pytest.raises(ValueError, match=advice):
            model(sirens)

    def test_a_kernel_that_is_too_large(self):
        graph = layered_graph({"a": (4, 3, 9, 9), "b": (10, 4)})
        params = {name: torch.zeros(s) for name, s in graph.shapes.items()}
        model = NetworkPredictor(park_predictor("ng_gnn"))
        with pytest.raises(ValueError, match="Choose a larger kernel"):
            model(collate_networks([graph], [params]))

    def test_a_place_in_doubt(self):
        tensors = {"a": torch.zeros(4, 2), "b": torch.zeros(3, 7)}
        batch = collate_networks([neural_graph(tensors)], [tensors])
        model = NetworkClassifier(inr_classifier("ng_gnn", width=16), num_classes=2)
        with pytest.raises(ValueError, match="Trace the network"):
            model(batch)

    def test_several_entries_a_neuron(self):
        class WithTable(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.first = torch.nn.Linear(2, 4)
                self.table = torch.nn.Parameter(torch.zeros(3, 4))
                self.last = torch.nn.Linear(4, 1)

            def forward(self, values):
                return self.last((self.first(values) + self.table).mean(1))

        module = WithTable()
        graph = neural_graph(module, torch.zeros(2, 3, 2))
        params = {name: value.detach() for name, value in module.named_parameters()}
        model = NetworkClassifier(inr_classifier("ng_gnn", width=16), num_classes=2)
        with pytest.raises(ValueError, match="Set node_channels to what"):
            model(collate_networks([graph], [params]))

    def test_probes_without_a_way_to_run(self):
        with pytest.raises(ValueError, match="or num_probes=0"):
            NetworkClassifier(inr_classifier("ng_t", num_probes=4), num_classes=2)

    def test_probes_of_other_shapes(self, sirens):
        config = inr_classifier("ng_gnn", width=16, num_probes=4)
        model = NetworkClassifier(config, num_classes=2, evaluate=no_values)
        with pytest.raises(ValueError, match="each hidden layer after its activation"):
            model(sirens)

    def test_an_edit_of_several_architectures(self):
        graphs = [SIREN, layered_graph({"a": (3, 2), "b": (4, 3), "c": (1, 4)})]
        params = [
            {name: torch.zeros(s) for name, s in graph.shapes.items()}
            for graph in graphs
        ]
        model = NetworkEditor(inr_editor("ng_gnn", width=16))
        with pytest.raises(ValueError, match=r"batch\.stacks"):
            model(collate_networks(graphs, params))

    @pytest.mark.parametrize(
        ("settings", "advice"),
        [
            ({"num_inputs": 0}, "above zero"),
            ({"num_hidden": -1}, "or 0 for none"),
            ({"kernel": (3, 0)}, "above zero"),
            ({"fourier_scale": 0.0}, "above zero"),
            ({"activations": ("wobble",)}, "Leave them out"),
        ],
    )
    def test_settings_of_the_front_end(self, settings, advice):
        sizes = {"num_inputs": 2, "num_hidden": 2, "num_outputs": 1}
        with pytest.raises(ValueError, match=advice):
            InputsConfig(**(sizes | settings))

    @pytest.mark.parametrize("dropout", [-0.1, 1.0])
    def test_dropout_of_all(self, dropout):
        with pytest.raises(ValueError, match="below 1, or 0 for none"):
            NGGNNBackboneConfig(dropout=dropout)
