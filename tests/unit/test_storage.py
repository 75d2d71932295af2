"""Folders: paths and URIs, whole files or none, and replacement of a folder in one step."""

import os
import pickle
from pathlib import Path

import pytest

from raysys.errors import ConfigError, DataError
from raysys.storage import MANIFEST, Folder, public_uri, replacing


def test_a_folder_reads_what_it_wrote(tmp_path):
    folder = Folder(tmp_path / "a b" / "é")
    folder.write_bytes("deep/x.bin", b"123")
    folder.write_json("y.json", {"é": [1, 2.5, None]})
    with folder.open_output("deep/er/z.bin") as file:
        file.write(b"abc")
    assert folder.files() == ["deep/er/z.bin", "deep/x.bin", "y.json"]
    assert folder.names() == ["deep", "y.json"]
    assert folder.names("deep") == ["er", "x.bin"]
    assert folder.names("nowhere") == []
    assert (folder / "deep").read_bytes("x.bin") == b"123"
    assert folder.read_json("y.json") == {"é": [1, 2.5, None]}
    assert folder.size("deep/x.bin") == 3
    assert folder.size("nothing") == 0
    assert folder.exists("deep")
    assert not folder.exists("nothing")
    folder.delete()
    assert not folder.exists()
    folder.delete()  # again: nothing to do
    assert folder.files() == []


def test_file_uris_are_the_same_folder_as_paths(tmp_path):
    Folder(tmp_path).write_bytes("x", b"1")
    named = Folder(f"file://{tmp_path}/")
    assert named.read_bytes("x") == b"1"
    assert named.is_local
    assert named.uri == f"file://{tmp_path}"


def test_a_relative_path_is_made_absolute_so_that_workers_find_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Folder("out").uri == str(tmp_path / "out")
    assert pickle.loads(pickle.dumps(Folder("out"))).uri == str(tmp_path / "out")
    assert repr(Folder("out")) == f"Folder('{tmp_path}/out')"


def test_a_home_path_is_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Folder("~/x").uri == f"{tmp_path}/x"


def test_an_unknown_scheme_is_a_config_error():
    with pytest.raises(ConfigError, match="nosuch://place: not a path or URI"):
        Folder("nosuch://place")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"x\.json: no such file"):
        Folder(tmp_path).read_json("x.json")


def test_json_that_is_none_is_named(tmp_path):
    Folder(tmp_path).write_bytes("x.json", b"{")
    with pytest.raises(DataError, match=r"x\.json: not valid JSON"):
        Folder(tmp_path).read_json("x.json")


def test_json_has_no_infinity(tmp_path):
    with pytest.raises(ValueError, match="Out of range"):
        Folder(tmp_path).write_json("x.json", float("inf"))
    assert not Folder(tmp_path).exists("x.json")


def test_a_write_that_fails_keeps_the_old_content(tmp_path, monkeypatch):
    folder = Folder(tmp_path)
    folder.write_bytes("x", b"old")

    def full(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        folder.write_bytes("x", b"new")
    assert folder.read_bytes("x") == b"old"


def test_replacing_shows_the_new_folder_only_when_it_is_whole(tmp_path):
    target = Folder(tmp_path / "out" / "features")
    with replacing(target) as staged:
        staged.write_bytes("x", b"1")
        assert not target.exists()
    assert target.files() == ["x"]
    with replacing(target) as staged:
        staged.write_bytes("y", b"2")
        assert target.files() == ["x"]
    assert target.files() == ["y"]
    assert Folder(tmp_path / "out").names() == ["features"]


def write_and_fail(target, error):
    with replacing(target) as staged:
        staged.write_bytes("x", b"2")
        raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_replacing_keeps_the_old_folder_when_the_block_fails(tmp_path, error):
    target = Folder(tmp_path / "features")
    with replacing(target) as staged:
        staged.write_bytes("x", b"1")
    with pytest.raises(error):
        write_and_fail(target, error)
    assert target.read_bytes("x") == b"1"
    assert Folder(tmp_path).names() == ["features"]


def test_replacing_removes_what_a_killed_process_left(tmp_path):
    (tmp_path / ".features.partial-dead").mkdir()
    (tmp_path / ".features.partial-dead" / "x").write_text("half")
    (tmp_path / ".vectors.partial-other").mkdir()
    with replacing(Folder(tmp_path / "features")) as staged:
        staged.write_bytes("x", b"1")
    assert Folder(tmp_path).names() == [".vectors.partial-other", "features"]


def test_an_object_store_folder_is_finished_when_its_manifest_is_written_last(tmp_path, monkeypatch):
    # a local disk plays the store, which cannot rename folders
    monkeypatch.setattr(Folder, "is_local", False)
    target = Folder(tmp_path / "features")
    with replacing(target) as staged:
        staged.write_bytes("x", b"1")
        staged.write_bytes(MANIFEST, b"{}")
    with pytest.raises(ValueError, match="stop"):
        write_and_fail(target, ValueError("stop"))
    assert not target.exists(MANIFEST)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://key:secret@bucket/a/b", "s3://bucket/a/b"),
        ("s3://bucket/a?secret_key=x&region=y", "s3://bucket/a"),
        ("/plain/path?with=mark", "/plain/path?with=mark"),
        ("gs://bucket", "gs://bucket"),
    ],
)
def test_credentials_are_not_shown(text, shown):
    assert public_uri(text) == shown


def test_a_folder_of_an_object_store_keeps_its_query_and_hides_it():
    folder = Folder("s3://key:secret@bucket/runs?region=eu-west-1&scheme=http") / "a"
    again = pickle.loads(pickle.dumps(folder))
    for one in (folder, again):
        assert (one.uri, one.path, one.is_local) == ("s3://bucket/runs/a", "bucket/runs/a", False)
        assert one.filesystem.region == "eu-west-1"
        assert "secret" not in repr(one)
        above, name = one.parent
        assert (above.path, name) == ("bucket/runs", "a")


def test_a_copy_on_one_disk_shares_the_bytes_and_outlives_the_original(tmp_path):
    one, two = Folder(tmp_path / "one"), Folder(tmp_path / "two")
    one.write_bytes("x", b"1")
    one.copy("x", two, "deep/y")
    assert os.stat(tmp_path / "one/x").st_ino == os.stat(tmp_path / "two/deep/y").st_ino
    one.write_bytes("x", b"2")  # replaces the name, not the bytes
    assert two.read_bytes("deep/y") == b"1"
    one.delete()
    assert two.read_bytes("deep/y") == b"1"


def test_a_copy_that_is_made_twice_leaves_both_files_whole(tmp_path):
    # a task that Ray tries again finds the link of its first try, which shares the bytes of the original
    one, two = Folder(tmp_path / "one"), Folder(tmp_path / "two")
    one.write_bytes("x", b"precious")
    for _ in range(2):
        one.copy("x", two, "y")
    assert one.read_bytes("x") == two.read_bytes("y") == b"precious"


def test_a_copy_where_there_are_no_hard_links_has_its_own_bytes(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    one, two = Folder(tmp_path / "one"), Folder(tmp_path / "two")
    one.write_bytes("x", b"1")
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", refuse)
        one.copy("x", two, "y")
    with monkeypatch.context() as patch:
        patch.setattr(Folder, "is_local", False)
        one.copy("x", two, "z")
    for name in ("y", "z"):
        assert two.read_bytes(name) == b"1"
        assert os.stat(tmp_path / "two" / name).st_ino != os.stat(tmp_path / "one/x").st_ino
