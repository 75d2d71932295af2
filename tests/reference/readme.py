"""The commands of README.md, as it prints them, and how each is run."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
PROGRAMS = ("make ", "python ", "ray ", "tensorboard ")

LINE = "tests/integration/test_readme.py::test_the_commands_in_their_order"
BOARD = "tests/integration/test_readme.py::test_tensorboard_shows"
TUNED = "runs/tune_mind/tune/best.toml"
UP = "ray up docs/cluster-on-premise.yaml"
SUBMIT = next(line for line in TEXT.replace("\\\n", "").splitlines() if line.startswith("ray job submit"))
SUBMIT = " ".join(SUBMIT.split())

RUN_BY = {
    "python jobs/pipeline.py --run clicks.toml --set model.num_interests=6": LINE,
    "python jobs/plan.py --run clicks.toml": LINE,
    "python jobs/doctor.py --run clicks.toml --out runs/clicks": LINE,
    "python jobs/tune.py --space tune_spaces/mind.toml --out runs/tune_mind": LINE,
    f"python jobs/pipeline.py --run {TUNED} --out runs/mind_tuned": LINE,
    "tensorboard --logdir runs/tune_mind/tune/trials": BOARD,
    "tensorboard --logdir runs/mind_ml1m/logs": BOARD,
    UP: "tests/chaos/test_on_premise.py::test_the_launcher_brings_up_two_hosts_and_takes_them_down",
    SUBMIT: "tests/integration/test_cluster.py::submitted",
    "ray job stop": "tests/integration/test_cluster.py::test_a_stopped_job_keeps_its_checkpoint_and_the_next_"
    "submit_goes_on",
    # a name in <> stands for files of the repository, which take hours to run: each is loaded
    "python jobs/pipeline.py --run jobs/runs/<run file>": "tests/contract/test_runs.py::"
    "test_a_run_file_loads_and_survives_the_round_trip",
    "python benchmarks/ablation.py benchmarks/ablations/<same name>": "tests/contract/test_readme.py::"
    "test_the_settings_of_every_ablation_load",
    **{f"make {name}": f"Makefile::{name}" for name in ("demo", "test", "check", "bench", "chaos")},
}
"""Command -> file::name of the test, the fixture or the target that runs it."""


def commands(text=TEXT):
    """Return the commands of a text's code blocks and of its code within lines, each once, without their
    comments."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    blocks = "".join(block for language, block in fenced if not language)
    lines = [line.partition(" #")[0] for line in blocks.replace("\\\n", "").splitlines()]
    lines += re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)
    return list(dict.fromkeys(" ".join(line.split()) for line in lines if line.startswith(PROGRAMS)))


def words(command, *more):
    """Return a command's words after its program, with more behind them."""
    return [*shlex.split(command)[1:], *more]
