"""Published logs, one small file each: what `[data] source = "<name>"` fills in."""

from collections.abc import Mapping
from typing import Any

from raysys.config import suggest
from raysys.data.sources import (
    movielens_100k,
    movielens_csv,
    movielens_dat,
    retailrocket,
    taobao,
    tmall,
)
from raysys.errors import ConfigError

SOURCES: dict[str, Mapping[str, Any]] = {
    "movielens_100k": movielens_100k.DATA,
    "movielens_csv": movielens_csv.DATA,
    "movielens_dat": movielens_dat.DATA,
    "retailrocket": retailrocket.DATA,
    "taobao": taobao.DATA,
    "tmall": tmall.DATA,
}
"""Name -> the keys of `[data]` that describe the published files; paths are left to the run file."""


def with_source(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the table `[data]` with what its `source` describes under what it says itself.

    A side table of the source counts where the run file has that table, which names its path.

    Raises:
        ConfigError: no such source.
    """
    name = data.get("source", "")
    if not name or not isinstance(name, str):
        return dict(data)  # what is no text is refused where the section is read
    if name not in SOURCES:
        raise ConfigError(f"data.source: unknown data set {name!r}{suggest(name, SOURCES)}")
    described = {
        key: value for key, value in SOURCES[name].items() if key in data or key not in ("items", "users")
    }
    return _under(described, data)


def _under(described: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(described)
    for key, value in said.items():
        below: Any = merged.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            merged[key] = _under(below, value)
        else:
            merged[key] = value
    return merged
