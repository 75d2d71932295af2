"""TOML to dataclasses: what is accepted, what is refused with which words, and the round trip."""

import dataclasses
import math
import tomllib
from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysys.config import apply_overrides, digest, parse_toml, read, require, suggest, to_table, to_toml
from raysys.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Inner:
    size: int = 1
    rate: float = 0.5

    def __post_init__(self):
        require(self.size >= 0, f"size: found {self.size}, expected >= 0")


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    flag: bool = False
    kind: Literal["a", "b"] = "a"
    sizes: tuple[int, ...] = ()
    paths: str | tuple[str, ...] = ""
    extra: dict[str, float] = field(default_factory=dict)
    limit: float | None = None
    inner: Inner = Inner()
    inners: dict[str, Inner] = field(default_factory=dict)


def test_every_kind_of_field_is_read():
    text = """
    name = "x"
    flag = true
    kind = "b"
    sizes = [1, 2]
    paths = ["p", "q"]
    limit = 3
    [extra]
    GPU = 1
    [inner]
    size = 4
    [inners.one]
    rate = inf
    """
    outer = read(Outer, parse_toml(text, "x.toml"))
    assert outer == Outer(
        name="x",
        flag=True,
        kind="b",
        sizes=(1, 2),
        paths=("p", "q"),
        limit=3.0,
        extra={"GPU": 1.0},
        inner=Inner(size=4),
        inners={"one": Inner(rate=math.inf)},
    )
    assert isinstance(outer.limit, float)
    assert isinstance(outer.extra["GPU"], float)
    assert read(Outer, {"name": "x"}) == Outer(name="x")


def test_a_toml_date_is_iso8601_text():
    for text in ("2020-01-02", "2020-01-02T03:04:05", "2020-01-02T03:04:05.500000+01:00"):
        assert read(Outer, parse_toml(f"name = {text}", "x.toml")).name == text
        assert read(Outer, apply_overrides({}, [f"name={text}"])).name == text


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "run.name: missing; this key has no default"),
        ({"name": "x", "flog": True}, "run.flog: unknown key; did you mean run.flag?"),
        (
            {"name": "x", "zzz": 1},
            "run.zzz: unknown key; known: extra, flag, inner, inners, kind, limit, name, paths, sizes",
        ),
        ({"name": 3}, "run.name: found an integer 3, expected text"),
        ({"name": "x", "flag": 1}, "run.flag: found an integer 1, expected true or false"),
        ({"name": "x", "flag": "yes"}, "run.flag: found text 'yes', expected true or false"),
        ({"name": "x", "kind": "c"}, "run.kind: found 'c', expected one of a, b"),
        ({"name": "x", "sizes": 3}, "run.sizes: found an integer, expected a list"),
        ({"name": "x", "sizes": [1, "2"]}, "run.sizes[1]: found text '2', expected an integer"),
        ({"name": "x", "sizes": [1, 2.0]}, "run.sizes[1]: found a number 2.0, expected an integer"),
        ({"name": "x", "sizes": [True]}, "run.sizes[0]: found a boolean True, expected an integer"),
        ({"name": "x", "limit": "3"}, "run.limit: found text '3', expected a number"),
        ({"name": "x", "limit": True}, "run.limit: found a boolean True, expected a number"),
        ({"name": "x", "limit": math.nan}, "run.limit: found nan, expected a number"),
        ({"name": "x", "extra": [1]}, "run.extra: found a list, expected a table"),
        ({"name": "x", "extra": {"a": "b"}}, "run.extra.a: found text 'b', expected a number"),
        ({"name": "x", "inner": 3}, "run.inner: found an integer, expected a table"),
        ({"name": "x", "inner": {"sise": 3}}, "run.inner.sise: unknown key; did you mean run.inner.size?"),
        ({"name": "x", "inner": {"size": -1}}, "run.inner.size: found -1, expected >= 0"),
        (
            {"name": "x", "inners": {"a": {"rate": "b"}}},
            "run.inners.a.rate: found text 'b', expected a number",
        ),
    ],
)
def test_a_wrong_key_or_value_is_refused_with_its_path(table, message):
    with pytest.raises(ConfigError) as caught:
        read(Outer, table, "run")
    assert str(caught.value) == message


def test_toml_that_is_none_names_the_file_and_the_place():
    with pytest.raises(ConfigError, match=r"x\.toml: not valid TOML: .*line 2"):
        parse_toml("a = 1\nb = = 2\n", "x.toml")


def test_overrides_are_toml_values_at_dotted_paths():
    before = {"a": {"x": 1, "list": [1]}, "b": {"c": {"d": 1}}}
    after = apply_overrides(
        before,
        [
            "a.x=2.5",
            "b.c.d = true",
            "new.deep.key=[1, 2]",
            'a.y="text"',
            "a.path=s3://bucket/x=1",
            "a.list=[3]",
        ],
    )
    assert after == {
        "a": {"x": 2.5, "y": "text", "path": "s3://bucket/x=1", "list": [3]},
        "b": {"c": {"d": True}},
        "new": {"deep": {"key": [1, 2]}},
    }
    assert before == {"a": {"x": 1, "list": [1]}, "b": {"c": {"d": 1}}}  # not touched


@pytest.mark.parametrize("override", ["a.x", "=1", "a..x=1", ".a=1", "a.=1"])
def test_an_override_without_a_key_or_value_is_refused(override):
    with pytest.raises(
        ConfigError, match=r"expected dotted\.key=value, for example --set training\.epochs=3"
    ):
        apply_overrides({}, [override])


def test_an_override_through_a_value_is_refused():
    with pytest.raises(ConfigError, match=r"--set a\.x\.y=1: a\.x is a value, not a section"):
        apply_overrides({"a": {"x": 1}}, ["a.x.y=1"])


def test_suggestions_name_the_nearest_word_or_all_of_them():
    assert (
        suggest("num_interest", ["num_interests", "name"], "model") == "; did you mean model.num_interests?"
    )
    assert suggest("qqq", ["b", "a"]) == "; known: a, b"


def test_a_config_survives_the_round_trip_through_toml():
    outer = Outer(
        name='quote " back \\ slash \n line \t tab é 日本 \x7f \x00',
        paths=("a b", "c"),
        sizes=(1, -2),
        limit=1e-7,
        extra={"a key": 1.5, "GPU": 2.0, "": 0.0, "d.e": 1e300},
        inner=Inner(rate=math.inf),
        inners={"x y": Inner(size=3), "z": Inner()},
    )
    text = to_toml(to_table(outer))
    assert read(Outer, tomllib.loads(text)) == outer
    assert to_toml(tomllib.loads(text)) == text


words = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
plain = st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), words)
values = st.one_of(plain, st.lists(plain, max_size=3))
tables = st.recursive(
    st.dictionaries(words, values, max_size=3),
    lambda inner: st.dictionaries(words, st.one_of(values, inner), max_size=3),
    max_leaves=6,
)


@given(tables)
def test_any_nested_tables_survive_the_round_trip_through_toml(table):
    assert parse_toml(to_toml(table), "x") == table


@given(tables)
def test_same_content_same_digest_whatever_the_order_of_keys(table):
    def turned(value):
        if isinstance(value, dict):
            return {key: turned(item) for key, item in reversed(value.items())}
        return value

    assert digest(turned(table)) == digest(table)
    assert len(digest(table)) == 16


def test_every_field_counts_in_the_digest():
    base = Outer(name="x")
    changed = [
        dataclasses.replace(base, **change)
        for change in (
            {"name": "y"},
            {"flag": True},
            {"sizes": (1,)},
            {"paths": ("",)},
            {"extra": {"a": 1.0}},
            {"limit": 0.0},
            {"inner": Inner(size=2)},
        )
    ]
    assert len({digest(outer) for outer in [base, *changed]}) == len(changed) + 1
    assert digest(base) == digest(Outer(name="x"))


def test_digests_are_pinned_because_manifests_hold_them():
    assert digest({"a": 1, "b": [1.5, "é", True]}) == "63779c3f4db86b65"
