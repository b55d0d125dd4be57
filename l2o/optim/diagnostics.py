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

    Args:
        names: of the parameters.
        max_update: above how many nominal steps an update is clipped.
    """

    def __init__(self, names: Iterable[str], max_update: float) -> None:
        self._names = list(names)
        self._max_update = max_update
        self._zero = torch.zeros((), device="cpu", dtype=torch.float32)
        self._steps = 0
        self._skipped = self._zero
        self._in_a_row = self._zero
        self._arriving: Tensor | None = None
        # Rows: times clipped, largest update, last update, last gradient.
        self._table = self._row({}).repeat(4, 1)

    def renamed(self, names: Iterable[str]) -> "Tally":
        """Return a tally over other parameters; counts stay with their names."""
        other = Tally(names, self._max_update).moved(self._zero.device)
        other._steps, other._skipped = self._steps, self._skipped
        other._in_a_row = self._in_a_row
        rows = [dict(zip(self._names, row, strict=True)) for row in self._table]
        other._table = torch.stack([other._row(row) for row in rows])
        return other

    def moved(self, device: torch.device) -> "Tally":
        """Return the tally on the device that the reports come from."""
        other = copy.copy(self)
        other._zero = self._zero.to(device)
        other._skipped = self._skipped.to(device)
        other._in_a_row = self._in_a_row.to(device)
        other._table = self._table.to(device)
        return other

    def add(self, report: StepReport) -> None:
        """Count one step."""
        clipped, largest, _, _ = self._table
        updates = self._row(report.update_sizes)
        is_clipped = report.is_sound & (updates > self._max_update)
        finite = updates.nan_to_num(nan=0.0, posinf=0.0)
        self._steps += 1
        is_skipped = ~report.is_sound
        self._skipped = self._skipped + is_skipped
        self._in_a_row = (self._in_a_row + 1) * is_skipped
        self._table = torch.stack(
            [
                clipped + is_clipped,
                largest.maximum(finite),
                updates,
                self._row(report.grad_peaks),
            ]
        )

    def has_stopped(self) -> bool:
        """Return whether the last `SKIPS_IN_A_ROW` steps were all skipped.

        On an accelerator, where reading would wait, the answer is that of as many
        steps ago.
        """
        if self._zero.device.type == "cpu":
            return int(self._in_a_row) >= SKIPS_IN_A_ROW
        if self._zero.device.type == "meta" or self._steps % SKIPS_IN_A_ROW:
            return False
        found = self._arriving
        self._arriving = self._in_a_row.to("cpu", non_blocking=True)
        return found is not None and int(found) >= SKIPS_IN_A_ROW

    def read(self) -> Diagnostics:
        """Copy the counts to the host, which waits for the device."""
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

    def _row(self, values: Mapping[str, Tensor]) -> Tensor:
        """Return one number per parameter, zero where there is none."""
        known = (values.get(name, self._zero) for name in self._names)
        return torch.stack([self._zero, *(item.to(self._zero) for item in known)])[1:]
