"""Tmall repeat buyers (IJCAI-15): half a year of behaviour up to 11 November 2014.

https://tianchi.aliyun.com/dataset/42 (a login is needed; terms of use on that page). `user_log_format1.csv`
has a header: user_id, item_id, cat_id, seller_id, brand_id, time_stamp, action_type (0 click, 1 cart,
2 purchase, 3 favourite). `time_stamp` is month and day of 2014 without a leading zero (511 is 11 May), so all
events of a day are tied and the order of the file settles them; the same action may well come twice a day, so
that equal rows are kept. `brand_id` is empty here and there. `user_info_format1.csv`: user_id, age_range
(0 and empty: unknown), gender (0 female, 1 male, 2 and empty: unknown).
"""

DATA = {
    "format": {"kind": "csv"},
    "columns": {
        "user": "user_id",
        "item": "item_id",
        "time": "time_stamp",
        "event": "action_type",
        "category": "cat_id",
        "seller": "seller_id",
        "brand": "brand_id",
    },
    "time_format": "%m%d",
    "time_year": 2014,
    "time_zone": "Asia/Shanghai",
    "known_events": ["0", "1", "2", "3"],
    "keep_duplicates": True,
    "users": {
        "id": "user_id",
        "format": {"kind": "csv"},
        "features": {"age_range": {}, "gender": {}},
    },
}
