"""ATST-SED's page: stage 1 from the cache, stage 2 with mixup, warp and interpolation consistency."""


def test_its_tiny_form_runs_from_audio_to_report(pristine, tmp_path):
    clone = pristine.copy(tmp_path / "clone")
    assert set(clone.from_audio_to_report("atst_sed")) == {"frozen", "finetune"}
