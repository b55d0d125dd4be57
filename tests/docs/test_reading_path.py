"""A stranger learns what a step does from the lines that `ARCHITECTURE.md` names."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MOST = 300
ROW = re.compile(r"^\| `([\w/.]+)` \| (.+?) \| (\d+) \|", re.MULTILINE)


def rows():
    """Return file, what to read there and the number of its lines."""
    page = (ROOT / "ARCHITECTURE.md").read_text()
    _, _, part = page.partition("\n## Reading order\n")
    return ROW.findall(part.partition("\n## ")[0])


def lines_of(file, places):
    """Count the lines of a whole file, of a page's beginning or of definitions."""
    text = (ROOT / file).read_text()
    if places == "all":
        return len(text.splitlines())
    if file.endswith(".md"):
        (heading,) = re.findall(r"to `(.+)`", places)
        return len(text[: text.index(f"\n{heading}\n")].splitlines())
    found = {}
    tree = ast.parse(text)
    found["docstring"] = tree.body[0].end_lineno
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            start = min([node.lineno, *(item.lineno for item in node.decorator_list)])
            found[node.name] = node.end_lineno - start + 1
            for item in getattr(node, "body", []):
                if isinstance(item, ast.FunctionDef):
                    size = item.end_lineno - item.lineno + 1
                    found[f"{node.name}.{item.name}"] = size
    return sum(found[name] for name in re.findall(r"`([\w.]+)`", places))


def test_the_path_is_short_and_its_lines_are_counted():
    assert len(rows()) >= 7
    for file, places, count in rows():
        assert lines_of(file, places) == int(count), (file, places)
    total = sum(int(count) for *_, count in rows())
    assert total < MOST
    assert f"stands in {total} lines" in (ROOT / "ARCHITECTURE.md").read_text()


def test_a_definition_that_is_not_there_is_found_out():
    assert lines_of("l2o/rule/step.py", "`take_step`") > 50
    with pytest.raises(KeyError):
        lines_of("l2o/rule/step.py", "`give_step`")
