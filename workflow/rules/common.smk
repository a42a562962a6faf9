# What every rule needs: checked settings, the guard against drifting ledgers, code digests.
import os
import re
import shlex
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

ROOT = Path(workflow.basedir)
sys.path.insert(0, str(ROOT))

from sedflow import digest, params, plan, plugins, sync
from sedflow.params import canonical

# `sedflow sync adopt` plans with the settings that files on disk were made with, whatever the pages say by now
SETTINGS = Path(config.get("settings", "."))

try:
    SHARED = params.read_shared(SETTINGS / "params.yaml")
    PAGES = plan.Pages(SETTINGS / "workflow/systems")
    # only to refuse a typo early and in one line: input functions read the pages they need anyway
    words = {word for argument in sys.argv[1:] for word in re.split(r"[/:=,]", argument)}
    for asked in words.intersection(PAGES.names) or {SHARED.system}:
        plan.check(PAGES, asked, SHARED)
except ValueError as error:
    raise WorkflowError(str(error)) from None

# Within `dvc repro` DVC decides, it has removed the stage's outputs; elsewhere our records must be true.
if workflow.is_main_process and "--touch" not in sys.argv and "DVC_STAGE" not in os.environ:
    if foreign := sync.foreign_outputs():
        raise WorkflowError(
            f"{len(foreign)} files are not those that Snakemake recorded (e.g. {foreign[0]}): DVC, git or a hand put "
            "them there, so it cannot know what they were made with. Run: sedflow sync adopt"
        )


shell.prefix(f"set -euo pipefail; export PATH={shlex.quote(os.path.dirname(sys.executable))}:$PATH; ")


wildcard_constraints:
    corpus=r"[^/]+",
    key=r"[^/]+",
    shard=r"\d+",
    source=r"[^/]+",
    system=r"[^/]+",
    variant=r"[^/]+",
    stage=r"[^/]+",
    seed=r"\d+",
    network="student|teacher",


def variant_of(system):
    return SHARED.variant if system == SHARED.system else "default"


def page_of(wildcards):
    return PAGES.system(wildcards.system, wildcards.variant)


def stage_of(wildcards):
    return page_of(wildcards).stages[wildcards.stage]


def corpus_of(wildcards):
    return PAGES.corpus(wildcards.corpus)


def corpus_code(command):
    return lambda wildcards: digest.code(command, [("corpora", corpus_of(wildcards)["name"])])


def detector_code(command):
    return lambda wildcards: digest.code(command, plan.network_plugins(page_of(wildcards)))


def manifests(wildcards):
    return [f"data/manifests/{corpus}/inventory.tsv" for corpus in plan.corpora(page_of(wildcards))]


def repeated(option, values):
    """An option once per value, ready for the shell."""
    return " ".join(f"{option} {shlex.quote(str(value))}" for value in values)


def manifest_options(wildcards):
    return repeated("--manifests", [f"data/manifests/{corpus}" for corpus in plan.corpora(page_of(wildcards))])
