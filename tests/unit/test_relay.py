"""An action of Ray in a thread of its own: signals ask it to end and are raised once it has."""

import signal
import threading
import time

import pytest

from raysys.distributed.relay import in_thread
from raysys.errors import TrainingError


class Signalled(BaseException):
    """The signal of these tests."""


@pytest.fixture
def signal_soon():
    """A signal in 0.3 s, whose handler raises."""

    def handle(number, frame):
        raise Signalled

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_a_signal_waits_for_the_action_to_end(signal_soon):
    asked, written = threading.Event(), []

    def action():
        assert asked.wait(30)
        time.sleep(0.7)
        written.append("checkpoint")

    with pytest.raises(Signalled):
        in_thread(action, lambda: None, asked.set, grace_s=30)
    assert written == ["checkpoint"]


def test_an_action_that_does_not_end_is_left(signal_soon):
    end = threading.Event()
    begin = time.monotonic()
    with pytest.raises(Signalled):
        in_thread(lambda: end.wait(30), lambda: None, lambda: None, grace_s=0.5)
    assert 0.7 < time.monotonic() - begin < 10
    end.set()


def test_what_the_watch_raises_ends_the_action_too():
    asked, ended = threading.Event(), []

    def action():
        asked.wait(30)
        ended.append(True)

    def watch():
        raise TrainingError("enough")

    with pytest.raises(TrainingError, match="enough"):
        in_thread(action, watch, asked.set, grace_s=30)
    assert ended


def test_the_error_of_the_action_is_raised():
    def action():
        raise TrainingError("no loss")

    with pytest.raises(TrainingError, match="no loss"):
        in_thread(action, lambda: None, lambda: None, grace_s=1)
