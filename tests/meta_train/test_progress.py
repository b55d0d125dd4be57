import sys
import types

import pytest

from meta_train import progress
from meta_train.loop import MetaTrainer
from meta_train.progress import ProgressDisplay, TensorBoard


@pytest.fixture
def clock(monkeypatch):
    """Let time pass as told."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


class TestWatch:
    def test_lines_say_how_much_time_is_left(self, clock, capsys):
        with ProgressDisplay("ff", first=10, last=30) as shown:
            for _ in range(4):
                clock[0] += 30
                shown.step(loss=0.5)
        assert capsys.readouterr().err.splitlines() == [
            "ff: 12 of 30 outer steps, loss 0.500, 30.0 s per step, 9 min left",
            "ff: 14 of 30 outer steps, loss 0.500, 30.0 s per step, 8 min left",
        ]

    def test_a_terminal_gets_a_bar(self, clock, capsys, monkeypatch):
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        with ProgressDisplay("ff", first=10, last=30) as shown:
            clock[0] += 300
            shown.step(loss=0.5)
        found = capsys.readouterr().err
        assert "11/30" in found
        assert "loss 0.500" in found

    def test_silence(self, clock, capsys):
        with ProgressDisplay("ff", first=0, last=3, is_silent=True) as shown:
            clock[0] += 300
            shown.step(loss=0.5)
        assert capsys.readouterr().err == ""


class TestTensorBoard:
    @pytest.fixture
    def scalars(self, monkeypatch):
        """Stand in for the package, which the tests do not need."""
        written, opened = {}, []

        class SummaryWriter:
            def __init__(self, folder, purge_step):
                opened.append((folder, purge_step))

            def add_scalar(self, name, value, step):
                written[name, step] = value

            def flush(self):
                pass

        module = types.ModuleType("torch.utils.tensorboard")
        module.SummaryWriter = SummaryWriter
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
        return written, opened

    def test_it_gets_what_the_log_gets(self, tiny, tmp_path, scalars):
        MetaTrainer(tiny(), tmp_path, tensorboard=True).train()
        written, opened = scalars
        assert opened == [(str(tmp_path / "tensorboard"), 0)]
        assert {("loss", 1), ("grad_norm", 3), ("validation/accuracy", 2)} <= set(
            written
        )

    def test_a_resumed_run_drops_what_is_newer(self, tiny, tmp_path, scalars):
        MetaTrainer(tiny(), tmp_path).train(until=2)
        MetaTrainer(tiny(), tmp_path, resume=True, tensorboard=True)
        assert scalars[1] == [(str(tmp_path / "tensorboard"), 2)]

    def test_without_the_package_it_says_so(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
        with pytest.raises(ModuleNotFoundError, match="leave the flag out"):
            TensorBoard(tmp_path)
