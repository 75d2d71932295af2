"""Transfers from a real local web server; the oracle of each is the served content."""

import io
import time
from pathlib import Path

import pytest

from raysys.data import fetch
from raysys.errors import DataError
from tests.unit.data.download.site import CONTENT, SHA256, SIZE, Site, closed_port


def get(site: Site, part: Path, progress: io.StringIO | None = None) -> None:
    fetch.fetch(site.url, part, size=SIZE, sha256=SHA256, progress=progress)


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
        class Terminal(io.StringIO):
            def isatty(self) -> bool:
                return True

        progress = Terminal()
        get(site, part, progress)
        assert progress.getvalue().startswith("\rarchive.zip: ")
        assert progress.getvalue().count("\n") == 1
