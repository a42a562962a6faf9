"""What holds for every rule, and between the rules, dvc.yaml and the pages."""

import re
from pathlib import Path

import pytest
import yaml

from sedflow.steps import steps

RULES = {
    match[1]: match[2]
    for file in sorted(Path("workflow/rules").glob("*.smk"))
    for match in re.finditer(r"^rule (\w+):\n(.*?)(?=^\S|\Z)", file.read_text(), re.M | re.S)
}
STAGES = yaml.safe_load(Path("dvc.yaml").read_text())["stages"]
WITHOUT_CODE = {"weights"}  # whose bytes are verified, whatever fetches them
JOIN_VARIANTS = {"score_source", "pseudo_labels", "comparison"}  # which dvc.yaml does not cover, as its head says
PAGES = sorted(page.stem for page in Path("workflow/systems").glob("*.yaml"))


def commands():
    return {stage: definition.get("do", definition)["cmd"] for stage, definition in STAGES.items()}


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_is_one_command_with_log_and_code_digest(rule):
    text = RULES[rule]
    (command,) = re.findall(r"python -m sedflow\.cli ([\w-]+)", text)
    assert command in {c.name or c.callback.__name__.replace("_", "-") for c in steps.registered_commands}
    assert re.search(r"^    log:", text, re.M)
    assert bool(re.search(r"^        code=", text, re.M)) == (rule not in WITHOUT_CODE)
    assert "run:" not in text and "script:" not in text


@pytest.mark.parametrize("rule", RULES)
def test_wildcards_reach_the_shell_through_params_only(rule):
    shell = RULES[rule].split("shell:")[1]
    assert set(re.findall(r"\{(\w+)", shell)) <= {"params", "input", "output", "log", "threads"}


def test_a_cluster_gives_a_gpu_to_every_job_that_wants_one_wherever_it_is_submitted(pristine, tmp_path):
    clone = pristine.copy(tmp_path / "clone")
    profile = clone.path / "workflow/profiles/slurm/config.yaml"
    settings = yaml.safe_load(profile.read_text())
    wanting = {rule for rule, text in RULES.items() if "gpu=GPU" in text}
    assert set(settings["set-resources"]) == wanting
    assert not wanting & set(settings["groups"])
    profile.write_text(profile.read_text().replace("executor: slurm", "executor: dryrun"))
    planned = clone("snakemake", "-n", "--workflow-profile", profile.parent, "--nocolor", "demo")
    jobs = re.split(r"\n(?=(?:local)?rule )", planned)
    gpus = {match[1]: "gpu=1" in job for job in jobs if (match := re.match(r"(?:local)?rule (\w+):", job))}
    assert {rule for rule, given in gpus.items() if given} == wanting & set(gpus) == {"features", "train", "score"}


def test_within_dvc_no_job_runs_on_recordings_or_tables_that_changed_behind_its_back(pristine, tmp_path):
    clone = pristine.copy(tmp_path / "clone")
    clone.sedflow("code", "demo", "default", "--out", "data/inventory/demo/code")
    within = ("env", "DVC_STAGE=features", "snakemake", "-n", "demo")
    assert "run `dvc repro" not in clone(*within)
    with (clone.path / "data/classes/demo.txt").open("a") as classes:
        classes.write("# another\n")
    assert "changed, which DVC does not see by itself: run `dvc repro" in clone(*within, check=False)


def test_every_rule_belongs_to_a_stage_of_dvc_but_those_that_join_variants():
    allowed = {rule for command in commands().values() for rule in command.split(" -- ")[0].split()}
    assert set(RULES) - allowed == JOIN_VARIANTS


def test_stages_of_dvc_name_existing_rules_and_are_restricted_to_them():
    for stage, command in commands().items():
        if stage != "code":
            rules = command.split(" -- ")[0].removeprefix("${snakemake}").split()
            assert rules and set(rules) <= set(RULES), stage


def test_a_page_a_rule_and_a_folder_have_the_same_name(pristine):
    listed = pristine("snakemake", "--list-target-rules").split()
    assert set(PAGES) <= set(listed)
    planned = pristine("snakemake", "-n", PAGES[0])
    assert f"models/{PAGES[0]}/report/index.html" in planned
