import ast
import re

import pytest

from l2o import PRESETS, Rule, load_rule, read_provenance
from l2o.hub import model_card


@pytest.fixture(scope="module")
def rule():
    return Rule(PRESETS["default-ff"])


def sections(card):
    """Split a card into its sections by heading."""
    parts = re.split(r"^## (.*)\n\n", card, flags=re.MULTILINE)
    return dict(zip(parts[1::2], (part.strip() for part in parts[2::2]), strict=True))


def test_nothing_known_is_said_to_be_unknown(rule):
    found = sections(model_card(rule, repo_id="me/rule"))
    unknown = ("How it was made", "What was tried", "Results", "Limits")
    assert [found[name] for name in unknown] == ["Not stated."] * 4
    assert "{}" in found["Provenance"]


def test_a_shipped_rule_tells_how_it_was_made():
    # Of a run's last rule the file tells no score.
    score = {"accuracy": 0.8795, "loss": 0.3317}
    provenance = {**read_provenance("ng-gnn"), "validation": score}
    card = model_card(load_rule("ng-gnn"), repo_id="l2o/ng-gnn", provenance=provenance)
    made = sections(card)["How it was made"]
    assert f"| data | {provenance['data']} |" in made
    assert f"| inner steps in total | {provenance['inner_steps']:,} |" in made
    assert f"| wall time | {provenance['seconds'] / 60:.0f} min |" in made
    assert "accuracy 0.8795" in sections(card)["Results"]
    assert card.startswith("---\nlicense: mit\n")
    assert "# ng-gnn\n" in card
    assert "of 58,760 weights" in card


def test_prose_becomes_sections(rule):
    prose = {"tried": "Much.", "results": "Few.", "limits": "Many: $5 {each}."}
    found = sections(model_card(rule, repo_id="me/rule", provenance=prose))
    assert found["What was tried"] == "Much."
    assert found["Results"] == "Few."
    assert found["Limits"] == "Many: $5 {each}."


def test_a_provenance_of_other_form_does_no_harm(rule):
    odd = {"config": "by hand", "seconds": "a day", "inner_steps": "few", "machine": 1}
    found = sections(model_card(rule, repo_id="me/rule", provenance=odd))
    assert "| wall time | a day |" in found["How it was made"]
    assert '"config": "by hand"' in found["Provenance"]


class TestStrangers:
    """Text of a provenance may come from anyone's file."""

    @pytest.mark.parametrize(
        "license",
        ["mit\nextra: yes", "no", "1.0", "a: b", "x # y", "\x1b[31m", "*a", "!!python"],
    )
    def test_a_licence_is_one_text_in_the_metadata_block(self, rule, license):
        yaml = pytest.importorskip("yaml")
        card = model_card(rule, repo_id="me/rule", provenance={"license": license})
        assert yaml.safe_load(card.split("---")[1]) == {
            "license": license,
            "library_name": "l2o",
            "tags": ["learned-optimizer", "optimizer", "pytorch"],
        }

    @pytest.mark.parametrize("license", ["MIT", "Apache-2.0", "CC-BY-4.0"])
    def test_a_known_licence_is_written_plainly(self, rule, license):
        card = model_card(rule, repo_id="me/rule", provenance={"license": license})
        assert card.startswith(f"---\nlicense: {license.lower()}\n")

    @pytest.mark.parametrize("text", ["\x1b[31m", "\x9b2J", "\u202e", "\x07", "\r"])
    def test_no_control_characters(self, rule, text):
        provenance = {
            **dict.fromkeys(("data", "tried", "results", "limits", "commit"), text),
            "config": {"tasks": [{text: text}, text], "estimator": {"kind": text}},
            "validation": {text: 1.0},
            text: text,
        }
        card = model_card(rule, repo_id=f"me/{text}", provenance=provenance)
        assert all(line.isprintable() for line in card.split("\n"))

    def test_a_cell_stays_in_its_row(self, rule):
        known = {"data": "a | b\n\n# Heading"}
        made = sections(model_card(rule, repo_id="me/rule", provenance=known))
        assert made["How it was made"].splitlines()[-1] == (
            r"| data | a \| b\n\n# Heading |"
        )

    def test_a_name_stays_in_its_string(self, rule):
        card = model_card(rule, repo_id='me/"); import os; ("')
        code = card.split("```python")[1].split("```")[0]
        (call,) = re.findall(r"from_pretrained\((.*)\)", code)
        assert ast.literal_eval(call) == 'me/"); import os; ("'

    @pytest.mark.parametrize(
        "values",
        [
            {"config": {"tasks": [1, None], "unroll": ["a", 2.5]}},
            {"validation": {"loss": "low", "accuracy": None}},
            {"seconds": float("nan"), "inner_steps": True},
            {"tried": 7, "results": ["a"], "limits": {}},
        ],
    )
    def test_values_of_any_kind_make_a_card(self, rule, values):
        assert "## Provenance" in model_card(rule, repo_id="a/b", provenance=values)
