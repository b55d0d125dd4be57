"""YAML files as plain values: no repeated keys, no aliases."""

from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError
from typing_extensions import override

Config = TypeVar("Config")


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader without aliases and repeated keys."""

    @override
    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuse aliases, by which a short text can expand to a huge one."""
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.constructor.ConstructorError(
                None, None, "an alias, which is not allowed", event.start_mark
            )
        return super().compose_node(parent, index)

    @override
    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Refuse a key that comes twice, of which only the last would count."""
        keys = [
            key.value
            for key, _ in node.value
            if isinstance(key, yaml.ScalarNode) and key.value != "<<"
        ]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} twice", node.start_mark
                )
        return super().construct_mapping(node, deep)


def parse_yaml(text: str) -> object:
    """Return the plain values of a YAML text.

    Raises:
        ValueError: in one line, if it is not YAML, repeats a key, has an alias or nests
            too deeply.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    except RecursionError as error:
        raise ValueError("it nests too deeply") from error


def read_yaml(path: Path, *, owner: str, shipped: str) -> object:
    """Return the plain values that a YAML file holds.

    Args:
        path: the file.
        owner: who asks, for the message.
        shipped: folder where such files lie, for the message.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not YAML, repeats a key, has an alias or nests too deeply.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{owner} needs a YAML file; got {path}, which does not exist. "
            f"Shipped ones lie in {shipped}."
        )
    try:
        return parse_yaml(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{owner} needs YAML with every key once and no aliases; got {path}: "
            f"{error}. Correct the file."
        ) from error


def config_from(
    kind: type[Config], values: object, *, origin: str, what: str
) -> Config:
    """Return the configuration that plain values describe, strictly.

    Args:
        kind: its class, a frozen configuration.
        values: what a file holds.
        origin: where they come from, for the message.
        what: what they should describe, for the message.

    Raises:
        ValueError: naming each key that is unknown or has a bad value.
    """
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        known = ", ".join(item.name for item in fields(kind))  # pyright: ignore[reportArgumentType]
        problems = "; ".join(
            f"{'.'.join(map(str, item['loc']))}: {item['msg']}"
            for item in error.errors()
        )
        raise ValueError(
            f"{origin} is no configuration of {what}: {problems}. "
            f"Keys at the top are: {known}."
        ) from error
    except TypeError as error:  # pydantic passes on what our own checks raise
        raise ValueError(f"{origin} is no configuration of {what}: {error}") from error
