"""Between the driver and what runs for it on Ray: lines to print one way, a wish to stop the other."""

import threading
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raysys.distributed.cluster import own_errors

POLL_S = 0.2
"""How often `in_thread` looks whether its action has ended."""
WISH_POLL_S = 0.5
"""How often `StopWish` asks."""


def in_thread(
    action: Callable[[], object], watch: Callable[[], None], stop: Callable[[], None], grace_s: float
) -> None:
    """Run an action of Ray in a thread of its own, because on the main thread Ray takes SIGINT for itself.

    Args:
        action: what runs; the raysys error behind an error of it is raised.
        watch: called every `POLL_S` while it runs; what it raises ends the waiting.
        stop: tells the action to end, when a signal comes or `watch` raises.
        grace_s: how long it is then waited for.
    """
    outcome: list[BaseException | None] = []  # one entry once it has ended

    def run() -> None:
        try:
            action()
        except BaseException as error:
            outcome.append(error)
        else:
            outcome.append(None)

    # neither `join` nor `is_alive`: before Python 3.13 a signal whose handler raises within `join` marks the
    # thread as ended while it runs
    threading.Thread(target=run, daemon=True).start()
    try:
        while not outcome:
            time.sleep(POLL_S)
            watch()
    except BaseException:
        stop()
        deadline = time.monotonic() + grace_s
        while not outcome and time.monotonic() < deadline:
            time.sleep(POLL_S)
        raise
    if outcome[0] is not None:
        with own_errors():
            raise outcome[0]


def beside_driver(kind: type) -> Any:
    """Start an actor of a class on the driver's node, so that no other node that is lost takes it along."""
    here: Any = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    remote: Any = ray.remote(num_cpus=0, scheduling_strategy=here)
    return remote(kind).remote()


class StopFlag:
    """A wish to stop, as an actor."""

    def __init__(self) -> None:
        self.wish = False

    def stop(self) -> None:
        self.wish = True

    def stopping(self) -> bool:
        return self.wish


class StopWish:
    """Whether the driver has asked to stop, without waiting for it: a question that is under way is answered
    at a later call. A yes stays.

    Args:
        flag: the actor that knows, a `StopFlag`.
    """

    def __init__(self, flag: Any) -> None:
        self.flag, self.asked_at = flag, 0.0
        self.answer: Any = None
        self.wished = False

    def __call__(self) -> bool:
        if self.wished:
            return True
        if self.answer is None:
            if time.monotonic() - self.asked_at >= WISH_POLL_S:
                self.answer, self.asked_at = self.flag.stopping.remote(), time.monotonic()
            return False
        if not ray.wait([self.answer], timeout=0)[0]:
            return False
        answer, self.answer = self.answer, None
        self.wished = bool(ray.get(answer))
        return self.wished


class Relay:
    """Brings log lines of workers to the driver: a small actor holds them, a thread of the driver prints
    them."""

    def __init__(self, show: Callable[[dict[str, Any]], None]) -> None:
        self.actor: Any = beside_driver(LogLines)
        self.show, self.stopped = show, threading.Event()
        self.thread = threading.Thread(target=self._loop, daemon=True)

    def _loop(self) -> None:
        while not self.stopped.wait(0.5):
            self._drain()

    def _drain(self) -> None:
        try:
            for line in ray.get(self.actor.take.remote(), timeout=30):
                self.show(line)
        except ray.exceptions.GetTimeoutError:
            return  # a busy machine; the lines are still there next time
        except ray.exceptions.RayError:
            self.stopped.set()  # the cluster is gone; the driver's own error tells why

    def __enter__(self) -> Any:
        self.thread.start()
        return self.actor

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self.thread.join(timeout=15)
        self._drain()
        ray.kill(self.actor)


class LogLines(StopFlag):
    """Lines for the driver to print, a wish to stop, and the message of an error that no retry can mend."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[dict[str, Any]] = []
        self.error, self.starts = "", 0

    def count_start(self) -> int:
        self.starts += 1
        return self.starts

    def fail(self, message: str) -> None:
        self.error = self.error or message

    def fatal_error(self) -> str:
        return self.error

    def put(self, line: dict[str, Any]) -> None:
        self.lines.append(line)

    def take(self) -> list[dict[str, Any]]:
        taken, self.lines = self.lines, []
        return taken
