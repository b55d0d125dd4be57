"""`l2o graph` and `l2o rules`, through the command line."""

import sys

import pytest

from l2o.cli import main


def test_graph_describes_a_model(capsys):
    assert main(["graph", "optimizees:fashion_cnn"]) == 0
    assert "14,378 parameters" in capsys.readouterr().out


def test_graph_finds_modules_in_the_working_directory(tmp_path, capsys, monkeypatch):
    source = "from torch import nn\n\ndef build():\n    return nn.Linear(3, 2)\n"
    (tmp_path / "a_model_of_mine.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    assert main(["graph", "a_model_of_mine:build"]) == 0
    assert "8 parameters" in capsys.readouterr().out
    assert sys.path == before


@pytest.mark.parametrize("name", ["optimizees", "optimizees:none", "no_such:build"])
def test_graph_needs_something_to_import(name, capsys):
    assert main(["graph", name]) == 1
    assert "Try optimizees:fashion_cnn" in capsys.readouterr().err


def test_graph_needs_a_model(capsys):
    assert main(["graph", "builtins:dict"]) == 1
    assert "Return the model itself" in capsys.readouterr().err


@pytest.fixture
def models(tmp_path, monkeypatch):
    """Stand in a folder with a module of two factories."""
    source = """
import torch
from torch import nn

class Gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.gate = nn.Embedding(7, 4), nn.Linear(3, 4)

    def forward(self, tokens, values):
        return self.words(tokens) * self.gate(values)

def bare():
    return Gate()

def with_inputs():
    return Gate(), (torch.tensor([1, 2]), torch.randn(2, 3))
"""
    (tmp_path / "gated_models.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("gated_models", None)


def test_graph_traces_a_model_on_the_inputs_of_its_factory(models, capsys):
    assert main(["graph", "gated_models:with_inputs"]) == 0
    assert "gate " in capsys.readouterr().out


def test_graph_traces_a_model_on_inputs_that_are_described(models, capsys):
    assert main(["graph", "gated_models:bare", "--input", "2:int7", "2x3"]) == 0
    assert "gate " in capsys.readouterr().out


@pytest.mark.parametrize(
    "text", ["3,4", "2x3:int", "2x3:float", "axb", "", "0x3", "-1", "2:int0"]
)
def test_graph_needs_inputs_that_it_can_read(models, capsys, text):
    assert main(["graph", "gated_models:bare", "--input", text]) == 1
    assert "Write positive sizes with an x between" in capsys.readouterr().err


def test_graph_draws_a_picture(tmp_path, capsys):
    file = tmp_path / "graph.png"
    assert main(["graph", "optimizees:fashion_cnn", "--png", str(file)]) == 0
    assert capsys.readouterr().out == f"Written: {file}\n"
    assert file.read_bytes()[:4] == b"\x89PNG"


def test_graph_needs_a_format_to_draw_in(tmp_path, capsys):
    file = tmp_path / "graph.txt"
    assert main(["graph", "optimizees:fashion_cnn", "--png", str(file)]) == 1
    assert "Name it .png, .svg or .pdf." in capsys.readouterr().err


def test_graph_needs_inputs_that_the_model_takes(models, capsys):
    assert main(["graph", "gated_models:bare", "--input", "2:int7", "2x5"]) == 1
    said = capsys.readouterr().err
    assert "got 2, 2x5 for 'gated_models:bare'" in said
    assert "Pass other shapes with --input." in said
    assert said.count("\n") == 1


def test_graph_names_a_factory_that_fails(tmp_path, capsys, monkeypatch):
    (tmp_path / "a_broken_model.py").write_text("def build():\n    return 1 / 0\n")
    monkeypatch.chdir(tmp_path)
    assert main(["graph", "a_broken_model:build"]) == 1
    assert "(ZeroDivisionError: division by zero)" in capsys.readouterr().err


def test_rules_says_how_they_were_made(capsys):
    assert main(["rules"]) == 0
    text = capsys.readouterr().out
    assert "ff: ff, 2,376 weights\n" in text
    assert "ng-gnn: ng_gnn, 58,760 weights\n" in text
    assert text.count("    license: MIT\n") == 5
