"""Checks of benchmark options, with one message each."""

from collections.abc import Collection, Iterable


def check_known(what: str, names: Iterable[str], known: Collection[str]) -> None:
    """Raise ValueError unless all names are known.

    Args:
        what: configuration and field, for the message.
        names: what was asked for.
        known: what there is.
    """
    if unknown := sorted(set(names) - set(known)):
        raise ValueError(
            f"{what} must be among {sorted(known)}; got {unknown}. Check the spelling."
        )


def check_repetitions(owner: str, repetitions: int, least: int = 1) -> None:
    """Raise ValueError unless there are enough repetitions; quartiles need two."""
    if repetitions < least:
        raise ValueError(
            f"{owner} repetitions must be at least {least}; got "
            f"repetitions={repetitions}. Leave it out for the default."
        )
