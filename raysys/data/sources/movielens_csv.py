"""MovieLens as CSV: 20M, 25M, 32M and ml-latest.

https://grouplens.org/datasets/movielens/ (free for research; not to be redistributed without asking).
`ratings.csv` has a header: userId, movieId, rating (0.5 to 5 in halves), timestamp (seconds since 1970 UTC).
`movies.csv`: movieId, title, genres joined by |; titles with a comma are quoted. UTF-8.
"""

DATA = {
    "format": {"kind": "csv"},
    "columns": {"user": "userId", "item": "movieId", "time": "timestamp", "rating": "rating"},
    "time_unit": "s",
    "items": {
        "id": "movieId",
        "title": ["title"],
        "format": {"kind": "csv"},
        "features": {"genres": {"kind": "multi_valued", "separator": "|"}},
    },
}
