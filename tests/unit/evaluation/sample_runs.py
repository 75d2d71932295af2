"""Made-up finished runs of a grocery shop, as the tests of the report read them."""

import json
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from raysys.data.description import describe
from raysys.data.profile import held_out, profile_partition, with_held_out
from raysys.data.sequences import SessionConfig, build_windows
from raysys.data.splits import SplitConfig

ITEMS = [
    ("829437", "Cooking wines, 12.7 oz"),
    ("1082185", "Bananas"),
    ("995242", "Fluid milk, white only, 1 gal"),
    ("1029743", "Refrigerated orange juice drinks with added calcium and vitamin D, family size, 128 oz"),
    ("840361", "Large grade A eggs, 1 dz"),
    ("981760", "Chicken breast, boneless"),
    ("1127831", "Strawberries, 1 lb"),
    ("883404", "Yogurt, not multi-packs"),
    ("844179", "Lean ground beef, 3 lb"),
    ("1044078", "Shredded cheese, 8 oz"),
    ("1133018", "White bread, premium"),
    ("5569230", "Soft drinks, 12-pack cans"),
    ("1070820", "Potato chips, kettle style, sea salt & vinegar"),
    ("916122", "Dry cat food, indoor"),
    ("866211", "Cat litter, clumping, unscented, lightweight, 20 lb pail"),
    ("951590", "Baby diapers, size 4"),
    ("1106523", "Baby wipes, refill"),
    ("862349", "Tortilla chips"),
    ("899624", "Mexican seasoning mixes"),
    ("961554", "Carrots, mini peeled"),
]


def finished_run(
    folder: Path, model: str = "mind", scale: float = 1.0, seed: int = 3, **changes: Any
) -> Path:
    """Write every file of a finished run; `changes` replace keys of metrics.json. Return the folder."""
    draw = random.Random(seed)
    values = {
        "hit_rate@10": 0.1834,
        "hit_rate@50": 0.4127,
        "recall@10": 0.0421,
        "recall@50": 0.1312,
        "ndcg@10": 0.0713,
        "ndcg@50": 0.0988,
        "mrr": 0.0894,
        "coverage@10": 0.0812,
        "coverage@50": 0.2127,
    }
    popular = {
        "hit_rate@10": 0.1121,
        "hit_rate@50": 0.3302,
        "recall@10": 0.0274,
        "recall@50": 0.1004,
        "ndcg@10": 0.0463,
        "ndcg@50": 0.0721,
        "mrr": 0.0861,
        "coverage@10": 0.0011,
        "coverage@50": 0.0048,
    }
    chance = {
        "hit_rate@10": 0.0041,
        "hit_rate@50": 0.0197,
        "recall@10": 0.0007,
        "recall@50": 0.0034,
        "ndcg@10": 0.0012,
        "ndcg@50": 0.0021,
        "mrr": 0.0019,
        "coverage@10": 0.8911,
        "coverage@50": 1.0,
    }
    metrics = {key: value * scale for key, value in values.items()}
    intervals = {k: [v - 0.012 * (1 + v), v + 0.012 * (1 + v)] for k, v in metrics.items() if "cov" not in k}

    def bucket(users: int, factor: float) -> dict[str, Any]:
        return {
            "users": users,
            "hit_rate@10": 0.1834 * factor,
            "recall@50": 0.1312 * factor,
            "ndcg@10": 0.0713 * factor,
        }

    table = {
        "model": model,
        "part": "test",
        "protocol": {
            "split": "leave_one_out",
            "filter_seen": True,
            "candidates": 9817,
            "queries": 2214,
            "history_length": 50,
            "tie_break": "item_idx",
            "data_digest": "9f0c1d2e3b4a5968",
        },
        "metrics": metrics,
        "intervals": intervals,
        "baselines": {"random": chance, "popular": popular},
        "interests": {
            "active_mean": 3.4,
            "pairwise_cosine_mean": 0.231,
            "routing_entropy_mean": 0.61,
            "wins": [0.38, 0.27, 0.21, 0.14],
            "users": 2214,
            "cutoff": 10,
            "recall_by_interests": [0.0305, 0.0377, 0.0402, 0.0421],
            "hit_rate_by_interests": [0.1312, 0.1633, 0.1621, 0.1834],
        },
        "index": {
            "kind": "flat",
            "shards": 2,
            "metric": "inner_product",
            "recall_vs_exact@50": 1.0,
            "queries_per_s": 5120.4,
        },
        "slices": {
            "user_activity": {
                "5 to 19 behaviours": bucket(611, 0.7),
                "20 to 49": bucket(902, 1.0),
                "50 and more": bucket(701, 1.3),
            },
            "item_popularity": {
                "head (top 1 %)": bucket(702, 1.9),
                "middle": bucket(1490, 0.6),
                "tail (last 50 %)": bucket(22, 0.1),
            },
        },
        "training": {"samples": 118204, "samples_per_s": 21034.8, "epochs": 12, "seed": 1, "workers": 2},
        "lineage": {
            "run_digest": "1f2e3d4c5b6a7988",
            "features_digest": "0a1b2c3d4e5f6071",
            "code_version": "0.1.0",
        },
        **changes,
    }
    _write(folder / "evaluation/metrics.json", table)
    _write(folder / "evaluation/users.json", {"users": [_user(draw, place) for place in range(8)]})
    curve = [
        {
            "epoch": e,
            "step": e * 231,
            "samples": e * 118204,
            "train_s": e * 5.61,
            "train/loss": 7.9 * 0.93**e + 1.2,
            "valid/ndcg@10": 0.072 - 0.0009 * (e - 9) ** 2 * (0.4 if e > 9 else 0.7),
            "valid/hit_rate@10": 0.19 - 0.002 * (e - 9) ** 2 / 3,
            "health/active": 3.4,
            "health/pairwise_cosine": 0.25 + 0.74 * 0.6**e + (0.3 if e == 1 else 0),
            "health/routing_entropy": 0.6 + 0.3 * 0.8**e,
            **{f"health/wins_{i}": share for i, share in enumerate(_shares(e), 1)},
            **{f"health/recall_with_{i}": 0.03 * (1 - 0.8**e) * i**0.2 for i in range(1, 5)},
        }
        for e in range(1, 13)
    ]
    _write(folder / "checkpoint/state.json", {"curve": curve, "best_epoch": 8, "stopped": "patience"})
    (folder / "checkpoint/run.toml").write_text(
        f'[data]\nevents = "s3://key:secret@shop/log.parquet"\n\n'
        f'[model]\nname = "{model}"\nnum_interests = 4\n\n'
        '[training]\nmetric = "ndcg@10"\nepochs = 30\n'
    )
    info = {
        "events": 187402,
        "users": 2214,
        "items": 9817,
        "sessions": 41200,
        "rows": 199884,
        "samples": 118204,
        "queries": {"valid": 2214, "test": 2214},
        "rejected": {"no_item": 31, "bad_time": 4, "duplicate": 612},
        "dropped": {"other_event": 11835},
        "data_digest": "9f0c1d2e3b4a5968",
        "split": {"kind": "leave_one_out", "unit": "session", "filter_seen": True},
        "session": {"gap_s": 600, "max_items": 50},
    }
    _write(folder / "features/manifest.json", {"kind": "features", "info": info})
    return folder


def with_profile(run: Path, *mistakes: dict[str, str], by_column: bool = False) -> Path:
    """Write features/profile.json of a year of made-up visits, by the package's own hands."""
    draw = np.random.default_rng(5)
    sizes = draw.geometric(0.05, 300)
    offsets = np.append(0, np.cumsum(sizes)).astype(np.int64)
    steps = np.where(draw.random(offsets[-1]) < 0.2, draw.integers(1, 40 * 86_400, offsets[-1]), 30)
    at = 1_489_000_000 + np.concatenate([np.cumsum(steps[a:b]) for a, b in pairwise(offsets)])
    item = draw.zipf(1.4, len(at)) % 200
    session = SessionConfig(by_column=by_column)
    windows = build_windows(
        offsets, at, None, np.arange(300, dtype=np.uint64), SessionConfig(), SplitConfig()
    )
    counts = np.bincount(item[windows.role == 0], minlength=200)
    total = profile_partition(
        offsets=offsets,
        users=pa.array([str(user) for user in range(300)]),
        at=at,
        time_ns=at * 10**9,
        item=item,
        num_items=200,
        session=windows.session,
        role=windows.role,
        config=session,
        event=pa.array(["buy", "view", None, "buy"] * (len(at) // 4)),
        nulls={"store": 17},
    )
    total = with_held_out(total, [held_out(item, windows.role, counts)])
    info = json.loads((run / "features/manifest.json").read_text())["info"]
    counted = {**info, "train_events": 150_000}
    profile = describe(total, counts, session, {"store": 42})
    table = {"likely_mistakes": list(mistakes), "counts": counted, **profile}
    _write(run / "features/profile.json", table)
    return run


def _shares(epoch: int) -> list[float]:
    """Return who wins: one interest at first, all of them later."""
    late = 1 - 0.7**epoch
    return [1 - 0.62 * late, 0.27 * late, 0.21 * late, 0.14 * late]


def _user(draw: random.Random, place: int) -> dict[str, Any]:
    history = [
        (*draw.choice(ITEMS), 1_489_000_000 + 86_400 * 3 * step) for step in range(draw.randint(6, 26))
    ]
    couplings = []
    for item_id, _, _ in history:
        raw = [0.05 + draw.random() * 0.15 for _ in range(4)]
        raw[int(item_id) % 4] += 0.9
        couplings.append([weight / sum(raw) for weight in raw])
    picks = [draw.sample(ITEMS, 5) for _ in range(4)]
    shown = draw.sample(ITEMS, 10)
    targets = [shown[3], *(item for item in ITEMS if item not in shown)][: 1 + place % 3]
    hits = {item_id for item_id, _ in targets}
    return {
        "user_id": str(12 + 97 * place),
        "history": [{"item_id": item_id, "title": title, "at": at} for item_id, title, at in history],
        "couplings": couplings,
        "active": [True, True, place % 3 != 1, place % 2 == 0],
        "interests": [[_scored(item, 0.9 - 0.07 * rank) for rank, item in enumerate(pick)] for pick in picks],
        "recommendations": [
            {**_scored(item, 0.93 - 0.03 * rank), "hit": item[0] in hits} for rank, item in enumerate(shown)
        ],
        "targets": [
            {"item_id": item_id, "title": title, "rank": 4 if (item_id, title) == shown[3] else None}
            for item_id, title in targets
        ],
    }


def _scored(item: tuple[str, str], score: float) -> dict[str, Any]:
    return {"item_id": item[0], "title": item[1], "score": score}


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
