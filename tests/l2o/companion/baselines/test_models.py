from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from l2o import neural_graph
from l2o.companion import collate_networks, layered_graph, stack_networks
from l2o.companion.baselines import (
    BaselineClassifier,
    BaselineEditor,
    BaselinePredictor,
    DWSNetConfig,
    FunctionalConfig,
    MLPConfig,
    SetNNConfig,
    StatNNConfig,
)
from l2o.companion.baselines.statistics import StatNNBody, tensor_statistics

CLASSIFIERS = {
    "mlp": MLPConfig(width=8, layers=1),
    "set-nn": SetNNConfig(width=5, with_tensors=False),
    "dwsnet": DWSNetConfig(width=4, layers=1),
    "nfn": FunctionalConfig(widths=(4,), num_frequencies=0, num_bands=0, head_width=6),
    "stat-nn": StatNNConfig(max_layers=3, width=8),
}
EDITORS = {name: CLASSIFIERS[name] for name in ("mlp", "dwsnet", "nfn")}


def layers(*sizes, bias=True):
    """Return the graph of a perceptron."""
    shapes = {}
    for index, (source, target) in enumerate(pairwise(sizes)):
        shapes[f"{index}.weight"] = (target, source)
        if bias:
            shapes[f"{index}.bias"] = (target,)
    return layered_graph(shapes)


def draw(graph, *count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: 3 + 2 * torch.randn(*count, *shape, generator=generator)
        for name, shape in graph.shapes.items()
    }


@pytest.fixture
def graph():
    return layers(2, 4, 3)


@pytest.fixture
def batch(graph):
    return stack_networks(graph, draw(graph, 6))


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers_and_predictors_answer_a_network_each(graph, batch, name):
    model = BaselineClassifier(CLASSIFIERS[name], graph, num_classes=5)
    assert model(batch).shape == (6, 5)
    predictor = BaselinePredictor(CLASSIFIERS[name], graph)
    predictor.fit_statistics(batch)
    found = predictor.eval()(batch)
    assert found.shape == (6,)
    assert ((found > 0) & (found < 1)).all()
    torch.testing.assert_close(predictor.logits(batch).sigmoid(), found)


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("bias", [False, True])
def test_every_weight_gets_a_gradient(name, bias):
    graph = layers(2, 4, 3, bias=bias)
    batch = stack_networks(graph, draw(graph, 6))
    model = BaselineClassifier(CLASSIFIERS[name], graph, num_classes=2)
    model(batch).square().sum().backward()
    assert all(weight.grad is not None for weight in model.parameters())


@pytest.mark.parametrize("name", EDITORS)
def test_edits_have_the_shapes_of_the_parameters_and_start_small(graph, batch, name):
    model = BaselineEditor(EDITORS[name], graph)
    model.fit_statistics(batch)
    updates = model(batch)
    assert list(updates) == list(graph.shapes)
    for key, values in batch.params.items():
        assert updates[key].shape == values.shape
        assert 0 < updates[key].abs().max() < 0.1


@pytest.mark.parametrize("kind", [BaselineClassifier, BaselineEditor])
def test_statistics_are_one_mean_and_deviation_a_tensor(graph, batch, kind):
    sizes = {"num_classes": 2} if kind is BaselineClassifier else {}
    model = kind(MLPConfig(), graph, **sizes)
    plain = model.standardise(batch.params)
    assert all(torch.equal(plain[name], item) for name, item in batch.params.items())
    model.fit_statistics(batch)
    for values in model.standardise(batch.params).values():
        torch.testing.assert_close(values.mean(), torch.zeros(()), atol=1e-5, rtol=0)
        torch.testing.assert_close(values.std(correction=0), torch.ones(()))


def test_a_constant_tensor_is_not_divided_by_zero(graph):
    constant = {name: torch.ones(3, *shape) for name, shape in graph.shapes.items()}
    model = BaselineClassifier(MLPConfig(), graph, num_classes=2)
    model.fit_statistics(stack_networks(graph, constant))
    assert model(stack_networks(graph, constant)).isfinite().all()


@pytest.mark.parametrize("name", ["mlp", "set-nn", "dwsnet", "nfn"])
def test_another_architecture_is_refused(graph, name):
    other = layers(2, 5, 3)
    batch = stack_networks(other, draw(other, 2))
    model = BaselineClassifier(CLASSIFIERS[name], graph, num_classes=2)
    for call in (model, model.fit_statistics):
        with pytest.raises(ValueError, match=r"the one architecture .* Use NG-GNN"):
            call(batch)


@pytest.mark.parametrize("name", ["dwsnet", "nfn"])
def test_skips_are_refused(name):
    shapes = {f"{index}.weight": (3, 3) for index in range(3)}
    graph = layered_graph(shapes, skips=(None, 0))
    with pytest.raises(ValueError, match=r"needs a plain chain .* Use NG-GNN"):
        BaselineClassifier(CLASSIFIERS[name], graph, num_classes=2)


class TestStatNN:
    def test_the_parks_has_the_papers_size(self):
        body = StatNNBody(StatNNConfig(), 1)
        assert body.layers[0].in_features == 84
        assert sum(weight.numel() for weight in body.parameters()) == 1_087_001

    def test_statistics(self):
        values = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0))
        flat = values.flatten(1)
        shares = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])
        expected = torch.cat(
            [flat.mean(1)[:, None], flat.var(1)[:, None], flat.quantile(shares, 1).T], 1
        )
        torch.testing.assert_close(tensor_statistics(values), expected)

    def test_one_entry_has_no_variance(self):
        found = tensor_statistics(torch.tensor([[2.0], [3.0]]))
        assert found[:, 1].tolist() == [0.0, 0.0]
        assert found[:, 0].tolist() == [2.0, 3.0]

    def test_depths_may_differ_and_answers_keep_their_order(self):
        graphs = [layers(2, 4, 3), layers(2, 3, 4, 3), layers(2, 4, 3, bias=False)]
        graphs.append(graphs[0])
        params = [draw(graph, seed=seed) for seed, graph in enumerate(graphs)]
        model = BaselineClassifier(
            StatNNConfig(max_layers=3, width=8), graphs[0], num_classes=2
        )
        together = model(collate_networks(graphs, params))
        alone = [
            model(collate_networks([graph], [own]))
            for graph, own in zip(graphs, params, strict=True)
        ]
        torch.testing.assert_close(together, torch.cat(alone))

    def test_absent_layers_and_biases_are_zeros(self):
        graph = layers(2, 4, 3, bias=False)
        body = StatNNBody(StatNNConfig(max_layers=3), 1)
        found = body.features(graph, draw(graph, 5)).unflatten(1, (3, 2, 7))
        assert found[:, :2, 0].any(-1).all()
        assert not found[:, :2, 1].any()
        assert not found[:, 2].any()

    def test_a_deeper_network_is_refused(self, graph, batch):
        body = StatNNBody(StatNNConfig(max_layers=1), 1)
        with pytest.raises(ValueError, match=r"at most 1 .* of 2\. Raise StatNNConfig"):
            body(graph, batch.params)

    def test_a_vector_without_a_weight_is_refused(self):
        params = {"a": torch.zeros(2), "b": torch.zeros(3, 2)}
        body = StatNNBody(StatNNConfig(), 1)
        with pytest.raises(ValueError, match=r"'a' with no weight .* in order"):
            body(neural_graph(params), {n: v[None] for n, v in params.items()})


class TestConfigs:
    @pytest.mark.parametrize(
        "build",
        [
            lambda: MLPConfig(width=0),
            lambda: SetNNConfig(layers=0),
            lambda: DWSNetConfig(layers=0),
            lambda: FunctionalConfig(widths=()),
            lambda: FunctionalConfig(fourier_scale=0.0),
            lambda: StatNNConfig(max_layers=0),
        ],
    )
    def test_what_is_not_positive_is_refused(self, build):
        with pytest.raises(ValueError, match="Choose a positive value"):
            build()

    @pytest.mark.parametrize(
        "kind", [MLPConfig, DWSNetConfig, FunctionalConfig, StatNNConfig]
    )
    def test_dropping_everything_is_refused(self, kind):
        with pytest.raises(ValueError, match="or 0 for none"):
            kind(dropout=1.0)

    @pytest.mark.parametrize("name", ["num_frequencies", "num_bands"])
    def test_negative_counts_are_refused(self, name):
        with pytest.raises(ValueError, match="or 0 for none"):
            FunctionalConfig(**{name: -1})

    @pytest.mark.parametrize("name", EDITORS)
    def test_dropout_drops_in_training_alone(self, graph, batch, name):
        config = replace(EDITORS[name], dropout=0.5)
        config = config if name != "dwsnet" else replace(config, batch_norm=False)
        model = BaselineClassifier(config, graph, num_classes=2)
        assert not torch.equal(model(batch), model(batch))
        model.eval()
        assert torch.equal(model(batch), model(batch))
