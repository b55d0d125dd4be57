"""What the safety net did, kept on the device and read when asked for."""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from l2o.rule.safety import StepReport

SKIPS_IN_A_ROW = 20
"""Number of steps that are skipped in a row before a warning."""


@dataclass(frozen=True, kw_only=True)
class Diagnostics:
    """What an optimizer has seen since it was built; checkpoints do not hold it."""

    steps: int
    """Number of steps with at least one gradient, the skipped ones included."""
    skipped: int
    """Number of steps not taken: a gradient or an update was not finite."""
    clipped: dict[str, int]
    """Parameter to number of updates that were scaled down to one nominal step."""
    largest_update: dict[str, float]
    """Parameter to the largest root mean square of an update so far, at `lr = 1` and
    before clipping; in nominal steps (units of `rule.step_size`)."""
    last_update: dict[str, float]
    """The same of the last step; 0 without a gradient."""
    last_gradient: dict[str, float]
    """Parameter to largest magnitude of an entry of its last gradient; 0 without."""


class Tally:
    """Running counts over the reports of guarded steps; adding never waits.

    Reports are kept until there are `SKIPS_IN_A_ROW`, and then counted together, so
    that an accelerator launches next to nothing for them.

    Args:
        names: of the parameters.
        max_update: above how many nominal steps an update is clipped.
    """

    def __init__(self, names: Iterable[str], max_update: float) -> None:
        self._names = list(names)
        self._max_update = max_update
        self._zero = torch.zeros((), device="cpu", dtype=torch.float32)
        self._steps = 0
        self._kept: list[StepReport] = []
        """Of the steps that are not counted yet."""
        self._in_a_row = 0
        """Steps skipped up to the last one, where asking costs nothing."""
        self._skipped = self._zero
        self._skipped_last = self._zero
        """How many of the last `SKIPS_IN_A_ROW` counted steps were skipped."""
        self._arriving: Tensor | None = None
        # Rows: times clipped, largest update, last update, last gradient.
        self._table = self._rows({}).repeat(4, 1)

    def renamed(self, names: Iterable[str]) -> "Tally":
        """Return a tally over other parameters; counts stay with their names."""
        self._count()
        other = Tally(names, self._max_update).moved(self._zero.device)
        other._steps, other._skipped = self._steps, self._skipped
        other._in_a_row, other._skipped_last = self._in_a_row, self._skipped_last
        rows = [dict(zip(self._names, row, strict=True)) for row in self._table]
        other._table = other._rows(*rows)
        return other

    def moved(self, device: torch.device) -> "Tally":
        """Return the tally on the device that the reports come from."""
        self._count()
        other = copy.copy(self)
        other._kept = []
        other._zero = self._zero.to(device)
        other._skipped = self._skipped.to(device)
        other._skipped_last = self._skipped_last.to(device)
        other._table = self._table.to(device)
        return other

    def add(self, report: StepReport) -> None:
        """Take in one step."""
        self._steps += 1
        self._kept.append(report)
        if self._zero.device.type == "cpu":
            self._in_a_row = 0 if report.is_sound else self._in_a_row + 1
        if len(self._kept) == SKIPS_IN_A_ROW:
            self._count()

    def has_stopped(self) -> bool:
        """Return whether the last `SKIPS_IN_A_ROW` steps were all skipped.

        On an accelerator, where reading would wait, the answer is asked for every so
        many steps, and is that of as many steps ago.
        """
        if self._zero.device.type == "cpu":
            return self._in_a_row >= SKIPS_IN_A_ROW
        if self._zero.device.type == "meta" or self._steps % SKIPS_IN_A_ROW:
            return False
        self._count()
        found = self._arriving
        self._arriving = self._skipped_last.to("cpu", non_blocking=True)
        return found is not None and int(found) >= SKIPS_IN_A_ROW

    def read(self) -> Diagnostics:
        """Copy the counts to the host, which waits for the device."""
        self._count()
        clipped, largest, updates, gradients = (
            dict(zip(self._names, row, strict=True)) for row in self._table.tolist()
        )
        return Diagnostics(
            steps=self._steps,
            skipped=int(self._skipped.item()),
            clipped={name: int(count) for name, count in clipped.items()},
            largest_update=largest,
            last_update=updates,
            last_gradient=gradients,
        )

    def _count(self) -> None:
        """Count the steps that are kept."""
        if not self._kept:
            return
        sound = torch.stack([report.is_sound for report in self._kept])
        kinds = [(report.update_sizes, report.grad_peaks) for report in self._kept]
        rows = self._rows(*(values for pair in kinds for values in pair))
        rows = rows.view(len(kinds), 2, -1)
        self._kept = []
        clipped, largest, _, _ = self._table
        updates = rows[:, 0]
        is_clipped = sound[:, None] & (updates > self._max_update)
        finite = updates.nan_to_num(nan=0.0, posinf=0.0)
        self._skipped_last = (~sound).sum()
        self._skipped = self._skipped + self._skipped_last
        self._table = torch.stack(
            [
                clipped + is_clipped.sum(0),
                largest.maximum(finite.amax(0)),
                *rows[-1],
            ]
        )

    def _rows(self, *kinds: Mapping[str, Tensor]) -> Tensor:
        """Return `[kind, parameter]`, zero where there is no number."""
        known = [values.get(n, self._zero) for values in kinds for n in self._names]
        found = torch.stack([self._zero, *(item.to(self._zero) for item in known)])
        return found[1:].view(len(kinds), -1)
