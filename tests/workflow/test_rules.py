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


def test_a_cluster_gives_jobs_the_gpus_processors_and_time_they_want_wherever_they_are_submitted(pristine, tmp_path):
    clone = pristine.copy(tmp_path / "clone")
    page = "workflow/systems/demo.yaml"
    clone.change(page, ["stages", "frozen", "processes"], 2)
    clone.change(page, ["stages", "frozen", "workers"], 3)
    clone.change(page, ["stages", "frozen", "sources"], {"synthetic_strong": 2, "weak": 2, "unlabeled": 2})
    profile = clone.path / "workflow/profiles/slurm/config.yaml"
    wanting = {rule for rule, text in RULES.items() if re.search(r"gpu=.*GPU", text)}
    assert not wanting & set(yaml.safe_load(profile.read_text())["groups"])
    profile.write_text(profile.read_text().replace("executor: slurm", "executor: dryrun"))
    planned = clone("snakemake", "-n", "--cores", "16", "--workflow-profile", profile.parent, "--nocolor", "demo")
    jobs = re.split(r"\n(?=(?:local)?rule )", planned)
    given = [(match[1], job) for job in jobs if (match := re.match(r"(?:local)?rule (\w+):", job))]
    assert {rule for rule, job in given if "gpu=1" in job} == {"features", "train", "score"} == wanting - JOIN_VARIANTS
    train = {re.search(r"stage=(\w+)", job)[1]: job for rule, job in given if rule == "train"}
    assert "gpu=2" in train["frozen"] and "threads: 8" in train["frozen"]
    assert "gpu=1" in train["finetune"] and "threads:" not in train["finetune"]
    assert all("runtime=2880" in job for job in train.values())
    assert not any("runtime=2880" in job for rule, job in given if rule != "train")


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
