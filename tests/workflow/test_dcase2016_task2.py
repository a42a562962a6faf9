"""The page of DCASE 2016 Task 2: one stage, strong labels, no sequence head."""


def test_its_tiny_form_runs_from_audio_to_report(pristine, tmp_path):
    clone = pristine.copy(tmp_path / "clone")
    assert set(clone.from_audio_to_report("dcase2016_task2")) == {"finetune"}
