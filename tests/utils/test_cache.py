"""Entries of the cache: made once, and believed only as they were written."""

import json
import os
import shutil

import pytest

from biencoder_ablate.utils.cache import entry_path, load_entry, load_or_make, locked_entry, save_entry, seal


def read(path):
    return json.loads(path.read_text("utf-8"))


def write(value, file):
    file.write(json.dumps(value).encode())


@pytest.fixture
def entry(tmp_path):
    path = entry_path(tmp_path / "cache", "numbers-1", ".json", "a", 1)
    assert load_or_make(path, read, lambda: [1, 2, 3], write) == [1, 2, 3]
    return path


def made_anew(path):
    return load_or_make(path, read, lambda: "new", write)


def test_an_entry_is_named_by_what_determines_it(tmp_path):
    names = {entry_path(tmp_path, "f", ".x", *values).name for values in [(1, 2), (2, 1), (1,), ("1", "2")]}
    assert len(names) == 3, "1 and '1' are written alike, the order counts"
    assert all(name.endswith(".x") and len(name) == 34 for name in names)


def test_an_entry_is_made_once(entry):
    assert made_anew(entry) == [1, 2, 3]


DAMAGES = {
    "one byte changed": lambda path: path.write_bytes(path.read_bytes().replace(b"2", b"9")),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "exchanged for another that can be read": lambda path: path.write_text("[4]", "utf-8"),
    "emptied": lambda path: path.write_bytes(b""),
    "a directory in its place": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_entry_is_said_and_not_believed(entry, damage, capsys):
    damage(entry)
    assert load_entry(entry, read) is None
    error = capsys.readouterr().err
    assert str(entry) in error and "made anew" in error and error.count("\n") == 1


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_entry_is_made_anew_and_whole_again(entry, damage, capsys):
    damage(entry)
    assert made_anew(entry) == "new"
    assert load_entry(entry, read) == "new"


def test_what_cannot_be_read_is_damaged_though_its_checksum_fits(entry, capsys):
    save_entry(entry, lambda file: file.write(b"no JSON"))
    assert load_entry(entry, read) is None
    assert "JSONDecodeError" in capsys.readouterr().err


def test_an_entry_without_its_checksum_is_not_there(entry, capsys):
    (entry.parent / f"{entry.name}.sha256").unlink()
    assert made_anew(entry) == "new"
    assert capsys.readouterr().err == "", "as after a kill between the two"


def test_what_a_killed_process_left_is_removed(entry):
    left, other = entry.parent / f".{entry.name}.abc.part", entry.parent / ".another.json.abc.part"
    left.write_text("half")
    other.write_text("another's")
    with locked_entry(entry):
        assert not left.exists() and other.exists()


def test_a_directory_is_an_entry_as_well(tmp_path, capsys):
    path = tmp_path / "model"
    (path / "inner").mkdir(parents=True)
    (path / "inner" / "weights").write_bytes(b"123")
    seal(path)
    names = lambda place: sorted(file.name for file in place.rglob("*"))  # noqa: E731
    assert load_entry(path, names) == ["inner", "weights"]
    shutil.move(path / "inner" / "weights", path / "weights")
    assert load_entry(path, names) is None


def test_nobody_else_looks_into_the_cache(entry, tmp_path):
    assert os.stat(tmp_path / "cache").st_mode & 0o077 == 0
    assert os.stat(entry.parent).st_mode & 0o077 == 0


def test_without_standard_error_nothing_is_said(entry, monkeypatch):
    monkeypatch.setattr("sys.stderr", None)
    entry.write_text("[4]")
    assert load_entry(entry, read) is None
