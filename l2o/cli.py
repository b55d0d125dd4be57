"""The command `l2o`: its verbs are entry points, and only the called one is loaded.

A package adds a verb under `[project.entry-points."l2o.verbs"]`: its name, with a dot
for a group of verbs (`data.locate` is called as `l2o data locate`), and

* a function, whose arguments become options and whose docstring becomes the help; or
* a dataclass with a method `run`, whose fields become options; or
* a function of one parameter named `arguments`, which gets the words as they are and
  returns the exit status.
"""

import ast
import difflib
import importlib.util
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

GROUP = "l2o.verbs"
"""The entry points that are verbs."""

_USAGE = 2
_INTERRUPTED = 130
_CLOSED_PIPE = 141
_DISTRIBUTIONS = {"yaml": "pyyaml"}
"""Distributions that are not called like the module that they install."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; return the exit status.

    0 is success, 1 a failure that one line on standard error explains, 2 arguments
    that make no sense, 130 an interrupt, 141 a reader that closed the pipe. With
    `L2O_TRACEBACK=1` a failure shows its traceback, too.

    Args:
        arguments: what follows `l2o`; None takes them from the command line.

    Raises:
        SystemExit: after `--help`, and for unusable arguments.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        status = _run(words)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _fail(
            "interrupted; benchmarks, data and meta-training (with --resume) go on "
            "where they stopped.",
            _INTERRUPTED,
        )
    except BrokenPipeError:
        # What is still buffered has nowhere to go; Python would complain at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _CLOSED_PIPE
    except ImportError as error:
        if error.name is None:  # raised by this library, with advice
            return _fail(str(error))
        extra = _extra_of(error.name)
        if extra is None:
            raise
        return _fail(
            f"{_spoken(words)} needs the package {error.name}, which is not installed. "
            f"Run pip install 'l2o[{extra}]'."
        )
    except (OSError, ValueError, TypeError) as error:
        if os.environ.get("L2O_TRACEBACK"):
            traceback.print_exc()
        return _fail(str(error))
    return status


def verbs() -> dict[str, metadata.EntryPoint]:
    """Return the verbs that installed packages offer, by name; none is loaded.

    Example:
        >>> "rules" in verbs()
        True
    """
    return {item.name: item for item in metadata.entry_points(group=GROUP)}


def call(verb: Callable[..., Any], words: Sequence[str], program: str) -> int:
    """Call a verb with what the command line says; return the exit status.

    Args:
        verb: what an entry point names; see the top of this file.
        words: what follows the verb.
        program: how it was called, for its help.

    Raises:
        SystemExit: after `--help`, and for unusable arguments.
    """
    if list(inspect.signature(verb).parameters) == ["arguments"]:
        return int(verb(list(words)) or 0)
    import tyro

    result = tyro.cli(verb, args=list(words), prog=program)
    if hasattr(result, "run"):
        result.run()
    return 0


def _run(words: list[str]) -> int:
    """Find the verb, load it and call it."""
    known = verbs()
    if words[:1] in (["--version"], ["-V"]):
        sys.stdout.write(f"l2o {metadata.version('l2o')}\n")
        return 0
    if not words or words[0] in ("-h", "--help"):
        (sys.stdout if words else sys.stderr).write(_overview(known))
        return 0 if words else _USAGE
    name, rest = words[0], words[1:]
    group = {verb for verb in known if verb.startswith(f"{name}.")}
    if group and (not rest or rest[0] in ("-h", "--help")):
        (sys.stdout if rest else sys.stderr).write(
            _overview({verb: known[verb] for verb in group})
        )
        return 0 if rest else _USAGE
    if group:
        name, rest = f"{name}.{rest[0]}", rest[1:]
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        advice = f"Did you mean {_spoken(close[0].split('.'))}? " if close else ""
        return _fail(
            f"there is no verb {name.replace('.', ' ')!r}. {advice}`l2o --help` lists "
            "all.",
            _USAGE,
        )
    return call(known[name].load(), rest, f"l2o {name.replace('.', ' ')}")


def _overview(known: dict[str, metadata.EntryPoint]) -> str:
    """Return one line for each verb, without importing any of them."""
    spoken = {name.replace(".", " "): _summary(item) for name, item in known.items()}
    width = max(map(len, spoken), default=0)
    lines = [f"    {name:{width}}  {spoken[name]}".rstrip() for name in sorted(spoken)]
    return "\n".join(
        [
            "usage: l2o VERB [-h] [OPTIONS]",
            "",
            "Learned optimizers that see the network they train.",
            "",
            *lines,
            "",
        ]
    )


def _summary(item: metadata.EntryPoint) -> str:
    """Return the first line of a verb's docstring, read from its source."""
    package, *parts = item.module.split(".")
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        return ""
    folder = Path(found.origin).parent.joinpath(*parts)
    path = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError):
        return ""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == item.attr:
            return (ast.get_docstring(node) or "").partition("\n")[0]
    return ""


def _extra_of(module: str) -> str | None:
    """Return the extra of this package that installs a module, if there is one."""
    top = module.partition(".")[0]
    wanted = _normalized(_DISTRIBUTIONS.get(top, top))
    for requirement in metadata.requires("l2o") or ():
        name = re.match(r"[\w.-]+", requirement)
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", requirement)
        if name and extra and _normalized(name[0]) == wanted:
            return extra[1]
    return None


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _spoken(words: Sequence[str]) -> str:
    """Return how a verb is called, without its options."""
    known = verbs()
    count = 2 if ".".join(words[:2]) in known else 1
    return " ".join(["l2o", *words[:count]])


def _fail(message: str, status: int = 1) -> int:
    sys.stderr.write(f"l2o: {message}\n")
    return status
