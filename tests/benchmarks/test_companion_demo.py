"""The shipped companion: it loads by name, keeps its promise, and its card is true."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.companion_demo.demo import read_digits, run_demo
from l2o import companion
from optimizees.zoo.inr_set import load_embedded_fits

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "l2o/companion/weights"


def share_right(fits):
    return float((read_digits(fits) == fits.labels).double().mean())


@pytest.fixture(scope="module")
def fits():
    return load_embedded_fits()


def test_digits_it_was_not_trained_on_are_read(fits):
    assert share_right(fits) >= 0.7


def test_noise_in_place_of_weights_is_not(fits):
    generator = torch.Generator().manual_seed(0)
    noise = {
        name: torch.randn(weight.shape, generator=generator) * weight.std()
        for name, weight in fits.networks.items()
    }
    assert share_right(replace(fits, networks=noise)) < 0.3


@pytest.mark.slow  # draws
def test_the_demo_says_what_it_drew(fits, tmp_path):
    said = run_demo(tmp_path / "digits.png")
    right = round(share_right(fits) * len(fits))
    assert said == f"siren-digits read {right} of 48 networks right."
    assert (tmp_path / "digits.png").read_bytes().startswith(b"\x89PNG")
    card = (ROOT / "docs/companions/siren-digits.md").read_text()
    assert f"| 48 | {right}, that is {right / 48:.0%} |" in " ".join(
        card.replace(" %", "%").split()
    )


def test_all_together_are_small():
    files = list(FOLDER.glob("*.safetensors"))
    assert {path.stem for path in files} == set(companion.shipped_companions())
    assert 0 < sum(path.stat().st_size for path in files) < 2_000_000


def test_a_name_that_nothing_has():
    with pytest.raises(FileNotFoundError, match=r"'siren-digits'.*Check the spelling"):
        companion.load_companion("siren-letters")


def test_every_shipped_network_has_a_card_of_what_its_file_says():
    for name in companion.shipped_companions():
        known = companion.read_companion_provenance(name)
        card = (ROOT / f"docs/companions/{name}.md").read_text()
        counts = known["config"]["data"]
        assert f"{known['parameters']:,} weights" in card
        assert f"| commit | {known['provenance']['commit']} |" in card
        assert f"{counts['train']:,} to learn from, {counts['validation']} to" in card
        assert f"| {counts['test']} | {known['test_accuracy']:.1%} |" in card.replace(
            " %", "%"
        )
        assert f"({known['validation_accuracy']:.1%})" in card.replace(" %", "%")
        assert re.search(rf"\b{round(known['seconds'] / 60)} minutes", card)
        for section in ("How it was made", "Results", "Limits"):
            assert f"\n## {section}\n" in card
