"""Search indexes on one machine: exact search of our own, and everything Faiss can build. Only this file
knows Faiss.

An index holds vectors under their item_idx and answers with `Candidates`, larger scores first for every
metric ("l2" scores are negative squared distances). For "cosine" vectors are scaled to length one when they
are added and queries when they are searched; a zero vector scores 0. The kinds "exact" and "flat" give the
same bits: see `raysys.retrieval.exact` for why, and why a shard split cannot change them. A Faiss factory
string, such as "IVF1024,Flat", is approximate; its scores are Faiss's own and it promises no parity, so its
recall against exact search belongs beside every figure.

On disk an index is one file that `faiss.read_index` opens, item_idx included, and a JSON header `<name>.json`
beside it. Nothing is pickled. The vectors in the file are as they are compared: whoever searches a "cosine"
file with Faiss alone scales the queries.
"""

import re
import zlib
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import faiss
import numpy as np

from raysys.config import require
from raysys.errors import ConfigError, RetrievalError
from raysys.retrieval.candidates import Candidates, FloatArray, IntArray, missing_candidates, rank_top_k
from raysys.retrieval.exact import (
    Metric,
    Product,
    check_items,
    check_new,
    check_queries,
    check_vectors,
    comparable,
    exact_search,
    pair_scores,
    product_of,
    score_error,
    vector_norms,
)
from raysys.storage import Folder

FORMAT = 1

_FAISS_METRIC: dict[Product, int] = {"inner_product": faiss.METRIC_INNER_PRODUCT, "l2": faiss.METRIC_L2}
_FLAT_TYPES = (faiss.IndexFlat, faiss.IndexFlatIP, faiss.IndexFlatL2)
_MAX_LISTS = 2**22
_FETCHED = 2**22


@dataclass(frozen=True, kw_only=True)
class IndexConfig:
    """How item vectors are searched."""

    kind: str = "exact"
    """`exact` (our own search), `flat` (Faiss's exact search), or a Faiss factory string: `IVF1024,Flat`."""
    shards: int = 1
    """Contiguous ranges of items, each searched by its own process; at least 1."""
    replicas: int = 1
    """Copies of every shard that share the queries; at least 1."""
    search_parameters: str = ""
    """What a factory string leaves open, as Faiss spells it: "nprobe=16"; "" keeps Faiss's defaults."""
    metric: Literal["model", Metric] = "model"
    """What vectors are compared by: model (what the model was trained for, as `vectors/` records it),
    inner_product, cosine (a zero vector scores 0) or l2 (negative squared distance)."""

    def __post_init__(self) -> None:
        require(self.shards >= 1, f"shards: found {self.shards}, expected at least 1")
        require(self.replicas >= 1, f"replicas: found {self.replicas}, expected at least 1")
        pairs = re.fullmatch(r"(\w+=[1-9]\d*(,\w+=[1-9]\d*)*)?", self.search_parameters)
        found = f"search_parameters: found {self.search_parameters!r}"
        require(pairs is not None, f"{found}, expected name=number pairs such as nprobe=16,k_factor=2")
        exact = self.kind in ("exact", "flat")
        require(
            not exact or not self.search_parameters, f"{found}, but kind {self.kind} has none; leave it empty"
        )
        if not exact:
            _check_factory(self.kind)


def _check_factory(kind: str) -> None:
    expected = 'expected "exact", "flat" or a Faiss factory string such as "IVF1024,Flat" or "HNSW32"'
    require("IDMap" not in kind, f"kind: found {kind!r}; leave IDMap out, item_idx are kept for every kind")
    lists = max((int(number) for number in re.findall(r"IVF(\d+)", kind)), default=1)
    require(1 <= lists <= _MAX_LISTS, f"kind: found {kind!r}, expected 1 to {_MAX_LISTS} lists after IVF")
    # Which dimensions and metrics a string suits shows when the index is built; here its spelling counts.
    try:
        faiss.index_factory(64, kind, faiss.METRIC_L2)
    except RuntimeError as error:
        require("could not parse" not in str(error), f"kind: found {kind!r}, {expected}")


class Index(Protocol):
    """Vectors of items on one machine. `load_index` is the counterpart of `save`."""

    @property
    def metric(self) -> Metric: ...
    @property
    def dim(self) -> int: ...
    @property
    def num_items(self) -> int: ...
    @property
    def is_trained(self) -> bool: ...

    def train(self, vectors: FloatArray) -> None:
        """Fit what the kind needs to a sample (N, D) of item vectors; nothing happens for exact kinds."""
        ...

    def add(self, item_idx: IntArray, vectors: FloatArray) -> None:
        """Add (N,) distinct, new, unreserved item_idx and their (N, D) float32 vectors; trains if need be."""
        ...

    def search(self, queries: FloatArray, k: int) -> Candidates:
        """Return the best k items of each (Q, D) float32 query; missing past the number of items."""
        ...

    def save(self, folder: Folder, name: str) -> None:
        """Write the Faiss file `name` and its header `<name>.json`."""
        ...


class ExactIndex:
    """Exact search by blocked matrix products in NumPy; several times as fast as "flat" on batches."""

    kind = "exact"

    def __init__(self, metric: Metric, dim: int) -> None:
        self.metric: Metric = metric
        self.dim = dim
        self._product: Product = product_of(metric)
        self._parts: list[tuple[IntArray, FloatArray]] = []

    @property
    def num_items(self) -> int:
        return sum(len(item_idx) for item_idx, _ in self._parts)

    @property
    def is_trained(self) -> bool:
        return True

    def train(self, vectors: FloatArray) -> None:
        check_vectors(vectors, self.dim, "training sample")

    def add(self, item_idx: IntArray, vectors: FloatArray) -> None:
        new, rows = check_items(item_idx, vectors, self.dim)
        check_new(new, [known for known, _ in self._parts])
        self._parts.append((new.copy(), comparable(rows, self.metric).copy()))

    def take_over(self, item_idx: IntArray, vectors: FloatArray) -> None:
        """Fill an empty index with what another one held: scaling vectors twice would change their bits."""
        self._parts = [(item_idx, vectors)]

    def _joined(self) -> tuple[IntArray, FloatArray]:
        if len(self._parts) > 1:
            item_idx, vectors = zip(*self._parts, strict=True)
            self._parts = [(np.concatenate(item_idx), np.concatenate(vectors))]
        return self._parts[0]

    def search(self, queries: FloatArray, k: int) -> Candidates:
        rows = check_queries(queries, self.dim, k, self.num_items)
        item_idx, vectors = self._joined()
        rows = comparable(rows, self.metric)
        return exact_search(rows, vectors, self._norms(vectors), item_idx, k, self._product)

    def _norms(self, vectors: FloatArray) -> Any:
        known = getattr(self, "_known_norms", None)
        if known is None or len(known) != len(vectors):
            self._known_norms = known = vector_norms(vectors)
        return known

    def to_bytes(self) -> bytes:
        """Return the content of the Faiss file: a flat index of the same vectors."""
        flat = FaissIndex("flat", self._product, self.dim)  # the vectors are scaled already
        for item_idx, vectors in self._parts:
            flat.add(item_idx, vectors)
        return flat.to_bytes()

    def save(self, folder: Folder, name: str) -> None:
        _save(self, folder, name)


class FaissIndex:
    """A Faiss index of any factory string, with item_idx as its ids.

    For a flat index Faiss only selects, and the answer is scored and ordered as by `ExactIndex`. Faiss breaks
    ties at the last place at will, so more than k are fetched, and a query is settled once nothing beyond can
    tie with its k-th best. Others are fetched four times deeper, up to all items: exact, but slow with very
    many equal vectors.
    """

    def __init__(
        self, kind: str, metric: Metric, dim: int, search_parameters: str = "", stored: Any = None
    ) -> None:
        """Make an empty index, or take over a stored Faiss index with its ids.

        Raises:
            ConfigError: Faiss cannot build the kind for this metric and dimension.
        """
        self.kind = kind
        self.metric: Metric = metric
        self.dim = dim
        self._product: Product = product_of(metric)
        # The map owns the inner index, so both are kept; vectors of a flat index are read in place.
        self._mapped: Any = stored or faiss.IndexIDMap(make_faiss_index(kind, metric, dim, search_parameters))
        self._inner: Any = faiss.downcast_index(self._mapped.index)
        self._flat = type(self._inner) in _FLAT_TYPES
        self._item_idx: IntArray = faiss.vector_to_array(self._mapped.id_map).astype(np.int64)
        self._largest_norm = float(vector_norms(self._vectors()).max(initial=0.0)) if self._flat else 0.0

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.kind, self.metric, self.dim, self.to_bytes())

    @property
    def num_items(self) -> int:
        return int(self._mapped.ntotal)

    @property
    def is_trained(self) -> bool:
        return bool(self._inner.is_trained)

    def train(self, vectors: FloatArray) -> None:
        self._train(comparable(check_vectors(vectors, self.dim, "training sample"), self.metric))

    def _train(self, rows: FloatArray) -> None:
        if self.is_trained:
            return
        try:
            self._mapped.train(rows)
        except RuntimeError as error:
            raise RetrievalError(f"index.kind {self.kind!r} cannot be trained: {_reason(error)}") from None

    def add(self, item_idx: IntArray, vectors: FloatArray) -> None:
        new, rows = check_items(item_idx, vectors, self.dim)
        check_new(new, [self._item_idx])
        rows = comparable(rows, self.metric)
        self._train(rows)
        self._mapped.add_with_ids(rows, new)
        self._item_idx = np.concatenate([self._item_idx, new])
        if self._flat:
            self._largest_norm = max(self._largest_norm, float(vector_norms(rows).max()))

    def search(self, queries: FloatArray, k: int) -> Candidates:
        rows = comparable(check_queries(queries, self.dim, k, self.num_items), self.metric)
        if self._flat:
            return self._search_flat(rows, k)
        score, item_idx = self._mapped.search(rows, k)
        score = -score if self.metric == "l2" else score
        return rank_top_k(item_idx.astype(np.int64), np.where(item_idx < 0, np.float32(-np.inf), score), k)

    def _vectors(self) -> FloatArray:
        if not self._inner.ntotal:
            return np.zeros((0, self.dim), np.float32)
        flat = faiss.rev_swig_ptr(self._inner.get_xb(), self._inner.ntotal * self.dim)
        return flat.reshape(-1, self.dim)

    def _search_flat(self, queries: FloatArray, k: int) -> Candidates:
        result = missing_candidates(len(queries), k)
        error = score_error(vector_norms(queries), self._largest_norm, self.dim, self._product)
        total, open_rows = self.num_items, np.arange(len(queries))
        fetch = min(total, k + max(16, k // 4))
        while len(open_rows):
            unsettled: list[IntArray] = []
            step = max(1, _FETCHED // fetch)
            for start in range(0, len(open_rows), step):
                rows = open_rows[start : start + step]
                best, beyond = self._fetch(queries, rows, fetch, k)
                result.item_idx[rows], result.score[rows] = best.item_idx, best.score
                unsettled.append(rows[best.score[:, -1] <= beyond + error[rows]])
            open_rows = np.concatenate(unsettled) if fetch < total else open_rows[:0]
            fetch = min(total, 4 * fetch)
        return result

    def _fetch(
        self, queries: FloatArray, rows: IntArray, fetch: int, k: int
    ) -> tuple[Candidates, FloatArray]:
        """Return the best k of what Faiss finds, and the score by Faiss that nothing left out exceeds."""
        found, place = self._inner.search(queries[rows], fetch)
        pairs = np.repeat(rows, fetch)
        score = pair_scores(queries, self._vectors(), pairs, place.ravel(), self._product)
        best = rank_top_k(self._item_idx[place], score.reshape(place.shape), k, distinct=True)
        return best, -found[:, -1] if self.metric == "l2" else found[:, -1]

    def to_bytes(self) -> bytes:
        """Return the content of the Faiss file."""
        return faiss.serialize_index(self._mapped).tobytes()

    def save(self, folder: Folder, name: str) -> None:
        _save(self, folder, name)


def build_index(config: IndexConfig, metric: Metric, dim: int) -> ExactIndex | FaissIndex:
    """Return an empty index; ConfigError where the kind does not suit the metric or the dimension."""
    if config.kind == "exact":
        return ExactIndex(metric, dim)
    return FaissIndex(config.kind, metric, dim, config.search_parameters)


def set_search_threads(count: int) -> None:
    """Set how many threads Faiss uses in this process; ExactIndex follows NumPy, set at process start."""
    if count < 1:
        raise RetrievalError(f"{count} search threads asked for, expected at least 1")
    faiss.omp_set_num_threads(count)


def load_index(folder: Folder, name: str) -> ExactIndex | FaissIndex:
    """Return a saved index; RetrievalError where its file or header is damaged or of another format."""
    header, where = folder.read_json(f"{name}.json"), f"{folder.uri}/{name}"
    if header.get("format") != FORMAT:
        raise RetrievalError(
            f"{where}: format {header.get('format')}, this version reads {FORMAT}; index again"
        )
    data = folder.read_bytes(name)
    if (len(data), zlib.crc32(data)) != (header["bytes"], header["crc32"]):
        raise RetrievalError(f"{where}: {len(data)} bytes that its header does not describe; index again")
    return _restore(header["kind"], header["metric"], header["dim"], data)


def _save(index: ExactIndex | FaissIndex, folder: Folder, name: str) -> None:
    data = index.to_bytes()
    header = {"format": FORMAT, "kind": index.kind, "metric": index.metric, "dim": index.dim}
    header |= {"items": index.num_items, "bytes": len(data), "crc32": zlib.crc32(data)}
    folder.write_bytes(name, data)
    folder.write_json(f"{name}.json", header)


def _restore(kind: str, metric: Metric, dim: int, data: bytes) -> ExactIndex | FaissIndex:
    mapped: Any = faiss.deserialize_index(np.frombuffer(data, np.uint8))
    if kind != "exact":
        return FaissIndex(kind, metric, dim, stored=mapped)
    index = ExactIndex(metric, dim)
    if mapped.ntotal:
        item_idx = faiss.vector_to_array(mapped.id_map).astype(np.int64)
        index.take_over(item_idx, mapped.index.reconstruct_n(0, mapped.ntotal))
    return index


def make_faiss_index(kind: str, metric: Metric, dim: int, search_parameters: str = "") -> Any:
    """Return an empty index of Faiss without ids; ConfigError where Faiss cannot build it."""
    comparison = _FAISS_METRIC[product_of(metric)]
    try:
        inner = faiss.index_factory(dim, "Flat" if kind == "flat" else kind, comparison)
    except RuntimeError as error:
        raise ConfigError(
            f"index.kind: {kind!r} cannot be built for {metric} and {dim} dimensions: {_reason(error)}"
        ) from None
    if search_parameters:
        try:
            faiss.ParameterSpace().set_index_parameters(inner, search_parameters)
        except RuntimeError as error:
            raise ConfigError(f"index.search_parameters: {search_parameters!r}: {_reason(error)}") from None
    return inner


def own_class(index: Any) -> Any:
    """Return an index of Faiss that is part of another one as an object of its own class."""
    return faiss.downcast_index(index)


def transforms_of(index: Any) -> list[tuple[str, int, int]]:
    """Return class, input and output dimension of what an `IndexPreTransform` does to vectors, in order."""
    chain = [faiss.downcast_VectorTransform(index.chain.at(i)) for i in range(index.chain.size())]
    return [(type(one).__name__, one.d_in, one.d_out) for one in chain]


def _reason(error: RuntimeError) -> str:
    return str(error).rsplit("Error: ", 1)[-1].rsplit(".cpp:", 1)[-1].strip()
