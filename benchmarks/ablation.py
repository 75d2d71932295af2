"""Train a run file under several settings and seeds, and print one table of test figures.

    python benchmarks/ablation.py benchmarks/ablations/NAME.toml [--lanes 2] [--data KEY=VALUE ...]

The file names a run file, seeds, and settings by name, each a list of overrides as `--set` takes them. Every
(setting, seed) is trained in a process of its own with one thread, without Ray, `--lanes` of them at a time,
and measured on the test part as jobs/evaluate.py does. A result is a line of results/ablation-NAME.jsonl,
written when it is there; what is there already is not run again, so a stopped table goes on.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

METRICS = ("hit_rate@10", "ndcg@10", "hit_rate@50", "ndcg@50")


def measure(run_file: str, overrides: list[str], features: str, out: str) -> dict[str, Any]:
    """Return the test figures of one setting, trained in this process on features that are prepared."""
    import numpy as np
    import torch

    from raysys.data.queries import read_queries
    from raysys.distributed.checkpoints import load_trained
    from raysys.distributed.trainer import train
    from raysys.distributed.validation import batches_by_seen, local_index, ragged_rows, retrieve
    from raysys.evaluation.health import InterestHealth
    from raysys.evaluation.metrics import METRICS as MEASURES
    from raysys.logs import configure
    from raysys.manifest import read_manifest
    from raysys.models import sample_shape
    from raysys.models.contract import InterestModel
    from raysys.retrieval.vectors import VectorRetriever
    from raysys.run import load_run
    from raysys.storage import Folder

    torch.set_num_threads(1)
    configure("ablation")
    run = load_run(run_file, [*overrides, "cluster.workers=0"])
    folder = Folder(out)
    os.symlink(features, f"{out}/features")
    begin = time.monotonic()
    train(run, folder)
    seconds = time.monotonic() - begin
    trained = load_trained(folder / "checkpoint", folder / "features")
    manifest = read_manifest(folder / "features", "features", "prepare")
    checkpoint = read_manifest(folder / "checkpoint", "checkpoint", "train")
    model: Any = trained.model
    retriever = VectorRetriever(
        model, local_index(model, manifest.info["items"], run.model.embedding_dim, "cpu"), "cpu"
    )
    sums, users = dict.fromkeys(METRICS, 0.0), 0
    health = InterestHealth(run.model.num_interests) if isinstance(model, InterestModel) else None
    shape = sample_shape(run.model_name, run.model, run.session)
    for part in sorted(manifest.info["part_events"]):
        queries = read_queries(folder / "features", part, "test", shape)
        for rows in batches_by_seen(queries, np.arange(len(queries)), 512):
            candidates = retrieve(retriever, queries, rows, run, 50)
            truth = ragged_rows(queries.truth_offsets, queries.truth_items, rows)
            for key in METRICS:
                name, _, k = key.partition("@")
                sums[key] += float(MEASURES[name](candidates, truth, int(k)).sum())
            users += len(rows)
            if health:
                batch = {name: torch.from_numpy(values) for name, values in queries.batch(rows).items()}
                with torch.inference_mode():
                    vectors, active = model.encode_users(batch)
                health.add(vectors.numpy(), active.numpy())
    return {
        **{key: value / users for key, value in sums.items()},
        "cosine": health.result()["pairwise_cosine_mean"] if health else None,
        "active": health.result()["active_mean"] if health else None,
        "best_epoch": checkpoint.info["best_epoch"],
        "epochs": checkpoint.info["epochs"],
        "valid": checkpoint.info["metric"],
        "samples_per_s": round(checkpoint.info["samples_per_s"]),
        "train_s": round(seconds),
    }


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("spec", type=Path)
    parser.add_argument("--lanes", type=int, default=2, help="trainings at a time")
    parser.add_argument("--data", nargs="*", default=[], help="overrides of [data] for every setting")
    parser.add_argument("--one", nargs=3, metavar=("RUN", "FEATURES", "OUT"), help=argparse.SUPPRESS)
    parser.add_argument("--set", action="append", default=[], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print("\n" + json.dumps(measure(args.one[0], args.set, args.one[1], args.one[2])))
        return
    spec = tomllib.loads(args.spec.read_text())
    results = ROOT / "benchmarks" / "results" / f"ablation-{args.spec.stem}.jsonl"
    rows = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    with tempfile.TemporaryDirectory(prefix="raysys-ablation-") as scratch:
        features = Path(scratch, "prepared")
        _prepare(spec["run"], args.data, features)
        _run_missing(spec, args, results, rows, features / "features", Path(scratch))
    print(table(spec, rows))


def _prepare(run_file: str, data: list[str], out: Path) -> None:
    overrides = [part for item in data for part in ("--set", item)]
    command = [sys.executable, str(ROOT / "jobs" / "prepare.py"), "--run", run_file, "--out", str(out)]
    subprocess.run([*command, *overrides], cwd=ROOT, check=True, capture_output=True)


def _run_missing(
    spec: dict[str, Any],
    args: argparse.Namespace,
    results: Path,
    rows: list[dict[str, Any]],
    features: Path,
    scratch: Path,
) -> None:
    done = {(row["setting"], row["seed"]) for row in rows}
    waiting = [
        (seed, name) for seed in spec["seeds"] for name in spec["settings"] if (name, seed) not in done
    ]
    running: list[tuple[str, int, subprocess.Popen[bytes]]] = []
    while waiting or running:
        while waiting and len(running) < args.lanes:
            seed, name = waiting.pop(0)
            out = scratch / f"{name}-{seed}"
            out.mkdir()
            overrides = [*args.data, *spec.get("all", []), *spec["settings"][name], f"training.seed={seed}"]
            command = [
                sys.executable,
                __file__,
                str(args.spec),
                "--one",
                spec["run"],
                str(features),
                str(out),
            ]
            command += [part for item in overrides for part in ("--set", item)]
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdout=(out / "log").open("w"),
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            running.append((name, seed, process))
        time.sleep(1)
        for name, seed, process in [entry for entry in running if entry[2].poll() is not None]:
            running.remove((name, seed, process))
            log = (scratch / f"{name}-{seed}" / "log").read_text()
            if process.returncode:
                sys.exit(f"{name}, seed {seed}: {log[-3000:]}")
            row = {"setting": name, "seed": seed, **json.loads(log.splitlines()[-1])}
            rows.append(row)
            with results.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(row, flush=True)


def table(spec: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """Return the Markdown table: mean and standard deviation over the seeds, per setting."""
    lines = [
        "| setting | " + " | ".join(METRICS) + " | cosine | best epoch | training |",
        "|---|" + "---|" * (len(METRICS) + 3),
    ]
    for name in spec["settings"]:
        own = [row for row in rows if row["setting"] == name]
        if not own:
            continue
        cells = [_cell([row[key] for row in own], 4) for key in METRICS]
        cosines = [row["cosine"] for row in own if row["cosine"] is not None]
        cells.append(_cell(cosines, 2) if cosines else "–")
        cells.append(f"{statistics.mean(row['best_epoch'] for row in own):.0f}")
        cells.append(f"{statistics.mean(row['train_s'] for row in own) / 60:.1f} min")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(values: list[float], digits: int) -> str:
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


if __name__ == "__main__":
    main()
