"""What the doctor looks for: each failure is one small function that returns a `Check`.

No Ray, and no function of the package that is itself under suspicion: what should be is worked out again.
"""
