"""Placement groups of workers whose training lost its process.

Ray 2.60 removes the group of a trainer when the trainer ends it or when the job ends, and not when the
process that started it dies: in a search the CPUs or GPUs of a killed trial would stay reserved, and the
trial, started again, would wait for them for ever.
"""

import logging

import ray
from ray import PlacementGroupID
from ray.util import placement_group_table, remove_placement_group
from ray.util.placement_group import PlacementGroup

from raysys.logs import fields
from raysys.storage import Folder

logger = logging.getLogger(__name__)

FILE = "group.json"


def own_group() -> str | None:
    """Return the id of the placement group that this worker is in, as hex."""
    group = ray.util.get_current_placement_group()
    return group.id.hex() if group else None


def note_group(folder: Folder, group: str | None) -> None:
    """Write down which group the workers of a training are in."""
    folder.write_json(FILE, {"group": group})


def free_group(folder: Folder) -> None:
    """Remove the group that was written down, if it is still there; of another cluster there is none."""
    if not folder.exists(FILE):
        return
    group = folder.read_json(FILE)["group"]
    known = placement_group_table()
    if group in known and known[group]["state"] != "REMOVED":
        remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(group))))
        logger.info(fields(freed="the workers' place of a training that lost its process", group=group))
    folder.delete_file(FILE)
