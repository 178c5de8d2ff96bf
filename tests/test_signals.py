import os
import signal
import threading

import pytest

from framework.signals import listen


def test_first_signal_is_a_flag_and_the_second_ctrl_c_leaves_at_once():
    before = signal.getsignal(signal.SIGINT)
    with listen() as received:
        os.kill(os.getpid(), signal.SIGINT)
        assert received.reason == "interrupt"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_under_the_elastic_agent_a_repeated_signal_is_the_same_one(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    with listen() as received:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert received.reason == "terminate"


def test_slurm_s_warning_is_preemption_and_a_later_ctrl_c_leaves_at_once():
    with listen() as received:
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert received.reason == "terminate"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL


def test_nested_listeners_share_what_was_received():
    with listen() as outer, listen() as inner:
        assert inner is outer


def test_interruptible_work_raises():
    with listen() as received:
        with pytest.raises(KeyboardInterrupt), received.interruptible():
            os.kill(os.getpid(), signal.SIGINT)
        assert received.reason == ""
        os.kill(os.getpid(), signal.SIGINT)
        assert received.reason == "interrupt"


def test_other_threads_listen_to_nothing():
    found = []

    def work() -> None:
        with listen() as received:
            found.append(received.reason)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [""]
