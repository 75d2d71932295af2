"""Manifest: what a folder holds and what it was made from. Written last, so its presence means "finished"."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from raysys import __version__
from raysys.errors import DataError, ManifestError
from raysys.storage import MANIFEST, Folder

FORMAT_VERSION = 2


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The description of one output folder.

    `config_digest` and `parents` (name -> digest) decide whether a stage may skip itself; `digest` names the
    content for later stages. `files` maps a relative path to its size in bytes; `info` holds what the stage
    wants to say (counts of rows, rejected rows by reason, sizes, schema).
    """

    kind: str
    config_digest: str
    parents: dict[str, str]
    files: dict[str, int] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)
    code_version: str = __version__
    format_version: int = FORMAT_VERSION

    @property
    def digest(self) -> str:
        """16 hex digits of everything in the manifest."""
        text = json.dumps(vars(self), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def matches(self, config_digest: str, parents: Mapping[str, str]) -> bool:
        """Return whether this folder was made by this code from the same config and the same inputs."""
        same_inputs = self.config_digest == config_digest and self.parents == dict(parents)
        return same_inputs and self.code_version == __version__

    def write(self, folder: Folder) -> None:
        """Write `manifest.json` with the sizes of the files that are in the folder now."""
        files = {name: folder.size(name) for name in folder.files() if name != MANIFEST}
        folder.write_json(MANIFEST, {**vars(self), "files": files})


def find_manifest(folder: Folder, kind: str) -> Manifest | None:
    """Return the manifest of a finished, intact folder of this kind and format version, or None.

    Raises:
        ManifestError: a manifest that cannot be read.
    """
    if not folder.exists(MANIFEST):
        return None
    table = _read_table(folder)
    if (
        not isinstance(table, dict)
        or table.get("kind") != kind
        or table.get("format_version") != FORMAT_VERSION
    ):
        return None
    manifest = _manifest_of(table, folder)
    intact = all(folder.size(name) == size for name, size in manifest.files.items())
    return manifest if intact else None


def read_manifest(folder: Folder, kind: str, made_by: str) -> Manifest:
    """Return the manifest of a folder that must be there.

    Args:
        folder: the folder to read.
        kind: the kind that it must have.
        made_by: the job that makes it, named in the message.
    Raises:
        ManifestError: missing or unfinished folder, another kind, another format version, a file
            missing or of another size than recorded.
    """
    if not folder.exists(MANIFEST):
        raise ManifestError(f"{folder.uri}: no finished {kind} here; run jobs/{made_by}.py first")
    table = _read_table(folder)
    if not isinstance(table, dict) or table.get("kind") != kind:
        found = table.get("kind") if isinstance(table, dict) else type(table).__name__
        raise ManifestError(f"{folder.uri}/{MANIFEST}: found kind {found}, expected {kind}; check the path")
    if table.get("format_version") != FORMAT_VERSION:
        raise ManifestError(
            f"{folder.uri}/{MANIFEST}: format version {table.get('format_version')}, this code reads "
            f"{FORMAT_VERSION}; run jobs/{made_by}.py again"
        )
    manifest = _manifest_of(table, folder)
    for name, size in manifest.files.items():
        found_size = folder.size(name)
        if found_size != size:
            raise ManifestError(
                f"{folder.uri}/{name}: found {found_size} bytes, {MANIFEST} says {size}; "
                f"delete {folder.uri} and run jobs/{made_by}.py again"
            )
    return manifest


def _read_table(folder: Folder) -> Any:
    try:
        return folder.read_json(MANIFEST)
    except DataError as error:
        raise ManifestError(f"{error}; delete {folder.uri} and make it again") from None


def _manifest_of(table: dict[str, Any], folder: Folder) -> Manifest:
    names = {entry.name for entry in fields(Manifest)}
    if set(table) != names:
        odd = ", ".join(sorted(set(table) ^ names))
        raise ManifestError(
            f"{folder.uri}/{MANIFEST}: damaged: missing or unknown keys: {odd}; delete {folder.uri} and "
            f"make it again"
        )
    return Manifest(**table)
