"""Manifests: written last, read with every size checked, refused by name."""

import json

import pytest

import raysys.manifest
from raysys.errors import ManifestError
from raysys.manifest import FORMAT_VERSION, Manifest, find_manifest, read_manifest
from raysys.storage import MANIFEST, Folder


@pytest.fixture
def folder(tmp_path):
    folder = Folder(tmp_path / "features")
    folder.write_bytes("sequences/part-0.parquet", b"12345")
    folder.write_bytes("items.parquet", b"1")
    made = Manifest(kind="features", config_digest="c", parents={"log": "p"}, info={"items": 3, "é": [1.5]})
    made.write(folder)
    return folder


def edit(folder, **changes):
    table = folder.read_json(MANIFEST)
    table.update(changes)
    folder.write_json(MANIFEST, {name: value for name, value in table.items() if value is not None})


def test_a_manifest_survives_the_disk(folder):
    manifest = read_manifest(folder, "features", "prepare")
    assert manifest.files == {"items.parquet": 1, "sequences/part-0.parquet": 5}
    assert manifest.info == {"items": 3, "é": [1.5]}
    assert manifest == find_manifest(folder, "features")
    assert manifest.format_version == FORMAT_VERSION
    manifest.write(folder)
    assert read_manifest(folder, "features", "prepare") == manifest


def test_same_content_same_digest_and_any_change_another(folder):
    manifest = read_manifest(folder, "features", "prepare")
    table = json.loads(json.dumps(dict(reversed(list(vars(manifest).items())))))
    assert Manifest(**table).digest == manifest.digest
    for name, value in (("kind", "x"), ("config_digest", "x"), ("parents", {}), ("files", {}), ("info", {})):
        assert Manifest(**{**table, name: value}).digest != manifest.digest


def test_a_stage_may_skip_only_with_the_same_config_inputs_and_code(folder, monkeypatch):
    manifest = read_manifest(folder, "features", "prepare")
    assert manifest.matches("c", {"log": "p"})
    assert not manifest.matches("d", {"log": "p"})
    assert not manifest.matches("c", {"log": "q"})
    assert not manifest.matches("c", {"log": "p", "items": "r"})
    monkeypatch.setattr(raysys.manifest, "__version__", "999")
    assert not manifest.matches("c", {"log": "p"})


def test_a_folder_without_a_manifest_is_unfinished(tmp_path):
    with pytest.raises(ManifestError, match=r"no finished features here; run jobs/prepare\.py first"):
        read_manifest(Folder(tmp_path), "features", "prepare")
    assert find_manifest(Folder(tmp_path), "features") is None


def test_a_folder_of_another_kind_is_refused(folder):
    with pytest.raises(ManifestError, match="found kind features, expected checkpoint; check the path"):
        read_manifest(folder, "checkpoint", "train")
    assert find_manifest(folder, "checkpoint") is None


def test_another_format_version_is_refused_by_name(folder):
    edit(folder, format_version=99)
    with pytest.raises(
        ManifestError, match=r"format version 99, this code reads 2; run jobs/prepare\.py again"
    ):
        read_manifest(folder, "features", "prepare")
    assert find_manifest(folder, "features") is None


def test_a_file_of_another_size_is_named_with_both_sizes(folder):
    folder.write_bytes("items.parquet", b"12")
    with pytest.raises(ManifestError, match=r"items\.parquet: found 2 bytes, manifest\.json says 1; delete"):
        read_manifest(folder, "features", "prepare")


def test_a_missing_file_is_named(folder):
    (folder / "sequences").delete()
    with pytest.raises(ManifestError, match=r"sequences/part-0\.parquet: found 0 bytes"):
        read_manifest(folder, "features", "prepare")


@pytest.mark.parametrize("changes", [{"parents": None}, {"extra": 1}])
def test_missing_and_unknown_keys_are_a_damaged_manifest(folder, changes):
    edit(folder, **changes)
    for read in (read_manifest, lambda *_: find_manifest(folder, "features")):
        with pytest.raises(ManifestError, match=r"damaged: missing or unknown keys: .*; delete"):
            read(folder, "features", "prepare")


def test_a_manifest_that_is_no_table_is_refused(folder):
    folder.write_json(MANIFEST, [1])
    with pytest.raises(ManifestError, match="found kind list, expected features"):
        read_manifest(folder, "features", "prepare")
    assert find_manifest(folder, "features") is None


@pytest.mark.parametrize("text", ["", "{", "\x00"])
def test_a_manifest_that_is_no_json_is_refused_with_a_remedy(folder, text):
    folder.write_bytes(MANIFEST, text.encode())
    for read in (read_manifest, lambda *_: find_manifest(folder, "features")):
        with pytest.raises(ManifestError, match=r"manifest\.json: .*not valid JSON.*; delete .*features"):
            read(folder, "features", "prepare")


def test_a_folder_that_lost_a_file_does_not_count_as_finished(tmp_path):
    folder = Folder(tmp_path)
    folder.write_bytes("part.parquet", b"1234")
    Manifest(kind="features", config_digest="c", parents={}).write(folder)
    assert find_manifest(folder, "features") is not None
    (tmp_path / "part.parquet").unlink()
    assert find_manifest(folder, "features") is None
