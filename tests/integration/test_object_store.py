"""The line on an S3 server that now and then fails: the files and figures of a local disk, and no secrets."""

import json
import pickle
import time
from pathlib import Path

import pyarrow.fs
import pytest
import ray

from jobs import export, index, pipeline
from raysys import filesystems
from raysys.distributed import exporter
from raysys.distributed.checkpoints import ResumeFolder, from_bytes
from raysys.distributed.trainer import Job, Rank, train, train_loop
from raysys.manifest import find_manifest, read_manifest
from raysys.run import load_run
from raysys.storage import Folder
from tests.reference.logs import planted_log, run_file
from tests.reference.object_store import KEY, SECRET, Door, ObjectStore, free_port

TIMES = {"train_s", "valid_s", "samples_per_s", "build_s", "queries_per_s"}
"""Keys that differ between any two runs, beside digests, which follow where and when the log was written."""
LOG = ("events.parquet", "items.parquet")
TRAINING = "epochs = 2\nbatch_size = 64\nlearning_rate = 0.01\ncheckpoint_every_steps = 4\nseed = 3"

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with ObjectStore(tmp_path_factory.mktemp("store") / "log") as store:
        yield store


def on_store(store, path, port=0):
    """Return the flags of a run whose log is in the store."""
    events, items = (store.uri(f"log/{name}", port) for name in LOG)
    return ["--run", str(path), "--set", f'data.events="{events}"', "--set", f'data.items.path="{items}"']


@pytest.fixture(scope="module")
def finished(tmp_path_factory, ray_cluster, store):
    """The same run on a local disk and, through a door that fails now and then, on the store."""
    folder = planted_log(tmp_path_factory.mktemp("line"))
    path = run_file(folder, training=TRAINING, cluster="workers = 2\nobject_store_mb = 150")
    assert pipeline.main(["--run", str(path), "--out", str(folder / "out")]) == 0
    for name in LOG:
        Folder(store.uri("log")).write_bytes(name, (folder / name).read_bytes())
    with Door(store) as door:
        command = [*on_store(store, path, door.port), "--out", store.uri("out", door.port)]
        assert pipeline.main(command) == 0
    return path, Folder(folder / "out"), Folder(store.uri("out")), door


def plain(value):
    """Return a table of a JSON file without times of the clock and digests of where files lie."""
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if k not in TIMES and k not in ("parents", "lineage", "log")}
        return {key: plain(each) for key, each in kept.items()}
    return [plain(each) for each in value] if isinstance(value, list) else value


def test_every_file_has_the_bytes_and_every_figure_the_value_of_a_local_run(finished):
    _, near, far, door = finished
    assert all(door.count[fate] > 0 for fate in ("refuse", "drop", "slow", "pass")), door.count
    told = [name for name in near.files() if not name.startswith("logs/")]
    assert [name for name in far.files() if not name.startswith("logs/")] == told
    same = [name for name in told if near.read_bytes(name) == far.read_bytes(name)]
    assert {"checkpoint/weights.pt", "checkpoint/optimizer.pt", "vectors/items.parquet"} <= set(same)
    assert {"index/shard-00000.faiss", "index/shard-00001.faiss"} <= set(same)
    assert {"evaluation/recommendations.parquet", "evaluation/values.parquet"} <= set(same)
    assert {name for name in told if name.startswith(("features/events/", "features/sequences/"))} <= set(
        same
    )
    other = set(told) - set(same)
    assert other <= {name for name in told if name.endswith(("manifest.json", "run.toml"))} | {
        "checkpoint/state.json",
        "evaluation/metrics.json",
        "report.html",
        "report.md",
    }
    for name in sorted(other):
        if name.endswith(".json"):
            one, two = plain(near.read_json(name)), plain(far.read_json(name))
            if name.endswith("manifest.json"):  # sizes of files that hold times
                for files in (one["files"], two["files"]):
                    for entry in ("run.toml", "state.json", "metrics.json"):
                        files.pop(entry, None)
            assert one == two, name
    info = [each.read_json("features/manifest.json")["info"] for each in (near, far)]
    for key in ("data_digest", "vocabularies"):
        assert info[0][key] == info[1][key]


def test_a_second_call_finds_everything_unchanged(finished, store, capsys):
    path, _, far, _ = finished
    before = far.read_json("evaluation/manifest.json")
    assert pipeline.main([*on_store(store, path), "--out", store.uri("out")]) == 0
    shown = capsys.readouterr().out
    for stage in ("features", "checkpoint", "vectors", "index", "evaluation"):
        assert f"{stage}=unchanged" in shown
    assert far.read_json("evaluation/manifest.json") == before


def test_no_secret_is_left_anywhere(finished, capsys):
    _, _, far, _ = finished
    secrets = (KEY.encode(), SECRET.encode())
    for name in far.files():
        content = far.read_bytes(name)
        assert not any(secret in content for secret in secrets), name
    session = Path(ray._private.worker.global_worker.node.get_session_dir_path())
    logs = [path for path in (session / "logs").rglob("*") if path.is_file()]
    assert logs
    for path in logs:
        content = path.read_bytes()
        assert not any(secret in content for secret in secrets), path
    assert SECRET not in capsys.readouterr().out


def test_a_stopped_training_goes_on_from_the_store_to_the_bit(finished, store, tmp_path):
    path, near, far, _ = finished
    run = load_run(str(path), ["cluster.workers=0"])
    (tmp_path / "features").symlink_to(Path(near.path) / "features")
    train(run, Folder(tmp_path))
    out = Folder(store.uri("resumed"))
    for name in (far / "features").files():
        (far / "features").copy(name, out / "features", name)
    job = Job(run, out / "features", read_manifest(out / "features", "features", "prepare"), out)
    assert SECRET not in repr({"job": job})  # what Ray Train keeps of its arguments
    identity = {"training": run.training_digest, "features": job.manifest.digest}
    ResumeFolder(out).open(identity)
    asked = []

    def stopping():
        asked.append(1)
        return len(asked) == 2

    train_loop(job, Rank(0, 1, "cpu", lambda line: None, stopping, lambda metrics, path: None))
    assert 0 < ResumeFolder(out).load().global_step < 32
    assert find_manifest(out / "checkpoint", "checkpoint") is None
    train(run, out)
    one, two = (from_bytes(each.read_bytes("checkpoint/weights.pt")) for each in (Folder(tmp_path), out))
    assert all(bool((one[name] == two[name]).all()) for name in one)
    assert not ResumeFolder(out).folder.files()


def test_what_is_half_written_does_not_count(finished, store, monkeypatch, capsys):
    path, near, far, _ = finished
    out = Folder(store.uri("half"))
    for name in near.files():
        if name.startswith(("features/", "checkpoint/", "vectors/")):
            far.copy(name, out, name)

    def fail(*_):
        yield from ()
        raise MemoryError("planted")

    command = [*on_store(store, path), "--out", store.uri("half")]
    state = out.read_json("checkpoint/manifest.json")
    state["info"]["samples"] += 1  # another checkpoint, so the vectors are made anew
    out.write_json("checkpoint/manifest.json", state)
    with monkeypatch.context() as patch:
        patch.setattr(exporter, "encode_catalogue", fail)
        assert export.main(command) == 1
    assert "vectors/items.parquet" in out.files()
    capsys.readouterr()
    assert index.main(command) == 2
    assert "s3://bucket/half/vectors: no finished vectors here" in capsys.readouterr().err
    assert export.main(command) == 0
    assert far.read_bytes("vectors/items.parquet") == out.read_bytes("vectors/items.parquet")


@pytest.mark.parametrize("dead", ["nobody listens", "nobody answers"])
def test_a_store_that_stays_dead_is_one_line_in_bounded_time(finished, tmp_path, monkeypatch, capsys, dead):
    path, _, _, _ = finished
    monkeypatch.setattr(filesystems, "MAX_ATTEMPTS", 3)
    monkeypatch.setattr(filesystems, "REQUEST_TIMEOUT_S", 1.0)
    with ObjectStore(tmp_path / "log") as store:
        if dead == "nobody answers":
            store.pause()
        port = free_port() if dead == "nobody listens" else store.port
        begin = time.monotonic()
        assert pipeline.main([*on_store(store, path, port), "--out", store.uri("out", port)]) == 1
        assert time.monotonic() - begin < 60  # 3 tries, at most 1 + 1 + 1 s of silence and 1 + 2 s of waits
    shown = capsys.readouterr()
    assert shown.err.startswith(
        "error: s3://bucket/log/events.parquet: the object store gives no answer in 3 tries"
    )
    assert shown.err.count("\n") == 1
    assert not any(secret in shown.err + shown.out for secret in (KEY, SECRET))


def test_a_store_that_refuses_is_the_mistake_of_whoever_asks(finished, store, capsys):
    path, _, _, _ = finished
    command = on_store(store, path)
    assert pipeline.main([*command, "--out", store.uri("out").replace("@bucket/", "@nosuch/")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: s3://nosuch/out/features/stats/00000-000000000000.json: the object store")
    assert "refuses" in error
    assert "NO_SUCH_BUCKET" in error
    assert error.endswith("check the bucket's name, the credentials and their rights\n")
    assert error.count("\n") == 1


def test_a_file_system_keeps_its_tries_on_its_way_to_a_worker(store):
    # pyarrow's own pickle forgets them, and Ray Train sends the file system itself; the tries are counted
    with Door(store, share=1.0) as door:
        filesystem = pickle.loads(pickle.dumps(Folder(store.uri("x", door.port)).filesystem))
        door.times = 4
        assert filesystem.get_file_info("bucket/x/y").type == pyarrow.fs.FileType.NotFound
        assert door.count["refuse"] >= 4


def test_the_last_bytes_of_a_file_are_read_from_a_store_that_says_slow_down(store):
    # pyarrow gives up at once where the answer "503" is longer than the bytes that were asked for
    Folder(store.uri("small")).write_bytes("x", b"123456789")
    with Door(store, share=1.0) as door, Folder(store.uri("small", door.port)).open_input("x") as file:
        file.seek(5)
        assert file.read(4) == b"6789"
        assert door.count["refuse"] >= 2


def test_json_of_every_manifest_names_places_without_queries(finished):
    _, _, far, _ = finished
    for name in far.files():
        if name.endswith(".json"):
            assert "endpoint_override" not in json.dumps(far.read_json(name)), name
    assert "endpoint_override" not in far.read_bytes("checkpoint/run.toml").decode()
