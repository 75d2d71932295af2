"""MovieLens as .dat: 1M and 10M.

https://grouplens.org/datasets/movielens/ (free for research; not to be redistributed without asking). Fields
are separated by `::`, nothing is quoted and there is no header. `ratings.dat`: user, film, rating, seconds
since 1970 UTC. `movies.dat`: film, title, genres joined by |. `users.dat` (1M only): user, gender, age group,
occupation (codes), zip code. 1M is in latin-1, 10M in UTF-8.
"""

_TEXT = {"kind": "csv", "separator": "::", "quote": "", "header": False, "encodings": ["utf-8", "latin-1"]}

DATA = {
    "format": {**_TEXT, "columns": ["user_id", "item_id", "rating", "timestamp"]},
    "columns": {"user": "user_id", "item": "item_id", "time": "timestamp", "rating": "rating"},
    "time_unit": "s",
    "items": {
        "id": "item_id",
        "title": ["title"],
        "format": {**_TEXT, "columns": ["item_id", "title", "genres"]},
        "features": {"genres": {"kind": "multi_valued", "separator": "|"}},
    },
    "users": {
        "id": "user_id",
        "format": {**_TEXT, "columns": ["user_id", "gender", "age", "occupation", "zip_code"]},
        "features": {"gender": {}, "age": {}, "occupation": {}},
    },
}
