"""What every job does around its one function: flags, logging, the cluster, signals and exit codes."""

import argparse
import logging
import signal
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from raysys.distributed.tracking import require_package
from raysys.errors import USER_ERRORS, ConfigError, RaysysError
from raysys.logs import configure, fields
from raysys.run import ClusterConfig, RunConfig, load_run
from raysys.storage import Folder

logger = logging.getLogger(__name__)

Stage = Callable[[RunConfig, Folder], Any]


class Interrupted(BaseException):
    """SIGINT or SIGTERM arrived; what is finished is kept."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextmanager
def signals_raise() -> Generator[None]:
    """Turn SIGINT and SIGTERM into `Interrupted` on the main thread; a second one ends the process at
    once."""

    def handle(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise Interrupted(number)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def flags(name: str, description: str) -> argparse.ArgumentParser:
    """Return the parser of the flags that every job has."""
    parser = argparse.ArgumentParser(prog=f"jobs/{name}.py", description=description)
    parser.add_argument(
        "--run", required=True, metavar="FILE", help="run file, for example jobs/runs/mind_ml1m.toml"
    )
    return common_flags(parser, "runs/<name of the run file>")


def common_flags(parser: argparse.ArgumentParser, default_out: str) -> argparse.ArgumentParser:
    """Add the flags that a job on a cluster has, whatever it reads, and return the parser."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="dotted.key=value, a TOML value; repeatable",
    )
    parser.add_argument("--out", metavar="URI", help=f"output folder or URI (default: {default_out})")
    parser.add_argument(
        "--address",
        help="auto, local or the address of a Ray cluster (default: the one it runs on, else local)",
    )
    return parser


def run_job(
    name: str,
    description: str,
    stage: Stage,
    argv: Sequence[str] | None = None,
    on_ray: Callable[[RunConfig], bool] = lambda run: True,
    more: Mapping[str, tuple[Stage, str]] | None = None,
) -> int:
    """Run one stage as a process would and return its exit code.

    `more` is flag -> (stage, help): with the flag, that stage runs after the first.

    0: done; 2: the user's input or config is wrong (one line on stderr); 1: anything else, with a traceback,
    and one line on stderr where raysys knows the reason; 130 and 143: SIGINT and SIGTERM.
    """
    parser, stages = flags(name, description), [stage]
    for flag, (_, text) in (more or {}).items():
        parser.add_argument(flag, action="append_const", dest="more", const=flag, help=text)
    arguments = parser.parse_args(argv)
    stages += [(more or {})[flag][0] for flag in dict.fromkeys(getattr(arguments, "more", None) or ())]
    return guarded(name, lambda: _connect_and_run(arguments, stages, on_ray))


def guarded(name: str, action: Callable[[], None]) -> int:
    """Run an action under the exit codes of `run_job`."""
    configure(name)
    try:
        with signals_raise():
            action()
    except USER_ERRORS as error:
        _show_line(error)
        return 2
    except Interrupted as interrupted:
        logger.warning(fields(stopped=str(interrupted), go_on="run the same command again"))
        return 128 + interrupted.number
    except Exception as error:
        logger.exception("failed")
        if isinstance(error, RaysysError):
            _show_line(error)
        return 1
    return 0


def _show_line(error: RaysysError) -> None:
    sys.stderr.write("error: " + " ".join(str(error).split()) + "\n")


def _connect_and_run(
    arguments: argparse.Namespace, stages: Sequence[Stage], on_ray: Callable[[RunConfig], bool]
) -> None:
    run = load_run(arguments.run, arguments.set)
    require_package(run.tracking)
    out = Folder(arguments.out or f"runs/{Path(arguments.run).stem}")
    if not on_ray(run):
        _run(stages, run, out)
        return
    connected(arguments.address, run.cluster, lambda: _run(stages, run, out))


def connected(address: str | None, cluster: ClusterConfig, action: Callable[[], None]) -> None:
    """Run an action while connected to Ray; a connection that was there before stays."""
    import ray

    from raysys.distributed.cluster import connect

    started = not ray.is_initialized()
    try:
        connect(address, cluster)
        with signals_raise():  # ray.init sets a handler of its own for SIGTERM
            action()
    finally:
        if started:
            ray.shutdown()


def _run(stages: Sequence[Stage], run: RunConfig, out: Folder) -> None:
    for stage in stages:
        stage(run, out)


def need(value: str | None, flag: str) -> str:
    """Return a flag's value; ConfigError where it was not given."""
    if not value:
        raise ConfigError(f"{flag}: missing")
    return value
