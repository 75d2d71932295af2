"""MovieLens files of a few lines, in the published format; the expected tables are written by hand."""

import numpy as np
import pyarrow as pa
import pytest

from raysys.data.sources.movielens import ML1M_MEMBERS, ML100K_MEMBERS, read_ml1m, read_ml100k
from raysys.errors import DataError

GENRES = [
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
]


def film(item_id: int, title: str, date: str, *genres: str) -> str:
    flags = "|".join("1" if genre in genres else "0" for genre in GENRES)
    return f"{item_id}|{title}|{date}||http://us.imdb.com/M/title-exact?{item_id}|{flags}\n"


@pytest.fixture
def ml100k() -> dict[str, bytes]:
    items = (
        film(1, "Toy Story (1995)", "01-Jan-1995", "Animation", "Children's", "Comedy")
        + film(2, "Cité des enfants perdus, La (1995)", "15-Dec-1996", "Sci-Fi", "Adventure")
        + film(267, "unknown", "", "unknown")
        + film(3, "Land Before Time III (1995) (V)", "01-Jan-1995", "Animation")
        + film(4, "No year here", "02-Mar-1990")
    )
    contents = (
        b"2\t1\t3\t881250949\n1\t2\t5\t874965758\n1\t1\t4\t881250949\n1\t267\t1\t874965758\n2\t3\t2\t874965700\n",
        items.encode("latin-1"),
        b"1|24|M|technician|85711\n2|53|F|other|T8H1N\n",
        "".join(f"{genre}|{number}\n" for number, genre in enumerate(GENRES)).encode() + b"\n",
    )
    return dict(zip(ML100K_MEMBERS, contents, strict=True))


@pytest.fixture
def ml1m() -> dict[str, bytes]:
    contents = (
        b"1::1193::5::978300760\n1::661::3::978302109\n1::914::3::978300760\n2::1193::4::978298413\n"
        b"2::661::5::978300760\n",
        "661::James, and the Peach (1996)::Animation|Children's|Musical\r\n"
        '914::Mis\xe9rables, Les \x85 1900 (1995)::Drama\r\n1193::2001: "A" Film (1968) (V)::Drama\n'.encode(
            "latin-1"
        ),
        b"1::F::1::10::48067\n2::M::56::16::98107-2117\n",
    )
    return dict(zip(ML1M_MEMBERS, contents, strict=True))


class TestMl100k:
    def test_interactions_are_in_order_of_time_and_ties_in_file_order(self, ml100k: dict[str, bytes]) -> None:
        assert read_ml100k(ml100k)["interactions"].to_pydict() == {
            "user_id": ["2", "1", "1", "2", "1"],
            "item_id": ["3", "2", "267", "1", "1"],
            "timestamp": [874965700, 874965758, 874965758, 881250949, 881250949],
            "event_type": ["rating"] * 5,
            "rating": [2.0, 5.0, 1.0, 3.0, 4.0],
            "seq": [0, 0, 1, 1, 2],
        }

    def test_items_have_titles_as_published_genres_by_flag_and_the_year(
        self, ml100k: dict[str, bytes]
    ) -> None:
        assert read_ml100k(ml100k)["items"].to_pydict() == {
            "item_id": ["1", "2", "267", "3", "4"],
            "title": [
                "Toy Story (1995)",
                "Cité des enfants perdus, La (1995)",
                "unknown",
                "Land Before Time III (1995) (V)",
                "No year here",
            ],
            "genres": ["Animation|Children's|Comedy", "Adventure|Sci-Fi", "unknown", "Animation", ""],
            "release_year": [1995, 1995, None, 1995, 1990],
        }

    def test_users_are_strings(self, ml100k: dict[str, bytes]) -> None:
        assert read_ml100k(ml100k)["users"].to_pylist() == [
            {"user_id": "1", "age": "24", "gender": "M", "occupation": "technician", "zip_code": "85711"},
            {"user_id": "2", "age": "53", "gender": "F", "occupation": "other", "zip_code": "T8H1N"},
        ]

    def test_a_line_of_another_length_is_named(self, ml100k: dict[str, bytes]) -> None:
        ml100k["ml-100k/u.user"] += b"3|23|M|writer\n"
        with pytest.raises(DataError, match=r"ml-100k/u\.user line 3: found 4 fields, expected 5"):
            read_ml100k(ml100k)


class TestMl1m:
    def test_interactions_are_in_order_of_time_and_ties_in_file_order(self, ml1m: dict[str, bytes]) -> None:
        table = read_ml1m(ml1m)["interactions"]
        assert table.to_pydict() == {
            "user_id": ["2", "1", "1", "2", "1"],
            "item_id": ["1193", "1193", "914", "661", "661"],
            "timestamp": [978298413, 978300760, 978300760, 978300760, 978302109],
            "event_type": ["rating"] * 5,
            "rating": [4.0, 5.0, 3.0, 5.0, 3.0],
            "seq": [0, 0, 1, 1, 2],
        }
        types = [pa.string(), pa.string(), pa.int64(), pa.string(), pa.float32(), pa.int32()]
        assert table.schema.types == types

    def test_items_keep_latin_1_letters_and_commas(self, ml1m: dict[str, bytes]) -> None:
        items = read_ml1m(ml1m)["items"]
        assert items.to_pydict() == {
            "item_id": ["661", "914", "1193"],
            "title": [
                "James, and the Peach (1996)",
                "Misérables, Les \x85 1900 (1995)",
                '2001: "A" Film (1968) (V)',
            ],
            "genres": ["Animation|Children's|Musical", "Drama", "Drama"],
            "release_year": [1996, 1995, 1968],
        }
        assert items.schema.field("release_year").type == pa.int32()

    def test_users_keep_the_published_codes(self, ml1m: dict[str, bytes]) -> None:
        assert read_ml1m(ml1m)["users"].to_pylist() == [
            {"user_id": "1", "age": "1", "gender": "F", "occupation": "10", "zip_code": "48067"},
            {"user_id": "2", "age": "56", "gender": "M", "occupation": "16", "zip_code": "98107-2117"},
        ]

    @pytest.mark.parametrize("line", [b"1::2::five::978300760\n", b"1::2::5\n", b"1::2::5::\n"])
    def test_a_bad_rating_names_its_file(self, ml1m: dict[str, bytes], line: bytes) -> None:
        ml1m["ml-1m/ratings.dat"] += line
        with pytest.raises(DataError, match=r"ml-1m/ratings\.dat: expected user, item, rating, seconds"):
            read_ml1m(ml1m)

    def test_order_equals_a_plain_python_sort(self, ml1m: dict[str, bytes]) -> None:
        """Oracle: Python's stable sort and a counter per user, on 3,000 ratings within 40 seconds."""
        generator = np.random.default_rng(7)
        rows = [
            (str(user), str(item), 978300000 + int(second))
            for user, item, second in zip(
                generator.integers(1, 30, 3000), range(3000), generator.integers(0, 40, 3000), strict=True
            )
        ]
        ml1m["ml-1m/ratings.dat"] = "".join(f"{u}::{i}::5::{t}\n" for u, i, t in rows).encode()
        seen: dict[str, int] = {}
        expected = []
        for user, item, second in sorted(rows, key=lambda row: row[2]):
            seen[user] = seen.get(user, -1) + 1
            expected.append((user, item, second, seen[user]))
        table = read_ml1m(ml1m)["interactions"]
        columns = [table[name].to_pylist() for name in ("user_id", "item_id", "timestamp", "seq")]
        assert list(zip(*columns, strict=True)) == expected
