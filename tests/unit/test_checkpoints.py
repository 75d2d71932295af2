"""The state of a training under way: what is kept, and that the planner counts no less and no more."""

import pytest
import torch
from torch import nn

from raysys.distributed.checkpoints import KEPT_STEPS, ResumeFolder, State, from_bytes
from raysys.planning.parameters import ModelSize, Parameter
from raysys.planning.stages import training_disk
from raysys.run import load_run
from raysys.storage import Folder
from tests.reference.logs import planted_log, run_file


@pytest.fixture
def model():
    return nn.Linear(100, 100)


def epochs(out, model, best, middle=True):
    """Yield after each epoch, of which `best` says whether it is better than all before; saved at its end
    and in its `middle`."""
    resume, state = ResumeFolder(out), State()
    resume.open({"training": "x"})
    optimizer = torch.optim.Adam(model.parameters())
    for epoch, better in enumerate(best):
        for parameter in model.parameters():
            nn.init.constant_(parameter, epoch)
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        if middle:
            state.global_step += 1
            resume.save(state, model, optimizer)
        if better:
            state.best_epoch, state.best_metric = epoch, float(epoch)
            resume.save_best(epoch, model)
        state.epoch, state.global_step = epoch + 1, state.global_step + 1
        resume.save(state, model, optimizer)
        yield resume, state


def best_files(resume):
    return {name for name in resume.folder.names() if name.startswith("best-")}


def test_only_best_weights_that_a_kept_step_names_stay(tmp_path, model):
    best = [True, True, False, True, True, True, False, False]
    for resume, state in epochs(Folder(tmp_path), model, best):
        steps = [name for name in resume.folder.names() if name.startswith("step-")]
        assert len(steps) <= KEPT_STEPS
        named = {resume.folder.read_json(f"{step}/state.json")["best_epoch"] for step in steps} - {-1}
        assert best_files(resume) == {f"best-{epoch}.pt" for epoch in named}
        assert f"best-{state.best_epoch}.pt" in best_files(resume)
    assert best_files(resume) == {"best-5.pt"}  # two epochs after the last that was better


def test_an_interruption_before_a_step_is_written_leaves_the_best_of_the_step_before(tmp_path, model):
    *_, (resume, _) = epochs(Folder(tmp_path), model, [True, False, True])
    resume.save_best(3, model)  # and here the process dies: no step names it
    again = ResumeFolder(Folder(tmp_path))
    assert again.open({"training": "x"})
    kept = again.load()
    assert kept.best_epoch == 2
    weights = from_bytes(again.folder.read_bytes(f"best-{kept.best_epoch}.pt"))
    assert set(weights["bias"].tolist()) == {2.0}
    kept.global_step += 1
    again.save(kept, model, torch.optim.Adam(model.parameters()))
    assert best_files(again) == {"best-2.pt"}


def test_the_planner_counts_the_most_that_lies_on_disk(tmp_path, model, monkeypatch):
    planted_log(tmp_path)
    run = load_run(str(run_file(tmp_path)), ("training.epochs=12",))
    most, write = 0, Folder.write_bytes

    def measured(folder, name, data):
        nonlocal most
        write(folder, name, data)
        resume = ResumeFolder(Folder(tmp_path / "out")).folder
        most = max(most, sum(resume.size(file) for file in resume.files() if file.endswith(".pt")))

    monkeypatch.setattr(Folder, "write_bytes", measured)
    for _ in epochs(Folder(tmp_path / "out"), model, [True] * 12, middle=False):
        pass
    size = ModelSize(tuple(Parameter(name, (*p.shape,), 4, False) for name, p in model.named_parameters()))
    _, peak = training_disk(run, size)
    assert peak / 1.1 < most < peak * 1.25  # each file has a head of a kilobyte or two
