"""Files are written whole or not at all."""

import json

import pytest

from sedflow.files import replacing, write_json


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
