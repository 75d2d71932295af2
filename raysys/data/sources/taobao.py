"""Taobao UserBehavior: clicks, purchases, carts and favourites of 25 November to 3 December 2017.

https://tianchi.aliyun.com/dataset/649 (a login is needed; terms of use on that page). `UserBehavior.csv` has
no header; its columns are user, item, category, behaviour (pv, buy, cart, fav) and seconds since 1970 UTC;
100,150,807 rows. Some times are far outside the nine days: those before 1980 (some are negative) or after
2100 are rejected, the others are kept as they are. The nine days are those of China.
"""

DATA = {
    "format": {
        "kind": "csv",
        "header": False,
        "columns": ["user_id", "item_id", "category_id", "behavior_type", "timestamp"],
    },
    "columns": {
        "user": "user_id",
        "item": "item_id",
        "time": "timestamp",
        "event": "behavior_type",
        "category": "category_id",
    },
    "time_unit": "s",
    "known_events": ["pv", "buy", "cart", "fav"],
}
