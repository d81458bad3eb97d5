"""Signals that ask a run to stop, and threads that cannot handle any."""

import signal
import threading
from types import SimpleNamespace

import pytest

from tests.helpers.processes import differing
from vfn.distributed import ALONE
from vfn.train import signals, train
from vfn.train.signals import STOP_SIGNALS, Stopped, stop_signals


def test_signals_are_collected_and_handlers_come_back():
    before = [signal.getsignal(s) for s in STOP_SIGNALS]
    with stop_signals(ALONE) as stop:
        assert stop.agreed() == 0
        signal.raise_signal(signal.SIGUSR1)
        assert stop.agreed() == signal.SIGUSR1
        with pytest.raises(Stopped):
            stop.check()
    assert [signal.getsignal(s) for s in STOP_SIGNALS] == before


def test_a_signal_that_comes_again_at_once_is_the_same_one(monkeypatch):
    """As torchrun's workers get Ctrl-C; one that comes later is obeyed."""
    obeyed, clock = [], [100.0]
    monkeypatch.setattr(signals, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    before = signal.signal(signal.SIGUSR1, lambda signum, _: obeyed.append(signum))
    try:
        with stop_signals(ALONE) as stop:
            signal.raise_signal(signal.SIGTERM)
            clock[0] += 1.5
            for wait in (1.9, 0.1, 0.1):
                signal.raise_signal(signal.SIGUSR1)
                assert (obeyed, stop.agreed()) == ([], signal.SIGUSR1)
                clock[0] += wait
            signal.raise_signal(signal.SIGUSR1)
            assert obeyed == [signal.SIGUSR1]
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_signal_may_come_while_handlers_are_set(monkeypatch):
    """And there may be handlers that are not Python's, of which nothing is known."""
    set_handler = signal.signal

    def raised(signum, handler):
        found = set_handler(signum, handler)
        if handler not in (signal.SIG_DFL, signal.SIG_IGN) and signum == STOP_SIGNALS[0]:
            monkeypatch.setattr(signal, "signal", set_handler)
            signal.raise_signal(signum)
        return found

    before = [signal.getsignal(s) for s in STOP_SIGNALS]
    monkeypatch.setattr(signal, "getsignal", lambda _: None)
    monkeypatch.setattr(signal, "signal", raised)
    with stop_signals(ALONE) as stop:
        assert stop.agreed() == STOP_SIGNALS[0]
    monkeypatch.undo()
    for signum, handler in zip(STOP_SIGNALS, before, strict=True):
        assert signal.getsignal(signum) is signal.SIG_DFL
        signal.signal(signum, handler)


def test_a_run_in_a_thread_is_that_of_the_main_thread(config, tmp_path):
    """Where Python lets nobody handle signals: they are left alone."""
    before, outcomes, within = [signal.getsignal(s) for s in STOP_SIGNALS], [], []

    def watch(_entry):
        within.append([signal.getsignal(s) for s in STOP_SIGNALS])

    def run():
        outcomes.append(train(config, tmp_path / "thread", callbacks=[watch], device="cpu"))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    outcomes.append(train(config, tmp_path / "main", device="cpu"))
    assert outcomes == [(4, 0)] * 2
    assert all(seen == before for seen in within)
    assert differing(tmp_path / "thread", tmp_path / "main") == []
