"""Random numbers: saved, replayed and put back."""

import contextlib
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import nn

Generator: TypeAlias = (
    torch.Generator | np.random.Generator | np.random.RandomState | random.Random
)
GENERATORS = (
    torch.Generator,
    np.random.Generator,
    np.random.RandomState,
    random.Random,
)


@dataclass(frozen=True, slots=True)
class RandomState:
    """The global random numbers of Python, numpy and torch, and some generators.

    Example:
        >>> state = RandomState.capture()
        >>> first = torch.rand(2)
        >>> with state.replayed():
        ...     again = torch.rand(2)
        >>> torch.equal(first, again)
        True
    """

    _restores: tuple[tuple[Callable[[Any], object], Any], ...]

    @classmethod
    def capture(
        cls, model: nn.Module | None = None, generators: Iterable[Generator] = ()
    ) -> "RandomState":
        """Save all global states, and those of some generators.

        Args:
            model: its devices are included, and the generators that its modules hold
                as attributes.
            generators: further generators.
        """
        found: list[tuple[Callable[[Any], object], Any]] = [
            (random.setstate, random.getstate()),
            (np.random.set_state, np.random.get_state()),  # noqa: NPY002 (the global one)
            (torch.set_rng_state, torch.get_rng_state()),
        ]
        own: list[Generator] = list(generators)
        if model is not None:
            modules = [*model.modules()]
            params = [p for m in modules for p in m._parameters.values()]
            devices = {p.device for p in params if p is not None and p.is_cuda}
            found += [
                (
                    lambda state, device=device: torch.cuda.set_rng_state(
                        state, device
                    ),
                    torch.cuda.get_rng_state(device),
                )
                for device in devices
            ]
            held = [x for module in modules for x in vars(module).values()]
            kinds = {
                kind for kind in set(map(type, held)) if issubclass(kind, GENERATORS)
            }
            own += [x for x in held if type(x) in kinds] if kinds else []
        unique = {id(generator): generator for generator in own}
        found += [_saved(generator) for generator in unique.values()]
        return cls(tuple(found))

    def restore(self) -> None:
        """Set all states to what they were."""
        for put_back, state in self._restores:
            put_back(state)

    @contextlib.contextmanager
    def replayed(self, model: nn.Module | None = None) -> Iterator[None]:
        """Draw the same numbers again inside, and put the state back afterwards."""
        now = RandomState.capture(model, [*self._generators()])
        self.restore()
        try:
            yield
        finally:
            now.restore()

    def _generators(self) -> Iterator[Generator]:
        for put_back, _ in self._restores:
            owner = getattr(put_back, "__self__", None)
            if isinstance(owner, GENERATORS):
                yield owner
            elif isinstance(put_back, _NumpyState):
                yield put_back.generator


@dataclass(frozen=True, slots=True)
class _NumpyState:
    """Sets the state of a numpy generator."""

    generator: np.random.Generator

    def __call__(self, state: Any) -> None:
        self.generator.bit_generator.state = state


def _saved(generator: Generator) -> tuple[Callable[[Any], object], Any]:
    """Return a generator's state and the function that sets it."""
    match generator:
        case torch.Generator():
            return generator.set_state, generator.get_state()
        case np.random.Generator():
            return _NumpyState(generator), generator.bit_generator.state
        case np.random.RandomState():
            return generator.set_state, generator.get_state()
        case _:
            return generator.setstate, generator.getstate()
