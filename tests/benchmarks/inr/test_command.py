import json

import pytest
import torch

from benchmarks.inr.command import decode_image, run_inr
from benchmarks.inr.data import DataConfig
from benchmarks.inr.models import (
    Sizes,
    Variant,
    build_classifier,
    build_editor,
    variants,
)
from benchmarks.inr.report import report_inr
from benchmarks.inr.tasks import CLASSIFICATION
from l2o.cli import main
from l2o.companion import (
    FitConfig,
    NetworkClassifier,
    evaluate,
    load_companion,
    read_companion_provenance,
)
from meta_train.log import read_json_lines
from optimizees.siren import render_images


def test_classification_makes_a_row_a_run_and_keeps_it(classify):
    config = classify(models=("mlp", "set_nn"), seeds=(0, 1))
    rows = run_inr(config, print)
    assert [(row["label"], row["seed"]) for row in rows] == [
        ("MLP", 0),
        ("Set NN", 0),
        ("MLP", 1),
        ("Set NN", 1),
    ]
    first = rows[0]
    assert first["benchmark"] == "inr-classification"
    assert first["counts"] == [20, 6, 6]
    assert len(first["train_losses"]) == len(first["test_losses"]) == 2
    assert 0 <= first["test_accuracy"] <= 1
    assert first["provenance"]["versions"]["torch"] == torch.__version__
    assert first["config"]["training"]["batch_size"] == 8
    assert str(config.runs.folder) not in json.dumps(rows)
    before = config.runs.results.read_bytes()
    lines = []
    assert run_inr(config, lines.append) == rows
    assert config.runs.results.read_bytes() == before
    assert all(line.endswith("already there") for line in lines)


def test_trained_graph_networks_are_kept_as_files(classify, tmp_path, splits):
    config = classify(models=("mlp", "ng_gnn"), models_folder=tmp_path / "models")
    _, row = run_inr(config, print)
    (path,) = (tmp_path / "models").iterdir()  # an MLP has no such file
    model = load_companion(path)
    assert isinstance(model, NetworkClassifier)
    assert read_companion_provenance(path) == json.loads(json.dumps(row))
    found = evaluate(model, CLASSIFICATION.read(splits.test), CLASSIFICATION.objective)
    assert found["loss"] == pytest.approx(row["test_loss"], rel=1e-5)


def test_a_line_that_was_cut_short_is_measured_again(classify):
    config = classify()
    (row,) = run_inr(config, print)
    config.runs.results.write_text(config.runs.results.read_text()[:-20])
    (again,) = run_inr(config, print)
    assert again["test_loss"] == row["test_loss"]
    assert len(read_json_lines(config.runs.results)) == 1


def test_other_settings_are_other_runs(classify):
    run_inr(classify(), print)
    run_inr(classify(with_augmentation=False), print)
    rows = read_json_lines(classify().runs.results)
    assert [row["augmentation"] is None for row in rows] == [False, True]
    assert rows[0]["train_losses"] != rows[1]["train_losses"]


def test_editing_shows_what_it_did(editing, splits):
    (row,) = run_inr(editing(), print)
    assert row["test_accuracy"] is None
    assert row["nothing"] > 0
    shown = torch.stack([decode_image(text) for text in row["examples"]["input"]])
    wanted = render_images(splits.test.networks).clamp(0, 1)[: len(shown)]
    torch.testing.assert_close(shown, wanted, atol=0.5 / 255 + 1e-6, rtol=0)


def test_graph_networks_come_in_variants():
    found = variants(("mlp", "ng_gnn"), (0, 4), (True, False))
    assert [variant.label for variant in found] == [
        "MLP",
        "NG-GNN, 0 probes",
        "NG-GNN, 4 probes",
        "NG-GNN, 0 probes, no positions",
        "NG-GNN, 4 probes, no positions",
    ]


@pytest.mark.parametrize(
    ("model", "published"), [("ng_gnn", 331_466), ("ng_t", 376_586)]
)
def test_classifiers_have_the_published_sizes(model, published):
    network = build_classifier(Variant(model=model), Sizes(), dropout=0.2)
    assert sum(weight.numel() for weight in network.parameters()) == published


@pytest.mark.parametrize(
    ("model", "expected"),
    [("ng_gnn", 92_010), ("ng_gnn_residual", 92_010), ("ng_t", 72_810)],
)
def test_graph_networks_may_have_other_sizes(model, expected):
    sizes = Sizes(width=32, small_transformer=True, fourier_scale=0.5)
    variant = Variant(model=model)
    classifier = build_classifier(variant, sizes, dropout=0.0)
    editor = build_editor(variant, sizes, dropout=0.0)
    assert sum(weight.numel() for weight in classifier.parameters()) == expected
    for network in (classifier, editor):
        frequencies = [
            values.std().item()
            for name, values in network.named_buffers()
            if name.endswith("frequencies")
        ]
        assert frequencies
        assert frequencies == pytest.approx([0.5] * len(frequencies), rel=0.3)


def test_set_nn_cannot_edit():
    with pytest.raises(ValueError, match="Leave it out of --models"):
        build_editor(Variant(model="set_nn"), Sizes(), dropout=None)


@pytest.mark.slow
def test_graph_networks_and_all_others_run_and_are_reported(classify, editing):
    everyone = ("mlp", "dwsnet", "nfn", "ng_gnn", "ng_t")
    both = {
        "probes": (0, 4),
        "positions": (True, False),
        "data": DataConfig(name="embedded", train=4, validation=2, test=2),
        "training": FitConfig(epochs=1, batch_size=4),
    }
    run_inr(classify(models=(*everyone, "set_nn"), **both), print)
    config = editing(models=everyone, **both)
    run_inr(config, print)
    text = report_inr(config.runs.results)
    assert "### Probes" in text
    assert "### Positional embeddings" in text
    assert "| *nothing*" in text


def test_a_report(classify, editing, capsys):
    run_inr(classify(seeds=(0, 1)), print)
    config = editing()
    run_inr(config, print)
    assert main(["report", "inr", "--results", str(config.runs.results)]) == 0
    text = capsys.readouterr().out
    assert "## Classification, embedded: 20 / 6 / 6 networks, at most 2 epochs" in text
    assert "## Editing, embedded" in text
    assert "### Probes" not in text
    for suffix in (".png", "-edited.png"):
        picture = config.runs.results.with_name(f"inr{suffix}")
        assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_report_needs_rows(tmp_path):
    with pytest.raises(FileNotFoundError, match="Run `l2o benchmark inr-classif"):
        report_inr(tmp_path / "inr.jsonl")


def test_the_command_line_knows_both(tmp_path, capsys):
    few = [
        *("--data.name", "embedded", "--models", "mlp", "--runs.seeds", "0"),
        *("--training.epochs", "1", "--runs.folder", str(tmp_path / "runs")),
        *("--runs.results", str(tmp_path / "inr.jsonl")),
    ]
    assert main(["benchmark", "inr-classification", *few]) == 0
    assert main(["benchmark", "inr-editing", *few]) == 0
    printed = capsys.readouterr().out
    assert printed.count("[1/1] MLP, seed 0: test loss") == 2
