"""CP-JKU's page: two corpora, two stages, two iterations with an ensemble's pseudo-labels between them."""

import json
import re

import numpy as np

PAGE = "workflow/systems/cpjku_dcase24.yaml"
STAGES = {"frozen", "finetune", "frozen_2", "finetune_2"}


def test_its_tiny_form_runs_from_audio_to_report_and_a_third_member_is_one_line(pristine, tmp_path):
    clone = pristine.copy(tmp_path / "clone")
    assert set(clone.from_audio_to_report("cpjku_dcase24")) == STAGES
    stored = clone.path / "data/pseudo/cpjku_dcase24/tiny/seed1/cpjku_tiny_soft/soft.npy"
    index = json.loads(stored.with_suffix(".json").read_text())
    run = "models/cpjku_dcase24/tiny/finetune/seed1"
    others = run.replace("tiny", "tiny_others")  # fPaSST and BEATs
    assert index["members"] == [f"{run} student", f"{others} teacher"]
    assert index["classes"] == ["beep", "sweep", "knock", "buzz", "chirp"]
    assert np.load(stored).shape == (4, 32, 5) and np.isfinite(np.load(stored)).all()

    page = (clone.path / PAGE).read_text()
    member = "{variant: tiny_others, stage: finetune, network: teacher}"
    (clone.path / PAGE).write_text(page.replace(member, f"{member}, {{variant: tiny, stage: frozen}}"))
    planned = clone("snakemake", "-n", "--quiet", "host", "progress", "reason")
    trained = set(re.findall(r"^ *output: models/cpjku_dcase24/tiny/(\w+)/seed1/best", planned, re.M))
    assert trained == {"frozen_2", "finetune_2"}
    scored = re.findall(r"^ *output: data/logits/cpjku_dcase24/tiny/(\w+)/seed1/(\w+)/", planned, re.M)
    assert set(scored) == {("frozen", "student")}
