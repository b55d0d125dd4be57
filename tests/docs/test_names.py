"""Every public name explains itself, and some page shows it."""

import dataclasses
import inspect
import re
from pathlib import Path
from types import ModuleType

import pytest

import l2o

ROOT = Path(__file__).parents[2]


def public_names(module):
    """Return what a module offers: neither private names nor modules."""
    found = {name: getattr(module, name) for name in dir(module)}
    return {
        name: item
        for name, item in found.items()
        if not name.startswith("_") and not isinstance(item, ModuleType)
    }


HUB = ("from_pretrained", "model_card", "push_to_hub", "save_pretrained")
NAMES = public_names(l2o) | {f"hub.{name}": getattr(l2o.hub, name) for name in HUB}
EXPLAINED = [name for name, item in NAMES.items() if callable(item)]


def missing_parts(item):
    """Return the parts of a docstring that this class or function should have."""
    found = vars(item)["__doc__"] if inspect.isclass(item) else item.__doc__
    wanted = ["Example:"]
    takes = inspect.signature(item).parameters
    explains_itself = dataclasses.is_dataclass(item) or inspect.isabstract(item)
    if takes and not explains_itself:
        wanted.append("Args:")
    if inspect.isfunction(item) and item.__annotations__["return"] is not None:
        wanted.append("Returns:")
    return [part for part in wanted if part not in (found or "")]


@pytest.mark.parametrize("name", EXPLAINED)
def test_it_has_arguments_results_and_an_example(name):
    assert not missing_parts(NAMES[name])


@pytest.mark.parametrize("name", NAMES)
def test_a_page_shows_it(name):
    pages = [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]
    code = " ".join(
        " ".join(re.findall(r"^```.*?^```|`[^`\n]+`", page.read_text(), re.M | re.S))
        for page in pages
    )
    assert re.search(rf"\b{re.escape(name)}\b", code)


class TestTheCheckCanFail:
    def test_without_anything(self):
        def undocumented(argument: int) -> int:
            return argument

        assert missing_parts(undocumented) == ["Example:", "Args:", "Returns:"]

    def test_no_name_is_missed(self):
        assert {"NeuralGraphOpt", "Rule", "shipped_rules"} <= NAMES.keys()

    def test_a_docstring_of_the_parent_does_not_count(self):
        class Child(l2o.Rule):
            pass

        assert missing_parts(Child) == ["Example:", "Args:"]
