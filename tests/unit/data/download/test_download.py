"""The download job against a real local web server."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs import download as job
from raysys.data import download
from raysys.errors import ConfigError, DataError
from tests.unit.data.download.site import CONTENT, SHA256, Site, closed_port, pin, zip_of

ROOT = Path(__file__).parents[4]


ML1M = {
    "ml-1m/ratings.dat": b"1::10::5::978300760\n2::20::3::978300100\n1::20::4::978300760\n",
    "ml-1m/movies.dat": "10::Am\xe9lie (2001)::Comedy|Romance\n20::Heat (1995)::Action\n".encode("latin-1"),
    "ml-1m/users.dat": b"1::F::1::10::48067\n2::M::56::16::70072-1234\n",
}


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
