"""`snakemake -n <system>` shows everything between the raw files and the report."""

import re

import pytest

from sedflow.systems import read_system

RULES = {"download", "prepare", "collect", "train", "score", "tune", "evaluate", "export", "report"}
SYSTEMS = ("atst_sed", "beats_sed", "efficient_sed", "cpjku_dcase24", "dcase2016_task2", "esc10")


def plan(clone, target):
    """Rules that would run, and (variant, stage) of the trainings."""
    output = clone("snakemake", "-n", target, "--nocolor", "--quiet", "host", "progress", "reason")
    rules = set(re.findall(r"^ *(?:local)?rule (\w+):", output, re.M))
    return rules, set(re.findall(r"^ *output: models/[^/]+/([^/]+)/([^/]+)/seed\d+/best", output, re.M))


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_dry_run_goes_from_download_to_report_through_every_stage(pristine, system):
    rules, trained = plan(pristine, system)
    page = read_system(system)
    assert rules >= RULES | {system}
    assert trained >= {("default", stage) for stage in page.stages}


def test_a_second_iteration_waits_for_every_member_of_its_ensemble(pristine):
    rules, trained = plan(pristine, "cpjku_dcase24")
    assert {"score_source", "pseudo_labels"} <= rules
    members = {(variant, stage) for variant in ("passt", "beats") for stage in ("frozen", "finetune")}
    assert trained == members | {("default", stage) for stage in ("frozen", "finetune", "frozen_2", "finetune_2")}


def test_a_comparison_trains_its_variants_frozen_and_finetuned(pristine):
    rules, trained = plan(pristine, "esc10_comparison")
    variants = {variant for group in read_system("esc10").comparison.groups.values() for variant in group}
    assert variants >= {"supervised", "mean_teacher", "default", "pseudo_labels", "transformer", "hybrid", "conformer"}
    assert trained == {(variant, stage) for variant in variants for stage in ("frozen", "finetune")}
    assert {"comparison", "pseudo_labels"} <= rules


def test_a_page_without_comparison_says_so(pristine):
    assert "no `comparison:`" in pristine("snakemake", "-n", "demo_comparison", check=False)


@pytest.mark.parametrize("system", ["demo", "dcase2016_task2"])  # with and without a soundbank
def test_every_clip_waits_for_the_list_of_raw_files(pristine, system):
    output = pristine("snakemake", "-n", system, "--nocolor", "--quiet", "host", "progress", "reason")
    inputs = re.findall(r"^rule prepare:\n *input: (.*)$", output, re.M)
    assert inputs and all(f"data/raw/{system}/files.tsv" in of_job.split(", ") for of_job in inputs)


RESPONSES = "data/device_impulses"
OF_FROZEN = "models/cpjku_dcase24/default/frozen/seed1/best.safetensors"


def test_missing_recordings_of_a_late_stage_are_named_before_the_first_job(pristine, tmp_path):
    clone, page = pristine.copy(tmp_path / "clone"), "workflow/systems/cpjku_dcase24.yaml"
    missing = f"{page}: augment: device_impulse: '{RESPONSES}' holds no .wav or .flac files"
    planned = clone("snakemake", "-n", "cpjku_dcase24", "--nocolor")
    assert planned.count(f"warning: {missing}") == 1 and "rule train" in planned
    assert "warning" not in clone("snakemake", "-n", OF_FROZEN)  # which reads none
    finished = clone.path / OF_FROZEN.replace("frozen", "finetune")
    finished.parent.mkdir(parents=True)
    finished.touch()
    assert f"warning: {missing}" in clone("snakemake", "-n", "--force", finished.relative_to(clone.path))
    finished.unlink()
    for _ in range(2):  # the first leaves no lock behind
        assert f"error: {missing}" in clone("snakemake", "--cores", "1", "cpjku_dcase24", check=False)
    (clone.path / RESPONSES).mkdir()
    (clone.path / RESPONSES / "phone.wav").write_bytes(b"no audio")
    assert f"{RESPONSES}/phone.wav" in clone("snakemake", "--cores", "1", "cpjku_dcase24", check=False)
    assert not (clone.path / "data/raw").exists()


def test_files_are_taken_as_they_are_without_the_recordings_too(pristine, tmp_path):
    clone = pristine.copy(tmp_path / "clone")
    assert "holds no .wav" not in clone("snakemake", "--cores", "1", "--touch", "--forceall", "cpjku_dcase24")
