"""RetailRocket: views, carts and purchases of a web shop, 3 May to 18 September 2015.

https://www.kaggle.com/datasets/retailrocket/ecommerce-dataset (CC BY-NC-SA 4.0). `events.csv` has a header:
timestamp (milliseconds since 1970 UTC), visitorid, event (view, addtocart, transaction), itemid,
transactionid (empty but for transactions). 2,756,101 rows, not in order of time; a few hundred come twice.
"""

DATA = {
    "format": {"kind": "csv"},
    "columns": {"user": "visitorid", "item": "itemid", "time": "timestamp", "event": "event"},
    "time_unit": "ms",
    "known_events": ["view", "addtocart", "transaction"],
}
