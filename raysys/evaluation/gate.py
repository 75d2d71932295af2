"""What gated fusion takes from the session and from the long term, by the length of the session."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LENGTHS = (0, 1, 2, 3, 5, 10, 20, 50)
"""Where the buckets of session lengths begin, in items."""
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)


@dataclass(frozen=True, eq=False)
class GateValues:
    """Values per user; those of blocks of users are put together in any order.

    Attributes:
        lengths: (Q,) int64, items in the session.
        gates: (Q,) float32, the mean share of the session in the user vector, in [0, 1].
    """

    lengths: NDArray[np.int64]
    gates: NDArray[np.float32]

    def merge(self, other: "GateValues") -> "GateValues":
        """Return the values of the users of both."""
        return GateValues(
            np.concatenate([self.lengths, other.lengths]), np.concatenate([self.gates, other.gates])
        )

    def result(self) -> dict[str, Any]:
        """Return `users`, `mean`, and per bucket of lengths with users `length`, `users`, `mean` and
        `quantiles` (those of `QUANTILES`)."""
        place = np.searchsorted(LENGTHS, self.lengths, side="right") - 1
        rows: list[dict[str, Any]] = []
        for bucket, start in enumerate(LENGTHS):
            mine = np.sort(self.gates[place == bucket].astype(np.float64))
            if len(mine):
                rows.append(
                    {
                        "length": _name(bucket, start),
                        "users": len(mine),
                        "mean": float(mine.mean()),
                        "quantiles": np.quantile(mine, QUANTILES).tolist(),
                    }
                )
        return {"users": len(self.gates), "mean": float(np.sort(self.gates).mean()), "by_length": rows}


def _name(bucket: int, start: int) -> str:
    stop = LENGTHS[bucket + 1] - 1 if bucket + 1 < len(LENGTHS) else None
    return f"{start}+" if stop is None else str(start) if stop == start else f"{start}-{stop}"
