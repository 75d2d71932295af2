"""docs/reference.md names every config field, model, metric, error, job and reject reason."""

import ast
import dataclasses
import re
from pathlib import Path

import pytest

from raysys import errors
from raysys.data.formats import TextFormat
from raysys.data.json_lines import UNPARSABLE
from raysys.data.log_config import SideFeature, SideTable
from raysys.data.separated import WRONG_WIDTH
from raysys.data.sources import SOURCES
from raysys.evaluation.doctor.check import ORDER
from raysys.evaluation.findings import MEANINGS
from raysys.evaluation.lists import LIST_METRICS
from raysys.evaluation.metrics import CATALOGUE_METRICS, METRICS
from raysys.models import MODELS
from raysys.run import SECTIONS
from raysys.tuning.space_config import Parameter, SearchConfig

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
CONFIGS = [
    *SECTIONS.values(),
    SideTable,
    SideFeature,
    TextFormat,
    *(entry.config for entry in MODELS.values()),
    SearchConfig,
    Parameter,
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.__name__)
def test_every_field_has_a_row(config):
    missing = [field.name for field in dataclasses.fields(config) if f"| `{field.name}` |" not in REFERENCE]
    assert missing == []


def test_every_field_has_a_docstring_under_it():
    for config in CONFIGS:
        module = Path(ROOT, *config.__module__.split(".")).with_suffix(".py")
        tree = ast.parse(module.read_text(encoding="utf-8"))
        body = next(
            node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == config.__name__
        )
        for node, after in zip(body, [*body[1:], None], strict=True):
            if isinstance(node, ast.AnnAssign):
                documented = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                assert documented, f"{config.__name__}.{ast.unparse(node.target)}"


def test_models_metrics_errors_and_jobs_are_named():
    assert [name for name in MODELS if f"`{name}`" not in REFERENCE] == []
    metrics = (*METRICS, *LIST_METRICS, *CATALOGUE_METRICS)
    assert [name for name in metrics if f"`{name}" not in REFERENCE] == []
    assert [name for name in metrics if name not in MEANINGS] == []
    kinds = [name for name, value in vars(errors).items() if isinstance(value, type)]
    assert len(kinds) == 8
    assert [name for name in kinds if f"`{name}`" not in REFERENCE] == []
    jobs = sorted(path.name for path in (ROOT / "jobs").glob("*.py"))
    assert len(jobs) >= 8
    assert [name for name in jobs if f"`{name}" not in REFERENCE] == []


def test_every_reject_reason_is_named():
    folder = ROOT / "raysys" / "data"
    sources = "".join((folder / name).read_text(encoding="utf-8") for name in ("events.py", "partitions.py"))
    named = r'"(null_\w+|\w+_time|time_out_of_range|\w+_event|bad_number|negative_\w+|duplicate)"'
    reasons = {*re.findall(named, sources), WRONG_WIDTH, UNPARSABLE}
    assert len(reasons) == 11
    assert [name for name in reasons if f"`{name}`" not in REFERENCE] == []


def test_every_check_of_the_doctor_is_named_in_its_order():
    rows = re.findall(
        r"^\| `(\w+)` \|", REFERENCE.partition("## Doctor")[2].partition("## Samples")[0], re.MULTILINE
    )
    assert rows == list(ORDER)


def test_every_published_source_is_named():
    assert [name for name in SOURCES if f"`{name}`" not in REFERENCE] == []


def test_every_likely_mistake_and_key_of_the_profile_is_named():
    source = (ROOT / "raysys" / "data" / "mistakes.py").read_text(encoding="utf-8")
    codes = set(re.findall(r'_mistake\(\s*"(\w+)"', source))
    assert len(codes) >= 14
    assert [code for code in sorted(codes) if f"`{code}`" not in REFERENCE] == []
    described = (ROOT / "raysys" / "data" / "description.py").read_text(encoding="utf-8")
    keys = set(re.findall(r'^ +"(\w+)":', described, re.MULTILINE))
    assert len(keys) >= 30
    assert [key for key in sorted(keys) if f"`{key}`" not in REFERENCE] == []
