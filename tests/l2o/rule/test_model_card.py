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
    assert f"| inner steps in all | {provenance['inner_steps']:,} |" in made
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
