"""Exact search in NumPy, and the one formula by which an exact score is computed.

A matrix product rounds differently with the shape of its blocks, so its scores depend on how items are split
over shards, and two equal items can come out in either order. Here the product only *selects*: whatever lies
within its rounding error of the k-th place is scored again by `pair_scores`, whose result depends on the two
vectors alone. The answer is therefore the exact top k under one fixed formula, the same bits for every split,
block size, thread count and exact index.
"""

from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from raysys.errors import RetrievalError
from raysys.retrieval.candidates import (
    MAX_ITEM_IDX,
    Candidates,
    FloatArray,
    IntArray,
    missing_candidates,
    rank_top_k,
)
from raysys.schema import NUM_RESERVED

Product = Literal["inner_product", "l2"]
"""What two vectors are compared by once they are stored: each kind of search knows these two."""

Metric = Literal["inner_product", "cosine", "l2"]
"""What a user of an index asks for. "cosine" is the inner product of vectors scaled to length one."""

Real = TypeVar("Real", np.float32, np.float64)

_QUERY_BLOCK = 256
_SCORE_BLOCK = 2**21
_FIRST_ITEM_BLOCK = 4096
_PAIR_BLOCK = 2**9
_ROUNDING = 2.0**-24
_LARGEST_VALUE = 1e15


def product_of(metric: Metric) -> Product:
    """Return what the vectors that `comparable` gives are compared by."""
    return "l2" if metric == "l2" else "inner_product"


def comparable(vectors: FloatArray, metric: Metric) -> FloatArray:
    """Return queries or item vectors as they are compared: for "cosine" scaled to length one, else unchanged.

    A row's bits depend on that row alone, as lengths are added up in the fixed tree of `pair_scores`, in
    float64: neither the batch nor the shard shows. A zero vector stays zero, so its cosine with anything is
    0, never NaN.

    Args:
        vectors: (N, D) float32, finite.
        metric: of the index.
    Returns:
        (N, D) float32; lengths are one up to rounding, so a cosine can exceed 1 by about 1e-7.
    """
    if metric != "cosine":
        return vectors
    scaled = np.empty_like(vectors)
    for start in range(0, len(vectors), _PAIR_BLOCK):
        piece = slice(start, start + _PAIR_BLOCK)
        wide = vectors[piece].astype(np.float64)
        lengths = np.sqrt(_tree_sum(wide * wide))
        scaled[piece] = wide / np.where(lengths > 0, lengths, 1.0)[:, None]
    return scaled


def pair_scores(
    queries: FloatArray, vectors: FloatArray, rows: IntArray, columns: IntArray, metric: Product
) -> FloatArray:
    """Return the score of each pair (queries[rows[p]], vectors[columns[p]]).

    The terms are added in a fixed tree of element-wise additions, each rounded by IEEE rules on its own, so a
    pair has the same bits in every batch. A dot product or einsum may add in another order in another batch.

    Args:
        queries: (Q, D) float32.
        vectors: (N, D) float32.
        rows, columns: (P,) int64.
        metric: "l2" gives the negative squared distance.
    Returns:
        (P,) float32, larger is better.
    """
    scores = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), _PAIR_BLOCK):
        piece = slice(start, start + _PAIR_BLOCK)
        terms = np.take(queries, rows[piece], axis=0, mode="clip")  # "clip" saves a pass over the numbers
        others = np.take(vectors, columns[piece], axis=0, mode="clip")
        if metric == "l2":
            terms -= others
            terms *= terms
        else:
            terms *= others
        scores[piece] = _tree_sum(terms)
    return -scores if metric == "l2" else scores


def _tree_sum(terms: NDArray[Real]) -> NDArray[Real]:
    width = terms.shape[1]
    while width > 16:
        half = width // 2
        if width % 2:
            terms[:, :half] += terms[:, half + 1 : width]
        else:
            # the same bits as in place, and the next turn reads half as much
            terms = np.add(terms[:, :half], terms[:, half:width])
        width -= half
    # The same tree goes on with pairs last: an inner loop over few columns would cost more than the adding.
    columns = np.ascontiguousarray(terms[:, :width].T)
    while width > 1:
        half = width // 2
        columns[:half] += columns[width - half : width]
        width -= half
    return columns[0]


def vector_norms(vectors: FloatArray) -> NDArray[np.float64]:
    """Return the (N,) float64 lengths of (N, D) vectors."""
    return np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))


def score_error(
    query_norms: NDArray[np.float64], largest_norm: float, dim: int, metric: Product
) -> NDArray[np.float64]:
    """Return for each query how far a product's score and `pair_scores` can lie apart, by the standard bound.

    The bound of a float32 sum of D products in any order is D * 2^-24 * |q| * |x| to first order (Higham
    2002, "Accuracy and Stability of Numerical Algorithms", sec. 3.1); it is taken twice, once for each side,
    with a few roundings to spare. For "l2" the product is 2 q.x - |x|^2 - |q|^2 and the bound has (|q| +
    |x|)^2.
    """
    size = query_norms * largest_norm if metric == "inner_product" else (query_norms + largest_norm) ** 2
    return 2.0 * (dim + 8) * _ROUNDING * size + dim * float(np.finfo(np.float32).tiny)


def exact_search(
    queries: FloatArray,
    vectors: FloatArray,
    norms: NDArray[np.float64],
    item_idx: IntArray,
    k: int,
    metric: Product,
) -> Candidates:
    """Return the exact best k items of each query.

    Blocks of items are multiplied with blocks of queries; after the first block only scores above the running
    k-th best are looked at, so the cost is that of the product plus one comparison per score. Items that are
    equal to the k-th best cost a `pair_scores` each: with very many equal vectors the search slows down, and
    stays exact.

    Args:
        queries: (Q, D) float32, finite.
        vectors: (N, D) float32, finite.
        norms: (N,) their lengths.
        item_idx: (N,) int64, distinct, in any order.
        k: columns of the answer; above N the rest is missing.
        metric: "inner_product" or "l2".
    """
    result = missing_candidates(len(queries), k)
    for start in range(0, len(queries), _QUERY_BLOCK):
        rows = slice(start, start + _QUERY_BLOCK)
        part = _search_block(queries[rows], vectors, norms, item_idx, k, metric)
        result.item_idx[rows], result.score[rows] = part.item_idx, part.score
    return result


def _search_block(
    queries: FloatArray,
    vectors: FloatArray,
    norms: NDArray[np.float64],
    item_idx: IntArray,
    k: int,
    metric: Product,
) -> Candidates:
    best = missing_candidates(len(queries), k)
    query_norms = vector_norms(queries)
    floor = np.full(len(queries), -np.inf)
    start, size = 0, max(_FIRST_ITEM_BLOCK, 4 * k)
    while start < len(vectors):
        block, block_norms = vectors[start : start + size], norms[start : start + size]
        product = _product(queries, query_norms, block, block_norms, metric)
        error = score_error(query_norms, float(block_norms.max()), queries.shape[1], metric)
        if start == 0 and len(block) > k:
            # k items reach this by the product, hence this less the error by the formula.
            floor = np.partition(product, -k, axis=1)[:, -k] - error
        bar = (floor - error).astype(np.float32)
        rows, columns = np.divmod(np.flatnonzero(product >= bar[:, None]), len(block))
        scores = pair_scores(queries, block, rows, columns, metric)
        best = _take_in(best, rows, item_idx[start + columns], scores)
        floor = best.score[:, -1].astype(np.float64)
        # Blocks double, so each brings about k new survivors; their scores stay within the cache's reach.
        start, size = start + len(block), max(size, min(2 * size, _SCORE_BLOCK // len(queries)))
    return best


def _product(
    queries: FloatArray,
    query_norms: NDArray[np.float64],
    block: FloatArray,
    block_norms: NDArray[np.float64],
    metric: Product,
) -> FloatArray:
    if metric == "inner_product":
        return queries @ block.T
    product = np.asarray((queries + queries) @ block.T, np.float32)
    product -= (block_norms**2).astype(np.float32)
    product -= (query_norms**2).astype(np.float32)[:, None]
    return product


def _take_in(best: Candidates, rows: IntArray, item_idx: IntArray, scores: FloatArray) -> Candidates:
    counts = np.bincount(rows, minlength=best.num_queries)
    if not len(rows):
        return best
    place = np.arange(len(rows)) - (np.cumsum(counts) - counts)[rows]
    new = missing_candidates(best.num_queries, int(counts.max()))
    new.item_idx[rows, place] = item_idx
    new.score[rows, place] = scores
    both = np.concatenate([best.item_idx, new.item_idx], axis=1)
    return rank_top_k(both, np.concatenate([best.score, new.score], axis=1), best.k, distinct=True)


def check_vectors(vectors: FloatArray, dim: int, what: str) -> FloatArray:
    """Return (rows, dim) float32 vectors as a contiguous array; RetrievalError, naming `what`, otherwise."""
    if vectors.ndim != 2 or vectors.shape[1] != dim:
        raise RetrievalError(f"{what} of shape {vectors.shape}; this index expects (rows, {dim})")
    if vectors.dtype != np.float32:
        raise RetrievalError(f"{what} of type {vectors.dtype}; expected float32")
    smallest, largest = vectors.min(initial=0.0), vectors.max(initial=0.0)  # NaN passes through both
    if not (smallest >= -_LARGEST_VALUE and largest <= _LARGEST_VALUE):
        raise RetrievalError(
            f"{what}: values from {smallest} to {largest}, expected at most {_LARGEST_VALUE:g} and no NaN; "
            "the model has diverged"
        )
    return np.ascontiguousarray(vectors)


def check_queries(queries: FloatArray, dim: int, k: int, num_items: int) -> FloatArray:
    """Return the queries of a search; RetrievalError where they, k or the index cannot give an answer."""
    if k < 1:
        raise RetrievalError(f"k is {k}; at least 1 candidate must be asked for")
    if not num_items:
        raise RetrievalError("search in an index without items; add item vectors first")
    return check_vectors(queries, dim, "queries")


def check_items(item_idx: IntArray, vectors: FloatArray, dim: int) -> tuple[IntArray, FloatArray]:
    """Return item_idx as int64 and their vectors; RetrievalError for none, reserved ones or a misfit."""
    rows = check_vectors(vectors, dim, "item vectors")
    if item_idx.shape != (len(rows),) or item_idx.dtype.kind not in "iu":
        raise RetrievalError(f"item_idx {item_idx.shape} {item_idx.dtype}; expected ({len(rows)},) integers")
    if not len(rows):
        raise RetrievalError("no items to add; the vectors are empty")
    new = item_idx.astype(np.int64)
    if new.min() < NUM_RESERVED or new.max() > MAX_ITEM_IDX:
        raise RetrievalError(
            f"item_idx from {new.min()} to {new.max()}; expected {NUM_RESERVED} to {MAX_ITEM_IDX}, "
            "because padding and unknown are no items and are never recommended"
        )
    return new, rows


def check_new(new: IntArray, known: list[IntArray]) -> None:
    """Raise RetrievalError where an item_idx occurs twice, within `new` or with what is known."""
    if (np.diff(new) > 0).all() and all(not len(old) or old[-1] == old.max() < new[0] for old in known):
        return
    together = np.concatenate([*known, new])
    repeated = len(together) - len(np.unique(together))
    if repeated:
        raise RetrievalError(f"{repeated} item_idx added twice; every item has one vector in an index")
