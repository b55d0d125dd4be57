"""Files that a run of meta-training writes for its readers."""

from pathlib import Path
from typing import Any

from l2o.files import remove_unfinished

from .config import MetaTrainConfig, save_config
from .log import JsonLines
from .progress import TensorBoard


class RunLog:
    """Writes `config.yaml`, `log.jsonl` and, on request, events for TensorBoard.

    Args:
        folder: of the run; created.
        config: the resolved configuration.
        last_step: outer step whose checkpoint the run continues from; later records are
            dropped. None for a run from the start.
        tensorboard: whether to write what the log holds to `folder`/tensorboard, too.

    Raises:
        ModuleNotFoundError: if tensorboard is wanted and not installed.
    """

    def __init__(
        self,
        folder: Path,
        config: MetaTrainConfig,
        last_step: int | None,
        *,
        tensorboard: bool = False,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        remove_unfinished(folder)
        save_config(config, folder / "config.yaml")
        self._lines = JsonLines(folder / "log.jsonl", last_step=last_step)
        self._board: TensorBoard | None = None
        if tensorboard:
            self._board = TensorBoard(folder / "tensorboard", purge_step=last_step or 0)

    def write(self, **record: Any) -> None:
        """Append one record, which has an `outer_step`."""
        self._lines.write(**record)
        if self._board is not None:
            self._board.write(**record)
