"""How much data a run has: read from finished features, or worked out from a sample of the log."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raysys.data.budget import part_samples
from raysys.data.shapes import SampleShape
from raysys.manifest import Manifest
from raysys.storage import Folder


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Counts of a run's data, and the bytes of what is stored of it.

    Attributes:
        source: where the counts come from, in words.
        is_exact: False where they are estimates.
        rows: of the log.
        events, users, items: after rejected and dropped rows and the core; without the reserved ids.
        train_events: of these events.
        samples: training samples of an epoch, those of `training.samples_per_user`.
        queries: users of the validation part.
        parts: sequence files.
        largest_part: events of the largest one.
        event_bytes: on disk, of events and sequences together.
        item_bytes, user_bytes: on disk, of item table and vocabularies.
    """

    source: str
    is_exact: bool
    rows: int
    events: int
    users: int
    items: int
    train_events: int
    samples: int
    queries: int
    parts: int
    largest_part: int
    event_bytes: int
    item_bytes: int
    user_bytes: int

    @property
    def feature_bytes(self) -> int:
        """Bytes of `features/` on disk."""
        return self.event_bytes + self.item_bytes + self.user_bytes


def stored_bytes(files: Mapping[str, int]) -> dict[str, int]:
    """Return the bytes on disk of a features folder that grow with events, with items and with users.

    Args:
        files: path in the folder -> bytes.
    """
    names = {"event_bytes": 0, "item_bytes": 0, "user_bytes": 0}
    for name, size in files.items():
        of_items = name == "items.parquet" or name.startswith("vocabularies/item")
        of_users = name.startswith("vocabularies/user")
        names["item_bytes" if of_items else "user_bytes" if of_users else "event_bytes"] += size
    return names


def sizes_of(features: Folder, manifest: Manifest, shape: SampleShape | None, budget: int) -> Sizes:
    """Return the sizes of finished features, exactly.

    Args:
        features: the folder.
        manifest: of the folder.
        shape: of the training samples; None where a model learns without them.
        budget: samples of a user in an epoch at most; 0: all.
    """
    info: Mapping[str, Any] = manifest.info
    samples = info["train_events"]
    if shape is not None:
        samples = sum(part_samples(features, info, shape, budget).values())
    return Sizes(
        source=f"{features.uri} (exact)",
        is_exact=True,
        rows=info["rows"],
        events=info["events"],
        users=info["users"],
        items=info["items"],
        train_events=info["train_events"],
        samples=samples,
        queries=info["queries"]["valid"],
        parts=len(info["part_events"]),
        largest_part=max(info["part_events"].values()),
        **stored_bytes(manifest.files),
    )
