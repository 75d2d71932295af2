"""MovieLens 100K.

https://grouplens.org/datasets/movielens/100k/ (free for research; not to be redistributed without asking).
`u.data` is separated by tabs: user, film, rating, seconds since 1970 UTC. `u.item` is separated by | and in
latin-1: film, title, release date, video release date (always empty), address, then 19 flags, one per genre
of `u.genre`, which are not features here. `u.user`, separated by |: user, age, gender, occupation, zip code.
"""

_GENRES = (
    "unknown action adventure animation children comedy crime documentary drama fantasy film_noir horror "
    "musical mystery romance sci_fi thriller war western"
)
_TEXT = {"kind": "csv", "quote": "", "header": False, "encodings": ["utf-8", "latin-1"]}

DATA = {
    "format": {**_TEXT, "separator": "\t", "columns": ["user_id", "item_id", "rating", "timestamp"]},
    "columns": {"user": "user_id", "item": "item_id", "time": "timestamp", "rating": "rating"},
    "time_unit": "s",
    "items": {
        "id": "item_id",
        "title": ["title"],
        "format": {
            **_TEXT,
            "separator": "|",
            "columns": ["item_id", "title", "release_date", "video_date", "address", *_GENRES.split()],
        },
        "features": {},
    },
    "users": {
        "id": "user_id",
        "format": {
            **_TEXT,
            "separator": "|",
            "columns": ["user_id", "age", "gender", "occupation", "zip_code"],
        },
        "features": {"age": {"kind": "numeric"}, "gender": {}, "occupation": {}},
    },
}
