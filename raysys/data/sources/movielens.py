"""MovieLens 100K and 1M (Harper and Konstan 2015): the published files to interactions, items and users.

Both are latin-1 text. 100K has tab-separated ratings (user, film, rating, seconds); its films and users are
separated by a vertical bar, with one 0/1 flag per genre of `u.genre`. 1M separates by `::` and names the
genres. Titles are kept as published, with the year in brackets; `release_year` is that year.
"""

import re
from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from raysys.errors import DataError

ML100K_MEMBERS = ("ml-100k/u.data", "ml-100k/u.item", "ml-100k/u.user", "ml-100k/u.genre")
ML1M_MEMBERS = ("ml-1m/ratings.dat", "ml-1m/movies.dat", "ml-1m/users.dat")

_FILM_FIELDS = 5  # id, title, release date, video release date, address; the genre flags follow
_YEAR_IN_TITLE = re.compile(r"\((\d{4})\)")
_RATING_TYPES = {
    "user_id": pa.string(),
    "item_id": pa.string(),
    "rating": pa.float32(),
    "timestamp": pa.int64(),
}
_USER_COLUMNS = ("user_id", "age", "gender", "occupation", "zip_code")


def read_ml100k(files: Mapping[str, bytes]) -> dict[str, pa.Table]:
    """Return the three tables of MovieLens 100K.

    Args:
        files: content of `ML100K_MEMBERS`, by name.
    Raises:
        DataError: a line has another number of fields than published, or a number that is none.
    """
    ratings, films, people, genre_list = ML100K_MEMBERS
    genres = [name for name, _ in sorted(_rows(files, genre_list, "|", 2), key=lambda row: int(row[1]))]
    items: list[tuple[str, str, str, int | None]] = []
    for row in _rows(files, films, "|", _FILM_FIELDS + len(genres)):
        names = (genre for genre, flag in zip(genres, row[_FILM_FIELDS:], strict=True) if flag == "1")
        items.append((row[0], row[1], "|".join(names), _year(row[1]) or _year(f"({row[2][-4:]})")))
    users = [tuple(row) for row in _rows(files, people, "|", len(_USER_COLUMNS))]
    return {
        "interactions": _interactions(ratings, files[ratings]),
        "items": _items(items),
        "users": _strings(_USER_COLUMNS, users),
    }


def read_ml1m(files: Mapping[str, bytes]) -> dict[str, pa.Table]:
    """Return the three tables of MovieLens 1M; age and occupation stay the published codes.

    Args:
        files: content of `ML1M_MEMBERS`, by name.
    Raises:
        DataError: a line has another number of fields than published, or a number that is none.
    """
    ratings, films, people = ML1M_MEMBERS
    items = [(item, title, genres, _year(title)) for item, title, genres in _rows(files, films, "::", 3)]
    users = [
        (user, age, gender, occupation, zip_code)
        for user, gender, age, occupation, zip_code in _rows(files, people, "::", 5)
    ]
    return {
        "interactions": _interactions(ratings, files[ratings].replace(b"::", b"\t")),
        "items": _items(items),
        "users": _strings(_USER_COLUMNS, users),
    }


def _rows(files: Mapping[str, bytes], name: str, separator: str, num_fields: int) -> Iterator[list[str]]:
    """Yield the fields of the lines that are not empty."""
    # split, not splitlines: the latter also splits at latin-1 0x85
    for number, line in enumerate(files[name].decode("latin-1").split("\n"), start=1):
        if not line.strip():
            continue
        row = line.rstrip("\r").split(separator)
        if len(row) != num_fields:
            raise DataError(f"{name} line {number}: found {len(row)} fields, expected {num_fields}")
        yield row


def _year(title: str) -> int | None:
    years = _YEAR_IN_TITLE.findall(title)
    return int(years[-1]) if years else None


def _interactions(name: str, text: bytes) -> pa.Table:
    """Parse tab-separated ratings; return them in order of time, those of one second in file order."""
    try:
        ratings = pacsv.read_csv(
            pa.BufferReader(text),
            read_options=pacsv.ReadOptions(column_names=list(_RATING_TYPES)),
            parse_options=pacsv.ParseOptions(delimiter="\t", quote_char=False),
            convert_options=pacsv.ConvertOptions(column_types=_RATING_TYPES, null_values=[]),
        )
    except pa.ArrowInvalid as error:
        raise DataError(f"{name}: expected user, item, rating, seconds on every line: {error}") from None
    ratings = ratings.take(pa.array(np.argsort(ratings["timestamp"].to_numpy(), kind="stable")))
    return pa.table(
        {
            "user_id": ratings["user_id"],
            "item_id": ratings["item_id"],
            "timestamp": ratings["timestamp"],
            "event_type": pa.array(["rating"]).take(pa.array(np.zeros(len(ratings), dtype=np.int64))),
            "rating": ratings["rating"],
            "seq": pa.array(_count_within(ratings["user_id"])),
        }
    )


def _count_within(groups: pa.ChunkedArray) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    """Return how many earlier rows have the same value: 0, 1, 2 ... within each group, int32."""
    codes = groups.combine_chunks().dictionary_encode().indices.to_numpy()
    by_group = np.argsort(codes, kind="stable")
    counts = np.bincount(codes)
    first = np.cumsum(counts) - counts
    result = np.empty(len(codes), dtype=np.int32)
    result[by_group] = np.arange(len(codes)) - np.repeat(first, counts)
    return result


def _items(rows: list[tuple[str, str, str, int | None]]) -> pa.Table:
    strings = _strings(("item_id", "title", "genres"), [row[:3] for row in rows])
    return strings.append_column("release_year", pa.array([row[3] for row in rows], pa.int32()))


def _strings(names: tuple[str, ...], rows: list[tuple[str, ...]]) -> pa.Table:
    return pa.table({name: pa.array([row[i] for row in rows], pa.string()) for i, name in enumerate(names)})
