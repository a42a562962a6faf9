"""What tells the recordings below a folder from others, for every dry run."""

import os
import time
from pathlib import Path

import pytest

from sedflow.audio import AudioError
from sedflow.listing import listing_digest


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Notes are taken in the folder that one works in."""
    monkeypatch.chdir(tmp_path)


def test_a_listing_follows_names_and_contents_and_names_a_link_that_leads_nowhere(tmp_path):
    for name in ("one.wav", "two.flac", "notes.txt"):
        (tmp_path / name).write_bytes(b"four")
    before = listing_digest([str(tmp_path)])
    (tmp_path / "notes.txt").write_bytes(b"longer")
    os.utime(tmp_path / "one.wav", (1e9, 1e9))
    assert listing_digest([str(tmp_path)]) == before
    for content in (b"longer", b"others", bytes(20_000), bytes(10_000) + b"1" + bytes(9_999), bytes(19_999) + b"1"):
        (tmp_path / "two.flac").write_bytes(content)
        assert listing_digest([str(tmp_path)]) != before
        before = listing_digest([str(tmp_path)])
    (tmp_path / "three.wav").symlink_to(tmp_path / "gone.wav")
    with pytest.raises(AudioError, match=r"three\.wav: a link to a recording that does not exist; restore it"):
        listing_digest([str(tmp_path)])


@pytest.fixture
def own(tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    for name in ("one.wav", "two.wav"):
        (folder / name).write_bytes(b"four")
    return folder


@pytest.fixture
def later(monkeypatch):
    """Three seconds on: what has just been written is settled."""
    monkeypatch.setattr(time, "time_ns", lambda now=time.time_ns: now() + 3_000_000_000)


@pytest.fixture
def opened(monkeypatch):
    """Names of the recordings opened since it was cleared."""
    names, plain = [], Path.open

    def counted(path, *given, **options):
        if path.suffix == ".wav":
            names.append(path.name)
        return plain(path, *given, **options)

    monkeypatch.setattr(Path, "open", counted)
    return names


def test_a_file_is_opened_again_only_after_it_changed(own, later, opened):
    first = listing_digest([str(own)])
    assert sorted(opened) == ["one.wav", "two.wav"]
    opened.clear()
    assert listing_digest([str(own)]) == first
    assert not opened
    times = os.stat(own / "two.wav").st_mtime_ns
    (own / "two.wav").write_bytes(b"five")
    os.utime(own / "two.wav", ns=(times, times))  # as `cp -p` leaves it
    opened.clear()
    assert listing_digest([str(own)]) != first
    assert opened == ["two.wav"]


def test_no_note_is_taken_of_a_file_that_has_just_changed(own, opened):
    first = listing_digest([str(own)])
    opened.clear()
    assert listing_digest([str(own)]) == first
    assert sorted(opened) == ["one.wav", "two.wav"]


def test_broken_notes_are_taken_again(own, later, tmp_path):
    before = listing_digest([str(own)])
    (notes,) = (tmp_path / "work/listings").glob("*.json")
    whole = notes.read_text(encoding="utf-8")
    notes.write_text(whole[:10], encoding="utf-8")
    assert listing_digest([str(own)]) == before
    assert notes.read_text(encoding="utf-8") == whole
