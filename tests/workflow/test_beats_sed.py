"""BEATs-SED's page: BEATs, a Conformer, four sources."""


def test_its_tiny_form_runs_from_audio_to_report(pristine, tmp_path):
    clone = pristine.copy(tmp_path / "clone")
    assert set(clone.from_audio_to_report("beats_sed")) == {"frozen", "finetune"}
