import dataclasses
import math

import numpy as np
import pytest
import torch

from raysys.errors import ConfigError
from raysys.nn.embedding import ConcatItemEncoder, ItemEncoder, ProfileEncoder, seeded_normal, unit_length
from raysys.schema import Feature
from tests.reference import mind as reference
from tests.reference.world import NUM_ITEMS, small_batch, small_catalog


def reference_items(encoder, catalog):
    sides = []
    for feature in encoder.features:
        parameter = getattr(encoder, "feature_" + feature.name.replace(".", "__")).detach().double().numpy()
        sides.append((feature.kind, catalog.item_values[feature.name], parameter))
    own = encoder.item.detach().double().numpy()
    return np.array([reference.item_vector(j, own, sides) for j in range(catalog.num_items)])


@pytest.mark.parametrize("names", [None, ("*",), (), ("tags",), ("price.usd", "cate")])
def test_items_equal_the_reference(names):
    catalog = small_catalog()
    encoder = ItemEncoder(catalog, 6, item_features=names, seed=1).double()
    expected = reference_items(encoder, catalog)
    np.testing.assert_allclose(encoder.table().detach().numpy(), expected, atol=1e-12)
    item_idx = torch.tensor([[0, 5, 4], [1, 23, 5]])
    np.testing.assert_allclose(encoder(item_idx).detach().numpy(), expected[item_idx], atol=1e-12)


def test_features_are_all_of_the_catalog_unless_named():
    catalog = small_catalog()
    assert [f.name for f in ItemEncoder(catalog, 4).features] == ["cate", "tags", "price.usd"]
    assert [f.name for f in ItemEncoder(catalog, 4, item_features=("price.usd", "cate")).features] == [
        "cate",
        "price.usd",
    ]
    assert ItemEncoder(catalog, 4, item_features=()).features == ()


def test_an_unknown_feature_is_refused_with_the_nearest_name():
    with pytest.raises(
        ConfigError, match=r"item_features: no feature 'cates' in the catalog; did you mean cate\?"
    ):
        ItemEncoder(small_catalog(), 4, item_features=("cates",))
    with pytest.raises(ConfigError, match=r"profile_features: no feature 'xyz' .*known: age, income, likes"):
        ProfileEncoder(small_catalog(), 4, profile_features=("xyz",))


def test_a_kind_without_embedding_is_refused():
    catalog = dataclasses.replace(
        small_catalog(), item_features=(Feature(name="image", entity="item", kind="vector", length=8),)
    )
    with pytest.raises(
        ConfigError, match=r"'image' is of kind 'vector', expected one of id, id_list, number"
    ):
        ItemEncoder(catalog, 4)


def test_padding_item_is_zero_and_gets_no_gradient():
    encoder = ItemEncoder(small_catalog(), 4)
    out = encoder(torch.tensor([0, 3, 0]))
    assert out[0].abs().sum() == 0
    assert encoder.table()[0].abs().sum() == 0
    out.sum().backward()
    assert encoder.item.grad is not None
    assert encoder.item.grad[0].abs().sum() == 0
    assert encoder.item.grad[3].abs().sum() > 0


def test_padding_row_of_the_catalog_is_not_trusted():
    catalog = small_catalog()
    catalog.item_values["cate"][0] = 3
    catalog.item_values["price.usd"][0] = 9.0
    assert ItemEncoder(catalog, 4)(torch.tensor([0])).abs().sum() == 0


def test_padding_values_are_left_out_of_the_mean_and_unknown_has_its_own_row():
    catalog = small_catalog()
    catalog.item_values["cate"][5:8] = [0, 1, 2]
    encoder = ItemEncoder(catalog, 4, item_features=("cate",))
    vectors, own = encoder(torch.tensor([5, 6, 7])), encoder.item[[5, 6, 7]]
    torch.testing.assert_close(vectors[0], own[0])
    torch.testing.assert_close(vectors[1], (own[1] + encoder.feature_cate[1]) / 2)
    assert not torch.equal(encoder.feature_cate[1], encoder.feature_cate[2])
    assert encoder.feature_cate[1].abs().sum() > 0


def test_a_missing_number_is_left_out_of_the_mean():
    catalog = small_catalog()
    catalog.item_values["price.usd"][6] = np.nan
    encoder = ItemEncoder(catalog, 4, item_features=("price.usd",))
    vectors = encoder(torch.tensor([5, 6]))
    torch.testing.assert_close(vectors[1], encoder.item[6])
    vectors.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in encoder.parameters())


def test_side_tables_are_buffers_outside_the_state():
    encoder = ItemEncoder(small_catalog(), 4)
    assert sorted(encoder.state_dict()) == ["feature_cate", "feature_price__usd", "feature_tags", "item"]
    assert encoder.values_feature_tags.shape == (NUM_ITEMS, 3)


def test_start_depends_on_the_seed_alone():
    def items(seed):
        return ItemEncoder(small_catalog(), 8, seed=seed).table()

    torch.manual_seed(1)
    first = items(5)
    before = torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(first, items(5))
    assert not torch.equal(first, items(6))
    torch.manual_seed(1)
    items(5)
    assert torch.equal(before, torch.get_rng_state())


def test_start_has_the_stated_spread():
    # the standard error of a standard deviation over 64,000 draws is 0.3 %
    catalog = small_catalog(1002, features=False)
    assert ItemEncoder(catalog, 64).item[1:].std().item() == pytest.approx(1 / math.sqrt(64), rel=0.02)
    assert ItemEncoder(catalog, 64, std=0.5).item[1:].std().item() == pytest.approx(0.5, rel=0.02)
    assert seeded_normal((64_000,), 2.0, 0, "x").std().item() == pytest.approx(2.0, rel=0.02)


def reference_concat(encoder, catalog):
    """W [e_id; e_f1; ...] item by item: lists as their mean, missing values as zeros."""
    own, items = encoder.item.detach().numpy(), [np.zeros(encoder.item.shape[1])]
    for j in range(1, catalog.num_items):
        parts = [own[j]]
        for feature in encoder.features:
            table = getattr(encoder, "feature_" + feature.name.replace(".", "__")).detach().numpy()
            value, nothing = catalog.item_values[feature.name][j], np.zeros_like(own[j])
            if feature.kind == "number":
                parts.append(nothing if math.isnan(value) else float(value) * table)
            elif feature.kind == "id":
                parts.append(table[value] if value else nothing)
            else:
                real = [table[v] for v in value if v]
                parts.append(sum(real) / len(real) if real else nothing)
        joined = np.concatenate(parts)
        items.append(encoder.projection.detach().numpy() @ joined if encoder.features else joined)
    return np.array(items)


@pytest.mark.parametrize("names", [None, ("*",), (), ("tags",), ("price.usd", "cate")])
def test_concatenated_items_equal_the_reference(names):
    catalog = small_catalog()
    catalog.item_values["price.usd"][6] = np.nan
    catalog.item_values["cate"][5:7] = [0, 1]
    encoder = ConcatItemEncoder(catalog, 6, item_features=names, seed=1).double()
    expected = reference_concat(encoder, catalog)
    np.testing.assert_allclose(encoder.table().detach().numpy(), expected, atol=1e-12)
    item_idx = torch.tensor([[0, 5, 4], [1, 6, 23]])
    np.testing.assert_allclose(encoder(item_idx).detach().numpy(), expected[item_idx], atol=1e-12)


def test_concatenated_padding_is_zero_and_gets_no_gradient():
    catalog = small_catalog()
    catalog.item_values["cate"][0] = 3
    catalog.item_values["price.usd"][0] = 9.0
    encoder = ConcatItemEncoder(catalog, 4)
    assert encoder.table()[0].abs().sum() == 0
    encoder(torch.tensor([0, 0])).square().sum().backward()
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in encoder.parameters())
    encoder(torch.arange(NUM_ITEMS)).square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), name
    assert not encoder.item.grad[0].any()
    assert not encoder.of_feature("cate").grad[0].any()


def test_concatenated_numbers_that_are_missing_give_zeros_and_finite_gradients():
    catalog = small_catalog()
    catalog.item_values["price.usd"][6] = np.nan
    encoder = ConcatItemEncoder(catalog, 4, item_features=("price.usd",))
    vectors = encoder(torch.tensor([6]))
    torch.testing.assert_close(vectors[0], encoder.projection[:, :4] @ encoder.item[6])
    vectors.sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in encoder.parameters())


def test_the_projection_starts_near_the_items_own_part():
    """Numbers off the identity have the stated spread; the standard error over 16,384 draws is 0.6 %."""
    encoder = ConcatItemEncoder(small_catalog(), 64, seed=1)
    assert encoder.projection is not None
    off = encoder.projection.detach() - torch.cat([torch.eye(64), torch.zeros(64, 192)], dim=1)
    assert off.std().item() == pytest.approx(0.5 / math.sqrt(256), rel=0.03)
    assert ConcatItemEncoder(small_catalog(), 64, item_features=()).projection is None


def test_concatenated_start_depends_on_the_seed_alone():
    torch.manual_seed(1)
    first = ConcatItemEncoder(small_catalog(), 8, seed=5)
    torch.manual_seed(2)
    same, other = ConcatItemEncoder(small_catalog(), 8, seed=5), ConcatItemEncoder(small_catalog(), 8, seed=6)
    names = ["feature_cate", "feature_price__usd", "feature_tags", "item", "projection"]
    assert sorted(first.state_dict()) == names
    for name in names:
        assert torch.equal(first.get_parameter(name), same.get_parameter(name))
        assert not torch.equal(first.get_parameter(name), other.get_parameter(name))
    assert first.of_feature("price.usd") is first.feature_price__usd


def test_concatenated_features_of_other_names_are_refused():
    with pytest.raises(ConfigError, match=r"item_features: no feature 'cates' .* did you mean cate\?"):
        ConcatItemEncoder(small_catalog(), 4, item_features=("cates",))


def test_profile_concatenates_its_features():
    catalog, batch = small_catalog(), small_batch()
    encoder = ProfileEncoder(catalog, 3, seed=2)
    out = encoder(batch)
    assert out.shape == (6, encoder.dim) == (6, 7)
    torch.testing.assert_close(out[:, :3], encoder.feature_age[batch["profile_age"]])
    torch.testing.assert_close(out[:, 6], batch["profile_income"])
    likes = batch["profile_likes"]
    for row, values in enumerate(likes.tolist()):
        real = [encoder.feature_likes[v] for v in values if v]
        expected = torch.stack(real).mean(0) if real else torch.zeros(3)
        torch.testing.assert_close(out[row, 3:6], expected)


def test_profile_without_features_is_empty_and_keeps_the_dtype():
    encoder = ProfileEncoder(small_catalog(), 3, profile_features=()).to(torch.bfloat16)
    out = encoder({"history": torch.zeros(4, 2, dtype=torch.int64)})
    assert out.shape == (4, 0)
    assert out.dtype == torch.bfloat16
    assert encoder.dim == 0


def test_unit_length_handles_zero_and_tiny_vectors():
    vectors = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e-9, 0.0], [1e15, 0.0]], requires_grad=True)
    out = unit_length(vectors)
    expected = torch.tensor([[0.6, 0.8], [0.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    torch.testing.assert_close(out, expected)
    out.sum().backward()
    assert torch.isfinite(vectors.grad).all()
    assert vectors.grad[1].abs().sum() == 0
