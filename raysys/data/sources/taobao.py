"""Taobao UserBehavior: clicks, purchases, carts and favourites of 25 November to 3 December 2017.

https://tianchi.aliyun.com/dataset/649 (CC BY-NC-SA 4.0; a login is needed). `UserBehavior.csv` has no header;
its columns are user, item, category, behaviour (pv, buy, cart, fav) and seconds since 1970. 100,150,807 rows.
A few hundred times are far off, some negative: those outside 1980 to 2100 are rejected; the others, in 2017
and before or after the nine days, are kept as they are. Days are those of China, seconds are UTC.
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
