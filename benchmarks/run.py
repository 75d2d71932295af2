"""Run every benchmark, print one table of ratios with the goal beside each, and write results/latest.json.

    python benchmarks/run.py [NAME ...]

A benchmark is a function of a module of this folder that is listed in BENCHMARKS. It returns a figure per
round; the median is reported. A ratio compares two ways of doing the same work within one round, so a busy
machine bends both.
"""

import argparse
import datetime
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import diversity, evaluation, peers, plan, prepare, search, train


@dataclass(frozen=True)
class Benchmark:
    """A figure to be measured: the goal, and how (each call is one round)."""

    name: str
    goal: float
    higher_is_better: bool
    rounds: int
    measure: Callable[[], float]


BENCHMARKS = (
    Benchmark("prepare_kernel_vs_polars", 1.05, True, 3, prepare.kernel),
    Benchmark("windows_kernel_vs_polars", 1.3, True, 3, prepare.windows),
    Benchmark("prepare_10m_cold_vs_polars", 0.4, True, 3, lambda: prepare.cold(10)),
    Benchmark("prepare_30m_warm_vs_polars", 0.9, True, 3, lambda: prepare.warm(30)),
    Benchmark("prepare_30m_peak_gb", 4.0, False, 1, lambda: prepare.peak_gb(30)),
    Benchmark("train_mind_steady_vs_plain", 0.95, True, 3, train.steady_vs_plain),
    Benchmark("train_mind_epoch_vs_plain", 0.9, True, 3, train.epoch_vs_plain),
    Benchmark("train_mind_two_workers_vs_one", 1.6, True, 3, train.two_workers_vs_one),
    Benchmark("train_mind_two_workers_vs_one_each", 1.6, True, 3, train.two_workers_vs_one_each),
    Benchmark("train_mind_two_workers_vs_one_1024", 1.6, True, 3, train.two_workers_vs_one_small),
    Benchmark("train_sdm_steady_vs_plain", 0.8, True, 3, train.sdm_steady_vs_plain),
    Benchmark("train_sdm_panel_vs_plain", 0.8, True, 3, lambda: train.sdm_steady_vs_plain("panel")),
    Benchmark("train_mind_vs_torch_rechub", 5.0, True, 3, lambda: peers.against("torch_rechub")),
    Benchmark("train_mind_vs_deepmatch", 2.8, True, 3, lambda: peers.against("deepmatch")),
    Benchmark("search_exact_vs_faiss_flat", 2.5, True, 3, search.exact_vs_faiss_flat),
    Benchmark("search_sharded_vs_single", 0.9, True, 3, lambda: search.sharded_vs_single(64)),
    Benchmark("search_sharded_vs_single_batch_1", 0.0, True, 3, lambda: search.sharded_vs_single(1)),
    Benchmark("search_sharded_vs_single_batch_1024", 0.9, True, 3, lambda: search.sharded_vs_single(1024)),
    Benchmark("search_100k_users_1m_items_s", 900.0, False, 1, lambda: search.many_users(False)[0]),
    Benchmark("search_100k_users_1m_items_peak_gb", 4.0, False, 1, lambda: search.many_users(False)[1]),
    Benchmark("search_100k_users_1m_items_ivf_s", 300.0, False, 1, lambda: search.many_users(True)[0]),
    Benchmark("search_100k_users_1m_items_ivf_recall", 0.9, True, 1, lambda: search.many_users(True)[2]),
    Benchmark("evaluate_ml1m_s", 3.0, False, 3, evaluation.ml1m_s),
    Benchmark("diversify_ml1m_s", 2.0, False, 3, diversity.ml1m_s),
    # 0.8: predicted within 20 % of what is measured
    Benchmark("plan_features_counts", 0.8, True, 1, plan.features_counts),
    Benchmark("plan_features_disk", 0.8, True, 1, plan.features_disk),
    Benchmark("plan_prepare_memory", 0.8, True, 1, plan.prepare_memory),
    Benchmark("plan_index_file", 0.8, True, 1, lambda: plan.index_bytes("file")),
    Benchmark("plan_index_resident", 0.8, True, 1, lambda: plan.index_bytes("resident")),
    Benchmark("plan_index_loading", 0.8, True, 1, lambda: plan.index_bytes("loading")),
    Benchmark("plan_training_memory", 0.8, True, 3, plan.training_memory),
    Benchmark("plan_training_node_memory", 0.8, True, 3, plan.training_node_memory),
    Benchmark("plan_mind_samples_per_s", 0.8, True, 3, lambda: plan.speed("mind")),
    Benchmark("plan_mind_samples_per_s_two_workers", 0.8, True, 3, lambda: plan.speed("mind", 2)),
    Benchmark("plan_sdm_samples_per_s", 0.8, True, 3, lambda: plan.speed("sdm")),
)


def main(argv: list[str] | None = None) -> int:
    """Measure what is named, or all, and return 0, or 1 where the peers to compare with are missing."""
    parser = argparse.ArgumentParser(prog="benchmarks/run.py", description=__doc__)
    parser.add_argument("names", nargs="*", help="benchmarks to run (default: all)")
    names = parser.parse_args(argv).names
    known = {benchmark.name: benchmark for benchmark in BENCHMARKS}
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"error: no benchmark {', '.join(unknown)}; known: {', '.join(known)}", file=sys.stderr)
        return 2
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    results: list[dict[str, object]] = []
    missing: list[str] = []
    print(f"{'benchmark':34} {'median':>8} {'goal':>8}  rounds")
    for name in names or known:
        benchmark = known[name]
        try:
            figures = [round(benchmark.measure(), 4) for _ in range(benchmark.rounds)]
        except peers.NoPeersError as error:
            print(f"error: {name}: {error}", file=sys.stderr)
            missing.append(name)
            continue
        median = statistics.median(figures)
        sign = ">=" if benchmark.higher_is_better else "<="
        print(f"{name:34} {median:8.3f} {sign}{benchmark.goal:6.2f}  {figures}", flush=True)
        results.append(
            {
                "name": name,
                "ratio": median,
                "goal": benchmark.goal,
                "higher_is_better": benchmark.higher_is_better,
                "runs": figures,
                "command": f"python benchmarks/run.py {name}",
                "commit": commit.stdout.strip(),
                "date": datetime.date.today().isoformat(),
            }
        )
    target = ROOT / "benchmarks" / "results" / "latest.json"
    target.parent.mkdir(exist_ok=True)
    kept = json.loads(target.read_text()) if names and target.exists() else []
    done = {result["name"] for result in results}
    target.write_text(json.dumps([*(r for r in kept if r["name"] not in done), *results], indent=1) + "\n")
    return int(bool(missing))


if __name__ == "__main__":
    sys.exit(main())
