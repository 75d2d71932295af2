"""Padding in what holds items: the oracle is the plant."""

from unittest import mock

import numpy as np
import pyarrow as pa
import pytest

from raysys.nn.negatives import NegativeSampler
from tests.integration.doctor.runs import checks_of, copied, each_sequence, padding_first, rewrite, with_lists


def unknown_lists(table):
    ids = table.column("item_id").to_pylist()
    return table.set_column(2, "item_id", pa.array([None, "nothing", *ids[2:]], pa.string()))


def padded_neighbours(table):
    return with_lists(table, "neighbour_idx", lambda row: [0, *row["neighbour_idx"][1:]])


def with_padding_targets(table):
    return with_lists(table, "item_idx", lambda row: [*row["item_idx"][:-1], 0])


@pytest.mark.parametrize(
    ("run", "name", "place", "change", "wrong"),
    [
        ("mind", "vectors/items.parquet", "vectors/items.parquet", padding_first, 1),
        (
            "mind",
            "evaluation/recommendations.parquet",
            "evaluation/recommendations.parquet",
            unknown_lists,
            2,
        ),
        ("item_cf", "table/items.parquet", "table/items.parquet", padded_neighbours, 60),
    ],
)
def test_padding_in_what_holds_items_is_found(request, tmp_path, run, name, place, change, wrong):
    path, out = copied(request.getfixturevalue(run), tmp_path)
    rewrite(out, name, change)
    check = checks_of((path, out))["reserved_items"]
    assert check.state == "fault"
    assert check.figures[place] == wrong
    assert f"make {name} again" in check.remedy


def test_padding_in_targets_is_found(broken):
    _, out = broken
    each_sequence(out, with_padding_targets)
    found = checks_of(broken)
    check = found["reserved_items"]
    assert check.state == "fault"
    assert check.figures["features/sequences"] == 120
    assert check.figures["test targets"] == found["stored_order"].figures["users"]


def test_padding_among_negatives_is_found(mind):
    def draw(self, step):
        item_idx, expected = own(self, step)
        return np.where(np.arange(len(item_idx)) == 0, 0, item_idx), expected

    own = NegativeSampler.draw
    with mock.patch.object(NegativeSampler, "draw", draw):
        check = checks_of(mind)["reserved_items"]
    assert check.state == "fault"
    assert check.figures["negatives"] > 0
