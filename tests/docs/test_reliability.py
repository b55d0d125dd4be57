"""Every test that docs/reliability.md names exists."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
FILE = re.compile(r"\]\((\.\./tests/[^)]+)\)")


def missing_tests(text):
    """Return the names in a page's table that no linked file defines."""
    missing = []
    for line in text.splitlines():
        for cell in re.split(r"(?=\[[a-z_]+\.py\]\()", line)[1:]:
            found = FILE.search(cell)
            content = (PAGE.parent / found[1]).resolve().read_text()
            missing += [
                name
                for name in re.findall(r"`(\w+)`", cell)
                if not re.search(rf"^ *(class|def) {name}\b", content, re.MULTILINE)
            ]
    return missing


def test_every_promise_names_tests_that_exist():
    text = PAGE.read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    promises = [row for row in rows if not row.startswith("| promise")]
    assert len(promises) > 20
    assert all(FILE.search(row) for row in promises)
    assert missing_tests(text) == []


@pytest.mark.parametrize("name", ["test_of_nothing", "TestNothing"])
def test_a_name_that_does_not_exist_is_found(name):
    line = f"| x | [test_files.py](../tests/l2o/test_files.py) `{name}` |"
    assert missing_tests(line) == [name]
