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
