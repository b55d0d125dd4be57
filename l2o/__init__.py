"""Learned optimizers that see the network they train.

`import l2o` is immediate: torch and the public names (listed in `l2o/_public.py`) are
imported when one of them is first used.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import companion as companion
    from . import graph as graph
    from . import hub as hub
    from . import nets as nets
    from . import optim as optim
    from . import rule as rule
    from ._public import *  # noqa: F403

    __version__: str
else:
    _SUBMODULES = ("companion", "graph", "hub", "nets", "optim", "rule")

    def __getattr__(name: str) -> object:
        """Import a public name or a submodule when it is first used (PEP 562)."""
        from importlib import import_module, metadata

        if name == "__version__":
            value = metadata.version("l2o")
        elif name in _SUBMODULES:
            return import_module(f"{__name__}.{name}")
        elif name.startswith("_"):
            raise AttributeError(f"module 'l2o' has no attribute {name!r}")
        else:
            value = getattr(import_module(f"{__name__}._public"), name, None)
            if value is None:
                raise AttributeError(f"module 'l2o' has no attribute {name!r}")
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        """Return the public names, the submodules and `__version__`."""
        from ._public import __dict__ as public

        names = (name for name in public if not name.startswith("_"))
        return sorted([*names, *_SUBMODULES, "__version__"])
