"""What the doctor does with item vectors and the index: reads them, searches, and hands it to the checks.

Shape suffixes: Q users, K interests, D vector.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysys.distributed.doctor_model import ModelExam
from raysys.distributed.doctor_reading import IdCounts, count_ids, read_vectors
from raysys.errors import RetrievalError
from raysys.evaluation.doctor import outcome_checks as outcomes
from raysys.evaluation.doctor import serving_checks as serving
from raysys.evaluation.doctor.check import Check, judged, not_checked
from raysys.evaluation.doctor.ranking import Block, Users, best_targets, scores_of, standing
from raysys.evaluation.doctor.serving_checks import SAME_VECTOR, Exported
from raysys.manifest import Manifest
from raysys.retrieval.candidates import Candidates
from raysys.retrieval.index import load_index
from raysys.schema import NUM_RESERVED
from raysys.seeds import generator
from raysys.storage import Folder

PROBED_ROWS = 24
PROBED_ITEMS = 10
"""Users and items whose scores are drawn out of the training loss."""
COMPARED = 20_000
"""Item vectors that are compared with the checkpoint."""
SEARCHES = 32
DEPTH = 50


class ServingExam:
    """The examination of what is served: `vectors/`, and `index/` where there is one."""

    def __init__(self, exam: ModelExam, out: Folder, index: Manifest | None) -> None:
        self.exam, self.vectors, self.folder, self.index = exam, out / "vectors", out / "index", index
        self.num_items = exam.reading.num_items
        queries = exam.tested.users.vectors[:SEARCHES, 0]
        self.queries = queries[np.isfinite(queries).all(axis=1)]

    def checks(self, counts: IdCounts) -> list[Check]:
        """Check item vectors, similarity, index and answers; counts the ids of vectors and answers."""
        exam, users = self.exam, self.exam.tested.users
        answers = self._search()
        answered = np.zeros(0, np.int64)
        if isinstance(answers, Candidates):
            answered = answers.item_idx[answers.item_idx != -1]
            counts["answers of index/"] = count_ids(answered, self.num_items)
        probed = self._probed_items()
        exported = self._scan(
            {*probed, *answered.tolist(), *(i for own in users.truth for i in own.tolist())}
        )
        counts["vectors/items.parquet"] = (exported.rows, exported.reserved)
        best = best_targets(users, exported.wanted)
        found = standing(users, best, self._blocks(), self.num_items)
        hits = exam.hits(found, best)
        return [
            serving.exported_vectors(exported),
            self._similarity(probed, exported),
            answers if isinstance(answers, Check) else self._order(answers, exported),
            outcomes.vectors_find_targets(hits, exam.chances(), exam.cutoff),
            *exam.user_checks(found, hits),
        ]

    def _blocks(self) -> Iterator[Block]:
        return ((item_idx, values) for item_idx, _, values in read_vectors(self.vectors))

    def _probed_items(self) -> list[int]:
        """Return a few items, popular and other ones, the most popular first."""
        draw = generator(self.exam.seed, "doctor", "items").integers(
            NUM_RESERVED, self.num_items, PROBED_ITEMS
        )
        popular = range(NUM_RESERVED, min(NUM_RESERVED + PROBED_ITEMS // 2, self.num_items))
        return list(dict.fromkeys([*popular, *draw.tolist()]))[:PROBED_ITEMS]

    def _similarity(self, items: list[int], exported: Exported) -> Check:
        exam, known = self.exam, [item for item in items if item in exported.wanted]
        if not exam.batches or len(known) < 2:
            return not_checked("training_similarity", "there are no training samples, or no vectors of items")
        rows = list(range(min(PROBED_ROWS, len(exam.batches[0]["target"]))))
        return serving.training_similarity(
            exam.model, exam.training.loss, exam.batches[0], rows, known, exported.wanted
        )

    def _scan(self, wanted: set[int]) -> Exported:
        """Read the exported vectors once: compare them with the checkpoint, and keep those wanted."""
        ids, kept = self.exam.reading.item_ids(), dict[int, np.ndarray]()
        rows = reserved = misplaced = not_finite = compared = differ = 0
        largest, seen = 0.0, np.zeros(self.num_items, bool)
        step, asked = max(1, self.num_items // COMPARED), np.array(sorted(wanted), np.int64)
        for item_idx, item_id, values in read_vectors(self.vectors):
            real = (item_idx >= NUM_RESERVED) & (item_idx < self.num_items)
            rows, reserved = rows + len(item_idx), reserved + int((~real).sum())
            misplaced += int((real & ~_has_id(item_idx, item_id, ids)).sum())
            not_finite += int((~np.isfinite(values)).any(axis=1).sum())
            seen[item_idx[real]] = True
            some = np.flatnonzero(real & (item_idx % step == 0))
            gap = serving.differences(values[some], self.exam.item_vectors(self.exam.model, item_idx[some]))
            compared, differ = compared + len(some), differ + int((gap > SAME_VECTOR).sum())
            largest = max(largest, float(gap.max(initial=0.0)))
            for row in np.flatnonzero(np.isin(item_idx, asked) & real).tolist():
                kept[int(item_idx[row])] = values[row]
        misplaced += int((~seen[NUM_RESERVED:]).sum())
        return Exported(rows, reserved, misplaced, not_finite, compared, differ, largest, kept)

    def _search(self) -> Candidates | Check:
        """Return what all shards answer, best first, one shard in memory at a time, or why there is none."""
        if self.index is None:
            return not_checked("index_order", "index/ is missing; run jobs/index.py")
        if not len(self.queries):
            return not_checked("index_order", "no user of the sample has a vector to search with")
        parts: list[Candidates] = []
        for shard in self.index.info["shards"]:
            try:
                local = load_index(self.folder, shard["name"])
                parts.append(local.search(self.queries, min(DEPTH, local.num_items)))
            except RetrievalError as error:
                remedy = "delete index/ and run jobs/index.py again"
                return judged(
                    "index_order", f"index/{shard['name']}", str(error), remedy, fault=True, figures={}
                )
        item_idx = np.concatenate([part.item_idx for part in parts], axis=1)
        score = np.concatenate([part.score for part in parts], axis=1)
        order = np.argsort(-score, axis=1, kind="stable")[:, :DEPTH]
        best = np.take_along_axis(item_idx, order, axis=1)
        return Candidates(best, np.take_along_axis(score, order, axis=1))

    def _order(self, answers: Candidates, exported: Exported) -> Check:
        assert self.index is not None
        queries = self.queries
        nothing = [np.zeros(0, np.int64)] * len(queries)
        asked = Users(queries[:, None], np.ones((len(queries), 1), bool), nothing, nothing)
        lowest = np.full(len(queries), np.inf)
        for row, items in enumerate(answers.item_idx):
            known = [exported.wanted[item] for item in items.tolist() if item in exported.wanted]
            if known:
                lowest[row] = scores_of(asked, np.stack(known), slice(row, row + 1)).min()
        lowest += serving.SLACK * np.maximum(1.0, np.abs(lowest))
        better = standing(asked, lowest, self._blocks(), self.num_items).above
        metric, kind = self.index.info["metric"], self.index.info["kind"]
        return serving.index_order(queries, answers, exported.wanted, better, metric, kind)


def _has_id(item_idx: np.ndarray, item_id: pa.Array, ids: pa.Array) -> np.ndarray:
    """Return (M,) bool: whether each row has the id that the vocabulary has at its item_idx."""
    known = ids.take(pa.array(np.clip(item_idx - NUM_RESERVED, 0, len(ids) - 1))).cast(pa.string())
    same = pc.fill_null(pc.equal(known, item_id.cast(pa.string())), False)
    return np.asarray(same.to_numpy(zero_copy_only=False))
