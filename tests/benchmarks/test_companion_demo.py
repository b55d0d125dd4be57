"""Shipped companions load by name and keep their promises; their cards are true."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.companion_demo.demo import read_digits, run_demo
from benchmarks.generalization.data import park_graph
from benchmarks.generalization.learning import kendall_tau
from l2o import companion
from optimizees.zoo.inr_set import load_embedded_fits
from optimizees.zoo.wild_park import EMBEDDED_TEST_PARK, read_park

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
    with pytest.raises(
        FileNotFoundError, match=r"'siren-digits'\].*Check the spelling"
    ):
        companion.load_companion("siren-letters")


def test_accuracies_of_networks_it_was_not_trained_on_are_predicted():
    model, found, true = companion.load_companion("park-accuracy"), [], []
    assert isinstance(model, companion.NetworkPredictor)
    for run in read_park(EMBEDDED_TEST_PARK, "test"):
        graph = park_graph(run.architecture)
        with torch.no_grad():
            found.append(model(companion.stack_networks(graph, run.parameters)))
        true.append(run.accuracies)
    assert len(true) == 5
    predicted, accuracies = torch.cat(found), torch.cat(true)
    assert kendall_tau(predicted, accuracies) > 0.5
    assert kendall_tau(predicted.roll(4), accuracies) < 0.4  # another network's


CARDS = {
    "siren-digits": lambda known: [
        f"{known['parameters']:,} weights",
        f"{known['config']['data']['train']:,} to learn from",
        f"| {known['config']['data']['test']} | {known['test_accuracy']:.1%} |",
        f"({known['validation_accuracy']:.1%})",
        f"| wall time | {round(known['seconds'] / 60)} minutes",
    ],
    "park-accuracy": lambda known: [
        f"{known['num_weights']:,} weights",
        f"{known['networks']['train']['runs']} training runs to learn from",
        f"({known['networks']['train']['networks']} checkpoints)",
        f"| {known['num_tested']} | {known['tau']:.3f} | {known['r2']:.3f} |",
        f"| time | {known['cpu_seconds']:.0f} seconds",
    ],
}


def test_every_shipped_network_has_a_card():
    assert sorted(CARDS) == companion.shipped_companions()


@pytest.mark.parametrize("name", CARDS)
def test_a_card_says_what_its_file_says(name):
    known = companion.read_companion_provenance(name)
    card = (ROOT / f"docs/companions/{name}.md").read_text().replace(" %", "%")
    wanted = [*CARDS[name](known), f"| commit | {known['provenance']['commit']} |"]
    sections = ("How it was made", "Results", "Limits")
    wanted += [f"\n## {section}\n" for section in sections]
    assert [text for text in wanted if text not in card] == []
