"""Every command that README.md prints is run by a test or a target of the Makefile, and by one only."""

import re
import tomllib

from jobs import pipeline
from raysys.distributed.job import flags
from raysys.run import load_run
from tests.reference.readme import LINE, ROOT, RUN_BY, SUBMIT, TEXT, UP, commands, words


def test_each_command_has_one_runner_and_no_runner_has_an_old_command():
    found = commands()
    assert len(found) >= 15
    assert sorted(found) == sorted(RUN_BY)


def test_a_command_that_is_added_is_found_in_a_block_and_in_a_line():
    added = "```\npython jobs/new.py --run a.toml \\\n   --set b=1 # why\n```\nOr `ray new`, not `rays`.\n"
    assert set(commands(TEXT + added)) - set(commands()) == {
        "python jobs/new.py --run a.toml --set b=1",
        "ray new",
    }


def test_the_runners_are_there():
    for command, runner in RUN_BY.items():
        file, _, name = runner.partition("::")
        text = (ROOT / file).read_text(encoding="utf-8")
        defined = rf"^{name}:" if file == "Makefile" else rf"^(def {name}\(|{name} =)"
        assert re.search(defined, text, re.MULTILINE), (command, runner)


def test_a_runner_takes_the_command_from_the_readme_or_has_its_words():
    """The runners of README's table cannot say one thing and run another."""
    in_line = {command for command, runner in RUN_BY.items() if runner == LINE}
    assert in_line <= set(commands())
    submitted = (ROOT / "tests" / "integration" / "test_cluster.py").read_text(encoding="utf-8")
    assert "words(SUBMIT" in submitted
    launched = (ROOT / "tests" / "chaos" / "test_on_premise.py").read_text(encoding="utf-8")
    assert words(UP)[1].rpartition("/")[2] in launched


def test_the_submitted_command_is_one_that_the_job_understands():
    job = words(SUBMIT)[words(SUBMIT).index("--") + 1 :]
    assert job[:2] == ["python", f"jobs/{pipeline.__name__.rpartition('.')[2]}.py"]
    asked = flags("pipeline", "").parse_args(job[2:])
    cluster = load_run(str(ROOT / asked.run), asked.set).cluster
    assert (cluster.workers, cluster.use_gpu) == (2, True)
    for file in ("cluster.yaml", "docs/cluster-on-premise.yaml", "docs/kuberay.yaml"):
        text = (ROOT / file).read_text(encoding="utf-8")
        for labels in (cluster.data_labels, cluster.training_labels):
            ((name, value),) = labels.items()
            assert re.search(rf"^[^#]*\b{name}(=|: ){value}\b", text, re.MULTILINE), (file, labels)


def test_the_settings_of_every_ablation_load():
    files = sorted((ROOT / "benchmarks" / "ablations").glob("*.toml"))
    assert files
    for file in files:
        spec = tomllib.loads(file.read_text(encoding="utf-8"))
        for settings in spec["settings"].values():
            load_run(str(ROOT / spec["run"]), [*spec.get("all", []), *settings])
