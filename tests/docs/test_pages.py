"""What README and docs show is true: blocks run, links lead somewhere."""

import re
from pathlib import Path

import pytest
import torch

from l2o import load_rule, read_provenance, shipped_rules

ROOT = Path(__file__).parents[2]
PAGES = [
    *("README.md", "examples/README.md"),
    *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("benchmarks/*.md")),
    *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/**/*.md")),
]
LONG = ("docs/drop-in.md", "docs/functional.md")
"""Pages whose blocks take over 2 s, most of it imports."""
OPTIONAL = {
    "accelerate": "accelerate",
    "higher": "higher",
    "lightning": "pytorch_lightning",
}
"""Fixtures that import, or skip without, a package that a page may show."""

_BLOCK = re.compile(
    r"^<!-- setup\n(?P<setup>.*?)^-->"
    r"|(?P<skipped>^<!-- not run: [^\n]+ -->\n)?^```python\n(?P<shown>.*?)^```",
    re.MULTILINE | re.DOTALL,
)
"""Python that readers see, and in comments before it what they need not see."""


def python_of(page):
    """Return line number, code and whether it is to run, for each block of a page."""
    text = (ROOT / page).read_text()
    return [
        (
            text.count("\n", 0, match.start(match.lastgroup)),
            match["setup"] or match["shown"],
            match["skipped"] is None,
        )
        for match in _BLOCK.finditer(text)
    ]


@pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*")  # Lightning's
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.slow] if page in LONG else [])
        for page in PAGES
    ],
)
def test_its_blocks_run_one_after_the_other(page, tmp_path, monkeypatch, request):
    text = (ROOT / page).read_text()
    for fixture, package in OPTIONAL.items():
        if re.search(rf"(import|from) {package}\b", text):
            request.getfixturevalue(fixture)
    monkeypatch.chdir(tmp_path)
    known = {"__name__": "page"}
    with torch.random.fork_rng(devices=[]):
        for line, code, is_run in python_of(page):
            # Padded, so that a traceback names the line of the page.
            compiled = compile("\n" * line + code, str(ROOT / page), "exec")
            if is_run:
                exec(compiled, known)


@pytest.mark.parametrize("page", PAGES)
def test_its_links_lead_somewhere(page):
    text = (ROOT / page).read_text()
    targets = re.findall(r"\]\(((?!https?://)[^)#]+)", text)
    missing = [
        name for name in targets if not ((ROOT / page).parent / name).resolve().exists()
    ]
    assert not missing


def missing_files(text):
    """Return the Python files in backticks that are in no folder they may be in."""
    folders = [ROOT / name for name in (".", "l2o", "l2o/graph", "meta_train")]
    named = re.findall(r"`([\w/]+\.py)`", text)
    return [
        name for name in named if not any((top / name).is_file() for top in folders)
    ]


@pytest.mark.parametrize("page", ["ARCHITECTURE.md", "CONTRIBUTING.md", *PAGES])
def test_files_that_it_names_exist(page):
    assert not missing_files((ROOT / page).read_text())


def test_a_file_that_is_gone_is_found():
    text = "`l2o/cli.py`, `rule/step.py`, `l2o/gone.py`"
    assert missing_files(text) == ["l2o/gone.py"]


@pytest.mark.parametrize("page", PAGES)
def test_numbers_of_results_are_the_committed_ones(page):
    """A comment names the files that the table or paragraph after it quotes."""
    text = (ROOT / page).read_text()
    for files, quoted in re.findall(
        r"^ *<!-- numbers: ([^\n]+) -->\n+(.*?)(?:\n\n|\Z)",
        text,
        re.MULTILINE | re.DOTALL,
    ):
        committed = " ".join((ROOT / name).read_text() for name in files.split())
        known = set(re.findall(r"\d[\d,.]*\d|\d", committed))
        strange = set(re.findall(r"\d[\d,.]*\d|\d", quoted)) - known
        assert not strange, f"{sorted(strange)} stand in none of {files}"


@pytest.mark.parametrize("name", shipped_rules())
def test_every_shipped_rule_has_a_card_of_what_its_file_says(name):
    text = (ROOT / f"docs/rules/{name}.md").read_text()
    (table,) = re.findall(rf"<!-- provenance: {name} -->\n(.*?)\n\n", text, re.DOTALL)
    origin = read_provenance(name)
    seconds, steps = origin["seconds"], origin["inner_steps"]
    assert f"{steps:,} in {origin['outer_step']} outer steps" in table
    assert f"| {seconds / 60:.0f} minutes" in table
    assert f"| commit | {origin['commit']} |" in table
    assert f"| meta-seed | {origin['config']['seed']}," in table
    assert f"{origin['config']['name']}.yaml" in table
    assert f"{load_rule(name).num_weights():,} weights" in text
    for section in ("What was tried", "Results", "Limits"):
        assert f"\n## {section}\n" in text
