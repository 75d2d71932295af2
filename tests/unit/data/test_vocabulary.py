"""Vocabularies: idx is a rank of popularity, 0 is padding, 1 is unknown, the digest names ids in order."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from raysys.data.vocabulary import Vocabulary
from raysys.errors import DataError
from raysys.schema import NUM_RESERVED, PADDING_IDX, UNKNOWN_IDX
from raysys.storage import Folder


def build(counted):
    return Vocabulary.build(pa.array(list(counted), pa.string()), np.array(list(counted.values()), np.int64))


def test_ids_are_ordered_by_count_down_then_id_up():
    vocabulary = build({"b": 1, "c": 5, "10": 1, "9": 1, "a": 0, "é": 1})
    assert vocabulary.ids.to_pylist() == ["c", "10", "9", "b", "é", "a"]
    assert vocabulary.counts.tolist() == [5, 1, 1, 1, 1, 0]
    assert vocabulary.size == 6 + NUM_RESERVED
    assert (np.diff(vocabulary.counts) <= 0).all()  # what the log-uniform sampler takes for granted


def test_the_order_of_the_input_does_not_matter():
    first = build({"a": 1, "b": 1, "c": 2})
    second = build({"c": 2, "b": 1, "a": 1})
    assert first.ids.equals(second.ids)
    assert first.digest == second.digest


def test_no_item_is_idx_0_and_unknown_ids_are_1():
    vocabulary = build({"a": 2, "b": 1})
    assert vocabulary.encode(pa.array(["b", "a", None, "zz", ""])).tolist() == [3, 2, 1, 1, 1]
    assert vocabulary.encode(pa.chunked_array([["a"], [], ["b"]], pa.string())).tolist() == [2, 3]
    assert vocabulary.encode(pa.array(["a"]).dictionary_encode()).tolist() == [2]
    assert vocabulary.encode(pa.array([], pa.string())).dtype == np.int32
    assert (PADDING_IDX, UNKNOWN_IDX) == (0, 1)


def test_decode_gives_the_ids_back_and_refuses_the_reserved():
    vocabulary = build({"a": 2, "b": 1})
    assert vocabulary.decode(np.array([3, 2, 3])).to_pylist() == ["b", "a", "b"]
    assert vocabulary.decode(np.array([], dtype=np.int64)).to_pylist() == []
    for idx in (0, 1, 4, -1):
        with pytest.raises(DataError, match="the vocabulary holds 2 to 3"):
            vocabulary.decode(np.array([2, idx]))


def test_digests_tell_ids_and_their_order_apart_but_not_counts():
    digests = [
        build(counted).digest for counted in ({"a": 2, "bc": 1}, {"ab": 2, "c": 1}, {"bc": 2, "a": 1}, {})
    ]
    assert len(set(digests)) == len(digests)
    assert build({"a": 9, "bc": 3}).digest == digests[0]
    assert digests[0] == PINNED


def test_a_vocabulary_survives_the_disk(tmp_path):
    for counted in ({"é": 3, "": 1, "007": 1}, {}):
        vocabulary = build(counted)
        vocabulary.write(Folder(tmp_path), "item")
        loaded = Vocabulary.load(Folder(tmp_path), "item")
        assert loaded.ids.to_pylist() == vocabulary.ids.to_pylist()
        assert loaded.counts.tolist() == vocabulary.counts.tolist()
        assert loaded.digest == vocabulary.digest


def test_merged_parts_are_the_vocabulary_of_the_whole_and_know_their_numbers():
    parts = [["b", "a"], [], ["c", "b", "é"], ["a"]], [[1, 5], [], [2, 1, 0], [0]]
    whole = {"a": 5, "b": 2, "c": 2, "é": 0}
    merged, numbers = Vocabulary.merge(
        [(pa.array(ids, pa.string()), np.array(n, np.int64)) for ids, n in zip(*parts, strict=True)]
    )
    expected = build(whole)
    assert merged.ids.to_pylist() == expected.ids.to_pylist() == ["a", "b", "c", "é"]
    assert merged.counts.tolist() == expected.counts.tolist()
    assert merged.digest == expected.digest
    assert [own.tolist() for own in numbers] == [[3, 2], [], [4, 3, 5], [2]]
    assert {own.dtype for own in numbers} == {np.dtype(np.int32)}


@pytest.mark.parametrize("seed", range(3))
def test_merging_equals_building_from_the_sums(seed):
    draw = np.random.default_rng(seed)
    parts, sums = [], Counter()
    for _ in range(5):
        ids = [str(n) for n in draw.permutation(40)[: draw.integers(0, 30)]]
        counts = draw.integers(0, 4, len(ids))
        sums.update(dict(zip(ids, counts.tolist(), strict=True)))
        parts.append((pa.array(ids, pa.string()), counts))
    merged, numbers = Vocabulary.merge(parts)
    expected = build(sums)
    assert merged.ids.equals(expected.ids)
    assert merged.counts.tolist() == expected.counts.tolist()
    for (ids, _), own in zip(parts, numbers, strict=True):
        assert own.tolist() == expected.encode(ids).tolist()


PINNED = "2b13b349077fea4a"
