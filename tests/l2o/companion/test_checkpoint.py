"""Companion networks as files: what is read is what was saved, or an error."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from l2o.companion import (
    CompanionConfig,
    InputsConfig,
    NetworkClassifier,
    NetworkEditor,
    NetworkPredictor,
    NGGNNBackboneConfig,
    NGTBackboneConfig,
    layered_graph,
    load_companion,
    read_companion_provenance,
    save_companion,
    stack_networks,
)
from l2o.companion.baselines import BaselineClassifier, MLPConfig
from l2o.nets.transformer import RelationalConfig

GRAPH = layered_graph({"0.weight": (4, 2), "0.bias": (4,), "1.weight": (1, 4)})
BACKBONES = {
    "ng_gnn": NGGNNBackboneConfig(width=6, layers=2),
    "ng_t": NGTBackboneConfig(
        layers=1, layer=RelationalConfig(node_width=8, edge_width=4, heads=2)
    ),
}


def batch():
    generator = torch.Generator().manual_seed(0)
    params = {
        name: torch.randn(5, *shape, generator=generator)
        for name, shape in GRAPH.shapes.items()
    }
    return stack_networks(GRAPH, params)


def build(kind, backbone="ng_gnn", **options):
    torch.manual_seed(0)
    inputs = InputsConfig(num_inputs=2, num_hidden=1, num_outputs=1, kernel=(3, 1))
    model = kind(
        CompanionConfig(inputs=inputs, backbone=BACKBONES[backbone]), **options
    )
    model.fit_statistics(batch())
    return model.eval()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("kind", [NetworkClassifier, NetworkPredictor, NetworkEditor])
def test_what_is_loaded_answers_bit_for_bit(kind, backbone, path):
    options = {"num_classes": 3} if kind is NetworkClassifier else {}
    model = build(kind, backbone, **options)
    save_companion(model, path, provenance={"seed": 1})
    found = load_companion(path)
    assert type(found) is kind
    assert found.config == model.config
    assert not found.training
    expected, answer = model(batch()), found(batch())
    if kind is NetworkEditor:
        expected, answer = (
            torch.cat([value.flatten() for value in item.values()])
            for item in (expected, answer)
        )
    assert torch.equal(answer, expected)
    assert read_companion_provenance(path) == {"seed": 1}


def test_double_precision_stays(path):
    model = build(NetworkPredictor).double()
    save_companion(model, path)
    found = load_companion(path)
    assert {value.dtype for value in found.state_dict().values()} == {torch.float64}


class TestErrors:
    def rewrite(self, path, weights=None, **changes):
        """Write a file again with a few things changed."""
        with safe_open(path, framework="pt") as file:
            metadata = {**file.metadata(), **changes}
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        save_file(found | (weights or {}), path, metadata)

    def test_a_changed_weight(self, path):
        model = build(NetworkPredictor)
        save_companion(model, path)
        name, value = next(iter(model.state_dict().items()))
        self.rewrite(path, {name: value + 1e-6})
        with pytest.raises(ValueError, match="copy or download it again"):
            load_companion(path)

    def test_a_changed_configuration(self, path):
        model = build(NetworkPredictor)
        save_companion(model, path)
        self.rewrite(path, kind="editor")
        with pytest.raises(ValueError, match="copy or download it again"):
            load_companion(path)

    def test_a_truncated_file(self, path):
        save_companion(build(NetworkPredictor), path)
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(ValueError, match="copy or download it again"):
            load_companion(path)

    def test_a_file_of_another_kind(self, path):
        save_file({"a": torch.zeros(1)}, path, {"format": "pt"})
        with pytest.raises(ValueError, match="Write the file with save_companion"):
            load_companion(path)

    def test_probes_without_a_way_to_run_them(self, path):
        inputs = InputsConfig(num_inputs=2, num_hidden=1, num_outputs=1, num_probes=3)
        config = CompanionConfig(inputs=inputs, backbone=BACKBONES["ng_gnn"])
        save_companion(NetworkPredictor(config, evaluate=print), path)
        with pytest.raises(ValueError, match="Pass ModuleValues"):
            load_companion(path)
        assert load_companion(path, evaluate=print).config == config

    def test_other_models_and_values(self, path):
        baseline = BaselineClassifier(MLPConfig(width=4), GRAPH, num_classes=2)
        with pytest.raises(TypeError, match="Keep the state_dict"):
            save_companion(baseline, path)
        with pytest.raises(TypeError, match="Convert it to text"):
            save_companion(build(NetworkPredictor), path, provenance={"a": {1, 2}})
        assert not path.exists()

    def test_configurations_are_readable(self, path):
        save_companion(build(NetworkPredictor), path)
        with safe_open(path, framework="pt") as file:
            config = json.loads(file.metadata()["config"])
        assert config["inputs"]["kernel"] == [3, 1]
        assert config["backbone"]["kind"] == "ng_gnn"
