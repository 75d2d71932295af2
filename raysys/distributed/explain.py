"""What the report shows of single users (their behaviours, how these couple to interests, what each interest
finds), and of each interest over all users."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from raysys.catalog import Catalog
from raysys.data.hashing import hash_text
from raysys.data.queries import Queries, read_queries
from raysys.data.shapes import EVENT, ITEM
from raysys.data.vocabulary import Vocabulary
from raysys.distributed.checkpoints import Trained, catalog_of
from raysys.distributed.measure import make_lists
from raysys.distributed.tables import answer_from_table
from raysys.distributed.validation import ragged_rows, retrieve
from raysys.evaluation.interest_content import InterestContent, category_shares
from raysys.manifest import read_manifest
from raysys.models.contract import Batch, FusionModel, InterestModel
from raysys.retrieval.table import TableRetriever
from raysys.retrieval.vectors import VectorRetriever, serving
from raysys.run import RunConfig
from raysys.schema import NUM_RESERVED
from raysys.storage import Folder

PER_INTEREST = 5
SHOWN = 10
SHOWN_HISTORY = 50
"""Events shown of a user whose model reads no plain history."""
PER_SET = 8
MIN_HISTORY = 8


def explain_users(run: RunConfig, out: Folder, trained: Trained, index: Any) -> list[dict[str, Any]]:
    """Return `evaluation.sample_users` users with at least a few behaviours, always the same ones.

    The users are those with the smallest hash of their id in the first partition, so a sample is fair and
    stable.
    """
    features = out / "features"
    manifest = read_manifest(features, "features", "prepare")
    names = item_names(features)
    parts = sorted(manifest.info["part_events"])
    catalog, shown = catalog_of(features, manifest), list[dict[str, Any]]()
    shown_history = trained.shape.history_length or SHOWN_HISTORY
    timed = dataclasses.replace(trained.shape, times=True, history_length=shown_history)
    labels = set_labels(trained, features, names)
    for part in parts:
        queries = read_queries(features, part, run.evaluation.part, timed)
        long_enough = queries.history.stop - queries.history.start >= MIN_HISTORY
        order = np.argsort(hash_text(queries.user_id), kind="stable")
        rows = order[long_enough[order]][: run.evaluation.sample_users - len(shown)]
        shown += [_explain(int(row), queries, run, trained, index, names, catalog, labels) for row in rows]
        if len(shown) >= run.evaluation.sample_users:
            break
    return shown


def item_names(features: Folder) -> list[list[Any]]:
    """Return the ids of all items and their titles, by item_idx."""
    with features.open_input("items.parquet") as file:
        items = pq.read_table(file, columns=["item_id", "title"])
    return [items.column("item_id").to_pylist(), items.column("title").to_pylist()]


def value_names(features: Folder, vocabulary: str) -> list[str]:
    """Return the names of the values of a categorical feature, by idx, the reserved ones too."""
    known = Vocabulary.load(features / "vocabularies", vocabulary)
    return ["none", "unknown", *map(str, known.ids.to_pylist())]


def describe_interests(content: InterestContent, run: RunConfig, out: Folder) -> dict[str, Any]:
    """Return what every interest retrieves, in words: `cutoff`, `category` (the item feature, "" for none),
    `events` (its shares in the training events), `interests`, see `InterestContent.result`.

    The category is `evaluation.diversity_category`, else the categorical feature of the fewest values, as
    few are read more easily than many.
    """
    features = out / "features"
    manifest = read_manifest(features, "features", "prepare")
    catalog, (ids, titles) = catalog_of(features, manifest), item_names(features)
    name = run.evaluation.diversity_category
    known = [feature for feature in catalog.item_features if feature.kind != "number"]
    if not name and known:
        name = min(known, key=lambda feature: feature.size).name
    values, labels = np.zeros((catalog.num_items, 1), np.int64), ["none"]
    if name:
        values = catalog.item_values[name].reshape(catalog.num_items, -1).astype(np.int64)
        labels = value_names(features, f"item_{name}")
    told = content.result(values, labels)
    for interest in told:
        interest["top"] = [
            {"item_id": ids[place], "title": titles[place], "share": share}
            for place, share in interest["top"]
        ]
    events = category_shares(values[NUM_RESERVED:], catalog.item_counts[NUM_RESERVED:], labels)
    return {"cutoff": content.cutoff, "category": name, "events": events, "interests": told}


def _explain(
    row: int,
    queries: Queries,
    run: RunConfig,
    trained: Trained,
    index: Any,
    names: list[list[Any]],
    catalog: Catalog,
    labels: dict[str, list[str]],
) -> dict[str, Any]:
    rows = np.array([row])
    arrays = queries.batch(rows)
    batch = {name: torch.from_numpy(values) for name, values in arrays.items()}
    history, at = arrays["history"][0], arrays["history_at"][0]
    if isinstance(index, TableRetriever):
        found = answer_from_table(trained, queries, rows, run, index, run.evaluation.search_depth)
    else:
        found = retrieve(
            VectorRetriever(trained.model, index), queries, rows, run, run.evaluation.search_depth
        )
    found = make_lists(found, catalog, run.evaluation)
    _, truth = ragged_rows(queries.truth_offsets, queries.truth_items, rows)
    ranks = {int(item): rank + 1 for rank, item in enumerate(found.item_idx[0]) if item >= 0}

    def item(idx: int, **more: Any) -> dict[str, Any]:
        return {"item_id": names[0][idx], "title": names[1][idx], **more}

    couplings: list[list[float]] | None = None
    active, interests = list[bool](), list[list[dict[str, Any]]]()
    if not isinstance(index, TableRetriever):
        couplings, active, interests = _interests(trained.model, batch, index, item)
    drivers = _drivers(trained.model, batch, item, labels) if isinstance(trained.model, FusionModel) else None
    targets = {int(i) for i in truth}
    return {
        "user_id": queries.user_id[row].as_py(),
        "history": [item(int(i), at=int(t)) for i, t in zip(history, at, strict=True) if i > 0],
        "couplings": couplings,
        "active": active,
        "interests": interests,
        "drivers": drivers,
        "recommendations": [
            item(int(i), score=float(s), hit=int(i) in targets)
            for i, s in zip(found.item_idx[0][:SHOWN], found.score[0][:SHOWN], strict=True)
            if i >= 0
        ],
        "targets": [item(i, rank=ranks.get(i)) for i in sorted(targets)],
    }


def _interests(
    model: Any, batch: Batch, index: Any, item: Callable[..., dict[str, Any]]
) -> tuple[list[list[float]] | None, list[bool], list[list[dict[str, Any]]]]:
    """Return of one user the couplings of the behaviours, which interests are active, and what each finds."""
    with torch.inference_mode():
        vectors, active = model.encode_users(batch)
        couplings = None
        if isinstance(model, InterestModel):
            couplings = model.couplings(batch)[0].numpy()[batch["history"][0].numpy() > 0].round(4).tolist()
    on = active[0].numpy()
    interests: list[list[dict[str, Any]]] = [[] for _ in on]
    if on.any():
        answer = index.search(
            np.ascontiguousarray(vectors[0].numpy()[on]), min(PER_INTEREST, index.num_items)
        )
        for k, item_idx, score in zip(np.flatnonzero(on), answer.item_idx, answer.score, strict=True):
            interests[k] = [
                item(int(i), score=float(s)) for i, s in zip(item_idx, score, strict=True) if i >= 0
            ]
    return couplings, on.tolist(), interests


def set_labels(trained: Trained, features: Folder, names: list[list[Any]]) -> dict[str, list[str]]:
    """Return for each long-term set of a model the names of its values, by idx."""
    labels: dict[str, list[str]] = {}
    for name in trained.shape.long_features:
        if name == ITEM:
            ids, titles = names
            labels[name] = [str(title or item_id) for item_id, title in zip(ids, titles, strict=True)]
        else:
            stored = name if name.startswith(EVENT) else f"item_{name}"
            labels[name] = value_names(features, stored)
    return labels


def _drivers(
    model: FusionModel, batch: Batch, item: Callable[..., dict[str, Any]], labels: dict[str, list[str]]
) -> dict[str, Any]:
    """Return of one user what drove the vector: the session with weights, the heaviest values of each
    long-term set, and the gate."""
    with serving(model):
        found = {name: values[0].float().numpy() for name, values in model.fusion(batch).items()}
    result: dict[str, Any] = {"gate": float(found["gate"]) if "gate" in found else None}
    if "short" in found:
        items, times = batch["short"][0].tolist(), batch["short_at"][0].tolist()
        steps = zip(items, times, found["short"].tolist(), strict=True)
        result["short"] = [item(i, at=at, weight=weight) for i, at, weight in steps if i > 0]
    result["long"] = {}
    for name, known in labels.items():
        values, weights = batch[f"long_{name}"][0].numpy(), found[f"long_{name}"]
        order = [place for place in np.argsort(-weights, kind="stable") if values[place] > 0]
        result["long"][name] = {
            "values": len(order),
            "top": [
                {"name": known[values[place]], "weight": float(weights[place])} for place in order[:PER_SET]
            ],
        }
    return result
