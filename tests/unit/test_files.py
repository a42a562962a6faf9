"""Files are written whole or not at all."""

import json

import pytest

from sedflow.files import explain, replacing, write_json


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
