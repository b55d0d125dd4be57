import os
import signal
import threading

import pytest

from meta_train.interrupt import StopRequest

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(autouse=True)
def handlers_are_put_back():
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    after = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        signal.signal(number, handler)
    assert after == before


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_a_request(number, capfd):
    with StopRequest() as stop:
        assert not stop.is_made
        signal.raise_signal(number)
        assert stop.is_made
    assert stop.is_made
    assert "once more to stop at once" in capfd.readouterr().err


@pytest.mark.parametrize("first", SIGNALS)
@pytest.mark.parametrize("second", SIGNALS)
def test_the_second_signal_is_an_interrupt(first, second):
    with StopRequest():
        signal.raise_signal(first)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(second)


def test_handlers_are_put_back_after_a_fault():
    with pytest.raises(ValueError, match="fault"), StopRequest():
        raise ValueError("fault")


def test_an_ignored_signal_stays_ignored():
    """As in a job that a shell script runs in the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGINT)
            assert not stop.is_made
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_thread_leaves_signals_alone():
    found = []

    def enter():
        with StopRequest() as stop:
            found.extend([stop.is_made, *map(signal.getsignal, SIGNALS)])

    before = [signal.getsignal(number) for number in SIGNALS]
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [False, *before]


def test_a_closed_terminal_does_no_harm(monkeypatch):
    def fail(*_args):
        raise OSError("Bad file descriptor")

    monkeypatch.setattr(os, "write", fail)
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
    monkeypatch.undo()
    assert stop.is_made
