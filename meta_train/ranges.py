"""Ranges of configured numbers, and what to say when one is left."""


def check_share(owner: str, **values: float) -> None:
    """Raise ValueError unless every value is above zero and at most 1.

    Args:
        owner: the public name that the message begins with.
        values: what to check, by the name of the field.
    """
    for name, value in values.items():
        if not 0 < value <= 1:
            raise ValueError(
                f"{owner} {name} must be above zero and at most 1; got {name}={value}. "
                "Choose a share, for example 0.5, or 1 for the whole."
            )


def check_not_negative(owner: str, **values: int | float) -> None:
    """Raise ValueError unless every value is zero or above.

    Args:
        owner: the public name that the message begins with.
        values: what to check, by the name of the field.
    """
    for name, value in values.items():
        if not value >= 0:
            raise ValueError(
                f"{owner} {name} must not be negative; got {name}={value}. "
                "Choose a positive value, or 0 for none."
            )
