"""The page of DCASE 2016 Task 2: one stage, strong labels, no sequence head."""


def test_its_tiny_form_runs_from_audio_to_report(pristine, tmp_path):
    clone = pristine.copy(tmp_path / "clone")
    made = clone.from_audio_to_report("dcase2016_task2")
    assert set(made) == {"finetune"}
    block = made["finetune"][made["finetune"]["chosen"]]["postprocessed"]
    assert 0 <= block["onset_f1_at_0.5"]["micro_average"] <= 1
    assert block["segment_error_rate_at_0.5"]["error_rate"] >= 0
    page = (clone.path / "models/dcase2016_task2/report/index.html").read_text()
    assert page.index("Onset F1 at 0.5") < page.index("Segment error rate at 0.5") < page.index("PSDS1")
