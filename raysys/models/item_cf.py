"""Item-based collaborative filtering: the items most like those of the recent history, by shared users.

Deshpande and Karypis 2004, "Item-based top-N recommendation algorithms" (ACM TOIS 22:1). With r_iu the events
of user u with item i in training, N items, n_u distinct items of user u, and L_i = sum over u of r_iu:

    idf_u = log(N / (1 + n_u))
    cosine   w_iu = r_iu / |r_i|                                          s_ij = sum over u of w_iu w_ju
    tf_idf   w_iu = x_iu / |x_i|,  x_iu = sqrt(r_iu) idf_u                s_ij = sum over u of w_iu w_ju
    bm25     w_iu = idf_u r_iu (k1 + 1) / (r_iu + k1 (1 - b + b L_i / mean L))     s_ij likewise
    score(u, j) = sum over seeds e of decay^(events after e) s_{item of e, j}

The weights are those of Robertson and Zaragoza 2009, "The Probabilistic Relevance Framework: BM25 and
Beyond", with an item in the place of a document and a user in that of a term, in the form of the library
implicit (`tfidf_weight`, `bm25_weight`). An item is a neighbour of itself: s_ii is 1 for the cosines, and for
bm25, which has no upper end, the sum as above. That counts where repeats are allowed; elsewhere seeds are
seen and drop out of the answer.

Deviations: rows are not scaled to sum one (Deshpande and Karypis, sec. 4.3); seeds decay, which the preset
`paper` leaves out; similarities that are not above zero are no neighbours.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from raysys.data.interactions import Interactions, Rows
from raysys.data.sequences import SessionConfig
from raysys.data.shapes import SampleShape
from raysys.models.item_cf_config import ItemCfConfig
from raysys.schema import NUM_RESERVED

_TERMS = 2**20
"""Products that are in memory at once."""
_SPARSE = 4
"""A row with so many times fewer products than there are items is not searched as a whole."""


class ItemCf:
    """A `contract.RowModel` whose sources are items."""

    source: Literal["item", "user"] = "item"

    def __init__(self, config: ItemCfConfig) -> None:
        self.config = config

    @staticmethod
    def samples(config: ItemCfConfig, session: SessionConfig) -> SampleShape:
        """Return the shape of queries; a counting model has no training batches."""
        return SampleShape(history_length=config.history_length, profile_features=())

    def weigh(self, seen: Interactions) -> Interactions:
        """Return the matrix with w_iu (float64) in the place of the weights r_iu; counts and times are left
        out.
        """
        items = np.repeat(np.arange(len(seen.by_item)), np.diff(seen.by_item.offsets))
        by_item = self._weights(seen, seen.by_item, items, seen.by_item.columns)
        users = np.repeat(np.arange(len(seen.by_user)), np.diff(seen.by_user.offsets))
        by_user = self._weights(seen, seen.by_user, seen.by_user.columns, users)
        if self.config.similarity != "bm25":
            squares = np.bincount(items, by_item**2, minlength=len(seen.by_item))
            length = np.sqrt(np.where(squares > 0, squares, 1.0))
            by_item, by_user = by_item / length[items], by_user / length[seen.by_user.columns]
        return Interactions(_reweighted(seen.by_user, by_user), _reweighted(seen.by_item, by_item))

    def _weights(self, seen: Interactions, cells: Rows, items: np.ndarray, users: np.ndarray) -> np.ndarray:
        """Return w_iu of some cells, before the cosines' division by the length."""
        counts = cells.weight.astype(np.float64)
        if self.config.similarity == "cosine":
            return counts
        num_items = len(seen.by_item) - NUM_RESERVED
        idf = np.log(num_items / (1.0 + np.diff(seen.by_user.offsets)))[users]
        if self.config.similarity == "tf_idf":
            return np.sqrt(counts) * idf
        k1, b = self.config.bm25_k1, self.config.bm25_b
        totals = np.zeros(len(seen.by_item))
        np.add.at(totals, seen.by_user.columns, seen.by_user.weight.astype(np.float64))
        norm = 1.0 - b + b * totals / max(totals[NUM_RESERVED:].mean(), 1e-12)
        return counts * (k1 + 1.0) / (k1 * norm[items] + counts) * idf

    def rows(self, seen: Interactions, block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the neighbours of some items and their similarities; see `contract.RowModel`.

        A row's products are added in the order of the users, so it does not depend on the block that it is
        computed in. Memory is one float64 per item and the products of `_TERMS` cells.
        """
        width = self.config.num_neighbours + 1
        item_idx = np.full((len(block), width), -1, np.int64)
        score = np.full((len(block), width), -np.inf, np.float32)
        sums = np.zeros(len(seen.by_item))
        for row, source in enumerate(block.tolist()):
            if source < NUM_RESERVED:
                continue
            touched = _add_products(seen, source, sums)
            found = self._neighbours(source, touched, sums[touched])
            item_idx[row, : len(found[0])], score[row, : len(found[0])] = found
            sums[touched] = 0.0
        return item_idx, score

    def _neighbours(self, source: int, items: np.ndarray, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the kept neighbours of a source and itself, best first, ties by item_idx."""
        similarity = sums.astype(np.float32)
        usable = (similarity > 0) & (items >= NUM_RESERVED)
        other = usable & (items != source)
        items_kept, kept = _best(items[other], similarity[other], self.config.num_neighbours)
        if self.config.similarity == "bm25":
            own = similarity[usable & (items == source)]
        else:
            own = np.ones(1, np.float32)
        items_kept = np.concatenate([items_kept, np.full(len(own), source)])
        return _best(items_kept, np.concatenate([kept, own]), len(items_kept))

    def seeds(self, batch: Mapping[str, Any]) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
        """Return the seeds of some queries, see `contract.RowModel`: the items of `history`, those that count
        less first."""
        history_BT = np.asarray(batch["history"])
        query, place = np.nonzero(history_BT >= NUM_RESERVED)
        offsets = np.searchsorted(query, np.arange(len(history_BT) + 1))
        weights = self.config.decay ** (history_BT.shape[1] - 1.0 - place)
        return (offsets.astype(np.int64), history_BT[query, place].astype(np.int64)), weights


def _reweighted(rows: Rows, weight: np.ndarray) -> Rows:
    return dataclasses.replace(rows, weight=weight, count=rows.count[:0], at=rows.at[:0])


def _add_products(seen: Interactions, source: int, sums: np.ndarray) -> np.ndarray:
    """Add the products of a source with every item to `sums` and return the items that it may have changed,
    ascending."""
    cells = slice(seen.by_item.offsets[source], seen.by_item.offsets[source + 1])
    users, weight = seen.by_item.columns[cells], seen.by_item.weight[cells]
    sizes = seen.by_user.offsets[users + 1] - seen.by_user.offsets[users]
    piece = np.cumsum(sizes) // _TERMS
    cuts = [0, *(np.flatnonzero(np.diff(piece)) + 1).tolist(), len(users)]
    items = np.zeros(0, np.int64)
    for start, stop in itertools.pairwise(cuts):
        starts, places = seen.by_user.positions(users[start:stop])
        items = seen.by_user.columns[places].astype(np.int64)
        np.add.at(sums, items, np.repeat(weight[start:stop], np.diff(starts)) * seen.by_user.weight[places])
    if len(cuts) == 2 and len(items) * _SPARSE < len(sums):
        return np.unique(items)
    return np.flatnonzero(sums)


def _best(items: np.ndarray, score: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the k best items by (score down, item_idx up)."""
    if len(items) > k:
        least = np.partition(score, len(score) - k)[len(score) - k]
        kept = score >= least
        items, score = items[kept], score[kept]
    order = np.lexsort((items, -score))[:k]
    return items[order], score[order]
