"""A small space over a planted log, shared by the tests of tuning."""

from raysys.tuning.space import load_space
from tests.reference.logs import planted_log, run_file

SPACE = """base = "run.toml"
[search]
metric = "valid/ndcg@10"
trials = 5
[space]
"model.num_interests" = { type = "int", min = 1, max = 4 }
"model.train_score" = { type = "choice", values = ["served", "label_aware"] }
"model.label_power" = { type = "choice", values = [1.0, inf], when = {"model.train_score" = ["label_aware"]} }
"training.learning_rate" = { type = "float", min = 1e-3, max = 0.05, scale = "log" }
"""


def planted_base(folder):
    """Write a planted log and its run file; return the folder."""
    planted_log(folder)
    run_file(folder)
    return folder


def space_of(folder, text=SPACE, *overrides):
    """Read a space over the base run in a folder."""
    path = folder / "space.toml"
    path.write_text(text)
    return load_space(str(path), overrides)
