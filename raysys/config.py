"""TOML to frozen dataclasses, with errors that name the key, and a digest of what was configured.

The dataclasses are the schema: a key that is no field is refused with the nearest name, a value of another
type is refused with both types. Ranges belong to the `__post_init__` of each class, through `require`.
"""

import dataclasses
import datetime
import difflib
import hashlib
import json
import math
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from raysys.errors import ConfigError

T = TypeVar("T")


def parse_toml(text: str | bytes, where: str) -> dict[str, Any]:
    """Return the tables of a TOML document; `where` names it in the error."""
    try:
        return tomllib.loads(text if isinstance(text, str) else text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{where}: not valid TOML: {error}") from None


def apply_overrides(tables: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return a copy of `tables` with each `dotted.key=value` applied; a value is a TOML value or a bare word.

    Raises:
        ConfigError: no `=`, an empty key, or a key that runs through a value that is no table.
    """
    result: dict[str, Any] = _copy(tables)
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not all(part.strip() for part in key.split(".")):
            raise ConfigError(
                f"--set {override}: expected dotted.key=value, for example --set training.epochs=3"
            )
        _set(result, key, parse_value(text.strip()), f"--set {override}")
    return result


def apply_values(tables: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of `tables` with the value of each dotted key in its place.

    Raises:
        ConfigError: a key runs through a value that is no table.
    """
    result: dict[str, Any] = _copy(tables)
    for key, value in values.items():
        _set(result, key, value, key)
    return result


def _set(table: dict[str, Any], key: str, value: Any, where: str) -> None:
    path = [part.strip() for part in key.split(".")]
    for depth, part in enumerate(path[:-1]):
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise ConfigError(f"{where}: {'.'.join(path[: depth + 1])} is a value, not a section")
    table[path[-1]] = value


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value


def parse_value(text: str) -> Any:
    """Return the value of a TOML literal, or the text itself where it is none; undoes `to_literal`."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text  # a bare word such as a path; a field of another type refuses it with its name


def read(cls: type[T], table: Mapping[str, Any], path: str = "") -> T:
    """Return an instance of the dataclass `cls` made from a TOML table.

    Args:
        cls: a dataclass whose field types are bool, int, float, str, Literal, tuple[X, ...], dict[str, X], X
        | None
            or other dataclasses.
        table: parsed TOML.
        path: dotted path of the table, used in messages.
    Raises:
        ConfigError: unknown key, missing key, wrong type or a value out of range.
    """
    hints = typing.get_type_hints(cls)
    known = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in table:
        if key not in known:
            raise ConfigError(f"{_join(path, key)}: unknown key{suggest(key, known, path)}")
    values = {key: _convert(value, hints[key], _join(path, key)) for key, value in table.items()}
    for name, field in known.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise ConfigError(f"{_join(path, name)}: missing; this key has no default")
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{path}.{error}" if path else str(error)) from None


def suggest(word: str, known: typing.Iterable[str], path: str = "") -> str:
    """Return `; did you mean X?` for the nearest known word, or the list of known words."""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {_join(path, near[0])}?"
    return f"; known: {', '.join(names)}"


def require(condition: bool, message: str) -> None:
    """Raise ConfigError with `message` (which starts with the field's name) unless `condition` holds."""
    if not condition:
        raise ConfigError(message)


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _convert(value: Any, hint: Any, path: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(value, arguments, path)
    if origin is typing.Literal:
        if value not in arguments:
            names = [str(item) for item in arguments]
            raise ConfigError(f"{path}: found {value!r}, expected one of {', '.join(names)}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{path}: found {_kind(value)}, expected a list")
        return tuple(_convert(item, arguments[0], f"{path}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path}: found {_kind(value)}, expected a table")
        return {key: _convert(item, arguments[1], _join(path, key)) for key, item in value.items()}
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path}: found {_kind(value)}, expected a table")
        return read(hint, value, path)  # type: ignore[arg-type]
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is str and isinstance(value, datetime.date):  # TOML has dates; ours are ISO 8601 text
        return value.isoformat()
    if hint is Any or type(value) is hint:
        if hint is float and math.isnan(value):
            raise ConfigError(f"{path}: found nan, expected a number")
        return value
    raise ConfigError(f"{path}: found {_kind(value)} {value!r}, expected {_name(hint)}")


def _convert_union(value: Any, options: tuple[Any, ...], path: str) -> Any:
    if value is None:
        return None
    errors: list[str] = []
    for option in options:
        if option is type(None):
            continue
        try:
            return _convert(value, option, path)
        except ConfigError as error:
            errors.append(str(error))
    raise ConfigError(errors[0])


def _kind(value: Any) -> str:
    names = {
        bool: "a boolean",
        int: "an integer",
        float: "a number",
        str: "text",
        list: "a list",
        dict: "a table",
    }
    return names.get(type(value), type(value).__name__)


def _name(hint: Any) -> str:
    return {bool: "true or false", int: "an integer", float: "a number", str: "text"}.get(hint, str(hint))


def to_table(value: Any) -> Any:
    """Return plain TOML-like values (dict, list, str, int, float, bool) for a config; None fields are left
    out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        items = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
        return {name: to_table(item) for name, item in items if item is not None}
    if isinstance(value, Mapping):
        return {str(key): to_table(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_table(item) for item in value]
    return value


def to_toml(tables: Mapping[str, Any]) -> str:
    """Return a TOML document of nested tables; `parse_toml` gives the same tables back."""
    lines: list[str] = []
    _write_table(tables, [], lines)
    return "\n".join(lines).strip() + "\n"


def _write_table(table: Mapping[str, Any], path: list[str], lines: list[str]) -> None:
    plain = {key: value for key, value in table.items() if not isinstance(value, Mapping)}
    if path and (plain or not table):
        lines.extend(["", f"[{'.'.join(path)}]"])
    lines.extend(f"{_key(key)} = {to_literal(value)}" for key, value in plain.items())
    for key, value in table.items():
        if isinstance(value, Mapping):
            _write_table(value, [*path, _key(key)], lines)


def _key(key: str) -> str:
    bare = key.isascii() and key.replace("_", "").replace("-", "").isalnum()
    return key if bare else _quoted(key)


def to_literal(value: Any) -> str:
    """Return a plain value as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value)  # inf and nan are spelt the same in TOML
    if isinstance(value, list | tuple):
        return "[" + ", ".join(to_literal(item) for item in value) + "]"
    return _quoted(value) if isinstance(value, str) else json.dumps(value)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace(
        "\x7f", "\\u007f"
    )  # TOML forbids it as it is, JSON does not


def digest(value: Any) -> str:
    """Return 16 hex digits that depend on the content of a config or of nested plain values, not on key
    order."""
    text = json.dumps(to_table(value), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
