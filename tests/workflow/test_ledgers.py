"""Snakemake and DVC, each with its own ledger, over one clone: they agree, and neither certifies what is not true."""

import csv
import json
import re
from pathlib import Path

import pytest
import yaml

PAGE = "workflow/systems/demo.yaml"
STAGE_OF = {
    **dict.fromkeys(("download", "soundbank", "prepare", "collect", "inventory"), "data"),
    **dict.fromkeys(("weights", "features", "feature_inventory"), "features"),
    **dict.fromkeys(("score", "tune", "evaluate", "export"), "evaluate"),
    "report": "report",
}
LEAVES = [
    (PAGE, ["title"], "Another title"),
    (PAGE, ["published"], {"psds1": 0.5}),
    (PAGE, ["corpora", 0, "seed"], 2),
    (PAGE, ["feature_shards"], 2),
    (PAGE, ["clip_seconds"], 5.0),
    (PAGE, ["detector", "encoders", 0, "dropout"], 0.3),
    (PAGE, ["detector", "sequence", "width"], 9),
    (PAGE, ["detector", "dropout"], 0.1),
    (PAGE, ["stages", "frozen", "steps"], 4),
    (PAGE, ["stages", "frozen", "sources", "weak"], 2),
    (PAGE, ["stages", "finetune", "optimizer", "lr", "head"], 1e-05),
    (PAGE, ["stages", "finetune", "teacher", "decay"], 0.95),
    (PAGE, ["inference", "hop_seconds"], 1.0),
    (PAGE, ["postprocess", "name"], "csebbs"),
    ("params.yaml", ["tuning", "objective"], "psds1"),
    ("params.yaml", ["seeds"], [1, 2]),
]


def snakemake_stages(clone):
    """Stages of DVC whose rules Snakemake would run; training counts by its stage."""
    planned = clone("snakemake", "-n", "--quiet", "host", "progress", "reason")
    rules = re.findall(r"^ *(?:local)?rule (\w+):", planned, re.M)
    outputs = re.findall(r"^ *output: models/demo/default/(frozen|finetune)/seed\d+/best", planned, re.M)
    trained = {{"frozen": "stage1", "finetune": "stage2"}[stage] for stage in outputs}
    return {STAGE_OF[rule] for rule in rules if rule in STAGE_OF} | trained


def dvc_stages(clone):
    """Stages that DVC sees changed, and all that follow from them."""
    changed = {stage.split("@")[0] for stage in json.loads(clone("dvc", "status", "--json"))} - {"code"}
    follows = {
        "data": {"features", "stage1", "stage2", "evaluate", "report"},
        "features": {"stage1", "stage2", "evaluate", "report"},
        "stage1": {"stage2", "evaluate", "report"},
        "stage2": {"evaluate", "report"},
        "evaluate": {"report"},
        "report": set(),
    }
    return changed.union(*(follows[stage] for stage in changed))


def test_a_reproduced_clone_is_left_alone_by_both(reproduced, tmp_path):
    clone = reproduced.copy(tmp_path / "clone")
    assert "up to date" in clone("dvc", "repro")
    assert clone.planned() == []
    clone.sedflow("sync", "check")
    assert clone("git", "status", "--short") == ""


@pytest.mark.parametrize(
    ("file", "path", "value"), LEAVES, ids=lambda leaf: ".".join(map(str, leaf)) if isinstance(leaf, list) else None
)
def test_both_rerun_the_same_stages_when_a_setting_changes(reproduced, tmp_path, file, path, value):
    clone = reproduced.copy(tmp_path / "clone")
    clone.change(file, path, value)
    assert snakemake_stages(clone) == dvc_stages(clone) != set()


def test_every_setting_that_dvc_follows_is_among_those_changed_here():
    stages = yaml.safe_load(Path("dvc.yaml").read_text())["stages"]
    followed = set()
    for definition in stages.values():
        for entry in definition.get("do", definition)["params"]:
            followed |= {key for keys in entry.values() for key in keys or []}
    # the rate is that of the encoders, so it changes with them only
    several_at_once = {"variants.${variant}", "stages.frozen.freeze", "sample_rate"}
    changed = [".".join(map(str, path)) + "." for _, path, _ in LEAVES]
    assert not [key for key in followed - several_at_once if not any(leaf.startswith(f"{key}.") for leaf in changed)]


def test_a_comment_in_the_code_retrains_under_neither(reproduced, tmp_path):
    clone = reproduced.copy(tmp_path / "clone")
    module = clone.path / "sedflow/learner.py"
    module.write_text(module.read_text() + "\n# a comment\n")
    assert clone.planned() == []
    assert "Running stage 'stage" not in clone("dvc", "repro")
    module.write_text(module.read_text() + "\nCHANGED = True\n")
    assert {"stage1", "stage2"} <= snakemake_stages(clone)
    clone("dvc", "repro", "code")
    assert {"stage1", "stage2"} <= dvc_stages(clone)


def test_an_experiment_with_stage_two_reruns_it_and_evaluation_only_and_is_compared(reproduced, tmp_path):
    clone = reproduced.copy(tmp_path / "clone")
    ran = clone("dvc", "exp", "run", "-S", f"{PAGE}:stages.finetune.optimizer.lr.head=0.00001")
    # `code` notes what the settings name
    assert set(re.findall(r"Running stage '(\S+)'", ran)) == {"code", "stage2@1", "evaluate@finetune-1", "report"}
    assert yaml.safe_load((clone.path / PAGE).read_text())["stages"]["finetune"]["optimizer"]["lr"]["head"] in (
        1e-5,
        "1e-05",
    )
    assert clone.planned() == []
    assert "stages.finetune.optimizer.lr.head" in clone("dvc", "params", "diff")
    clone("dvc", "metrics", "diff")
    assert "index.html" in clone("dvc", "plots", "diff")
    told = clone("dvc", "exp", "show", "--csv")
    shown = {row["rev"]: row for row in csv.DictReader(told[told.index("Experiment,") :].splitlines())}
    rates = {revision: float(row["stages.finetune.optimizer.lr.head"]) for revision, row in shown.items()}
    assert len(rates) == 3 and rates.pop("main") == 0.002 and set(rates.values()) == {1e-5}
    assert all(0 <= float(row["finetune.chosen.psds2"]) <= 1 for row in shown.values())
    clone.commit("an experiment")

    clone("git", "checkout", "--quiet", "HEAD~1")
    clone("dvc", "checkout")
    assert "sedflow sync adopt" in clone("snakemake", "-n", check=False)
    clone.sedflow("sync", "adopt")
    assert clone.planned() == []
    assert "up to date" in clone("dvc", "status")


def test_after_a_checkout_changed_settings_rerun_what_they_change_and_nothing_is_certified(reproduced, tmp_path):
    clone = reproduced.copy(tmp_path / "clone")
    clone.change(PAGE, ["postprocess", "name"], "none")
    clone("snakemake", "--cores", "2")
    clone.sedflow("sync", "record")
    assert "up to date" in clone("dvc", "status")
    clone.commit("without post-processing")

    clone("git", "checkout", "--quiet", "HEAD~1")
    clone.change(PAGE, ["postprocess", "name"], "none")
    clone.sedflow("sync", "adopt")
    assert set(clone.planned()) == {"tune", "evaluate", "export", "report"}


def test_record_refuses_unfinished_work_and_files_from_before(reproduced, tmp_path):
    clone = reproduced.copy(tmp_path / "clone")
    stale = clone.path / "data/manifests/demo/shards/7.clips.tsv"
    stale.write_text("id\n")
    assert str(stale.relative_to(clone.path)) in clone.sedflow("sync", "record", check=False)
    stale.unlink()
    clone.change(PAGE, ["title"], "Another title")
    assert "still has jobs to run" in clone.sedflow("sync", "record", check=False)


def test_a_clone_with_the_cache_but_no_files_adopts_them(reproduced, tmp_path):
    clone = reproduced.copy(tmp_path / "clone")
    for folder in ("data/audio", "data/manifests", "data/inventory", "data/features", "models", ".snakemake"):
        clone("rm", "-r", folder)
    clone.sedflow("sync", "adopt")
    assert clone.planned() == []
    assert not (clone.path / "data/features").exists()


def test_a_seed_added_without_the_cache_leaves_finished_runs_alone_if_its_runs_come_first(reproduced, tmp_path):
    clone = reproduced.copy(tmp_path / "clone")
    clone("rm", "-r", "data/features")
    clone.change("params.yaml", ["seeds"], [1, 2])
    changed = json.loads(clone("dvc", "status", "--json"))
    assert {stage for stage in changed if stage.startswith("stage")} == {"stage1@2", "stage2@2"}
    clone("snakemake", "models/demo/default/finetune/seed2/metrics.json", "--cores", "2")
    assert "train" not in clone.planned()
