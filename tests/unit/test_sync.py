"""The notes between the ledgers of Snakemake and DVC survive a kill: half of them would stop every plan."""

import json
from pathlib import Path

import pytest

from sedflow import sync


def test_notes_that_a_kill_cuts_off_leave_the_old_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sync.remember()
    old = sync.MADE.read_text()
    whole = Path.write_text

    def cut_off(path, text, **how):
        whole(path, text[: len(text) // 2], **how)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", cut_off)
    with pytest.raises(KeyboardInterrupt):
        sync.remember()
    assert json.loads(old) == {} and sync.MADE.read_text() == old
    assert sync.foreign_outputs() == []


def test_a_file_that_a_job_is_making_is_not_foreign_whatever_its_old_record_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("bWFkZQ==", "bWFraW5n"):  # made, making
        (sync.METADATA / name).parent.mkdir(parents=True, exist_ok=True)
        (sync.METADATA / name).write_text('{"endtime": 1e9}')
    for name in ("made", "making"):
        Path(name).write_text("another time than the record's")
    assert sync.foreign_outputs() == ["made", "making"]
    sync.INCOMPLETE.mkdir()
    (sync.INCOMPLETE / "bWFraW5n").write_text("{}")
    (sync.METADATA / "bWFraW5n").write_text('{"endti')  # half written
    assert sync.foreign_outputs() == ["made"]


def test_finished_runs_without_any_record_are_named_until_there_are_records_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file in ("models/demo/default/frozen/seed1/settings.json", "models/demo/report/index.html"):
        Path(file).parent.mkdir(parents=True)
        Path(file).touch()
    assert sync.unrecorded_runs(["another"]) == []
    assert sync.unrecorded_runs(["another", "demo"]) == ["models/demo/default/frozen/seed1"]
    sync.METADATA.mkdir(parents=True)
    (sync.METADATA / "bWFkZQ==").write_text('{"endtime": 1e9}')
    assert sync.unrecorded_runs(["demo"]) == []
