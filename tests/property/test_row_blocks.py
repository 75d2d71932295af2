"""Rows of counting models do not depend on the blocks they are computed in; the oracle is plain loops."""

from unittest import mock

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from raysys.distributed.tables import row_blocks
from raysys.models import item_cf
from raysys.models.item_cf import ItemCf
from raysys.models.item_cf_config import ItemCfConfig
from tests.reference.item_cf import matrix, similarities_of

similarities = st.sampled_from(["cosine", "tf_idf", "bm25"])


def drawn(seed, items, users, share):
    random = np.random.default_rng(seed)
    counts = random.integers(1, 5, (items + 2, users + 2)) * (random.random((items + 2, users + 2)) < share)
    counts[:2] = counts[:, :2] = 0
    return counts


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 12),
    st.integers(1, 9),
    st.floats(0, 1),
    similarities,
    st.integers(1, 60),
    st.integers(1, 40),
)
@settings(deadline=None)
def test_blocks_cover_every_item_once_and_give_the_same_rows(
    seed: int, items: int, users: int, share: float, similarity: str, products: int, terms: int
):
    counts = drawn(seed, items, users, share)
    seen = matrix(counts)
    model = ItemCf(ItemCfConfig(similarity=similarity, num_neighbours=4))
    weighted = model.weigh(seen)
    whole = model.rows(weighted, np.arange(2, items + 2))
    blocks = row_blocks(seen, products)
    assert [i for start, stop in blocks for i in range(start, stop)] == list(range(2, items + 2))
    with mock.patch.object(item_cf, "_TERMS", 2**20):
        parts = [model.rows(weighted, np.arange(*block)) for block in blocks]
    for number in (0, 1):
        np.testing.assert_array_equal(np.concatenate([part[number] for part in parts]), whole[number])
    with mock.patch.object(item_cf, "_TERMS", terms):  # a source streamed in pieces, added in the same order
        pieces = model.rows(weighted, np.arange(2, items + 2))
    for number in (0, 1):
        np.testing.assert_array_equal(pieces[number], whole[number])


@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(1, 6), st.floats(0, 1), similarities)
@settings(deadline=None)
def test_every_similarity_equals_the_formula(
    seed: int, items: int, users: int, share: float, similarity: str
):
    counts = drawn(seed, items, users, share)
    model = ItemCf(ItemCfConfig(similarity=similarity))
    item_idx, score = model.rows(model.weigh(matrix(counts)), np.arange(items + 2))
    expected = similarities_of(counts, similarity)
    found = np.zeros_like(expected)
    row, place = np.nonzero(item_idx >= 0)
    found[row, item_idx[row, place]] = score[row, place]
    np.testing.assert_allclose(found, np.maximum(expected, 0), rtol=1e-6, atol=1e-12)
