"""Files are written whole or not at all."""

import json
import os
import threading

import pytest

from sedflow.files import check_writable, explain, replacing, write_json, write_text


def test_folders_are_made_and_the_temporary_name_is_gone(tmp_path):
    path = tmp_path / "a" / "b.json"
    write_json(path, {"z": 1, "a": [2]})
    assert json.loads(path.read_text()) == {"z": 1, "a": [2]}
    assert [file.name for file in path.parent.iterdir()] == ["b.json"]


def test_an_error_on_the_way_leaves_the_old_file(tmp_path):
    path = tmp_path / "b.json"
    write_json(path, {"old": 1})
    with pytest.raises(OSError, match="disk full"), replacing(path) as unfinished:
        unfinished.write_text("half")
        raise OSError("disk full")
    assert json.loads(path.read_text()) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("missing", [False, True])
def test_a_link_stays_and_leads_to_what_is_written(tmp_path, missing):
    target, link = tmp_path / "elsewhere/a.json", tmp_path / "a.json"
    if not missing:
        write_json(target, {"old": 1})
    link.symlink_to(target)
    check_writable(link)
    write_json(link, {"new": 1})
    assert link.is_symlink() and json.loads(target.read_text()) == {"new": 1}
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.json", "a.json", "elsewhere"]


def test_what_a_link_leads_to_is_kept_if_it_is_protected(tmp_path):
    target, link = tmp_path / "cached", tmp_path / "a.json"
    target.write_text("of a cache")
    target.chmod(0o444)
    link.symlink_to(target)
    write_json(link, {"new": 1})
    assert not link.is_symlink() and target.read_text() == "of a cache"


def test_a_pipe_or_a_device_is_written_into(tmp_path):
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    check_writable(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()), daemon=True)
    reader.start()
    write_text(pipe, "hello")
    reader.join(timeout=10)
    assert got == ["hello"] and list(tmp_path.iterdir()) == [pipe] and pipe.is_fifo()
    ours, theirs = os.pipe()
    with os.fdopen(ours) as end:
        check_writable(f"/dev/fd/{theirs}")
        write_text(f"/dev/fd/{theirs}", "hello")
        os.close(theirs)
        assert end.read() == "hello"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda folder: write_json(folder, {}), "{0}: this is a folder; name a file"),
        (lambda folder: (folder / "nope").read_bytes(), "{0}/nope: no such file or folder; check the path"),
        (lambda folder: (folder / "file").mkdir(), "{0}/file: this is a file where a folder is needed"),
        (lambda folder: (folder / "file/below").read_bytes(), "{0}/file/below: a part of this path is a file"),
    ],
)
def test_an_impossible_path_is_told_with_a_cure(tmp_path, wrong, said):
    (tmp_path / "file").touch()
    with pytest.raises(OSError) as caught:
        wrong(tmp_path)
    assert explain(caught.value).startswith(said.format(tmp_path))
    assert not list(tmp_path.glob("*.part"))


def test_an_error_of_no_file_keeps_its_own_words():
    assert explain(ConnectionRefusedError("nobody listens")) == "nobody listens"
