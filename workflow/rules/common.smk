# What every rule needs: checked settings, the guard against drifting ledgers, code digests.
import os
import shlex
import sys
from pathlib import Path

ROOT = Path(workflow.basedir)
sys.path.insert(0, str(ROOT))

from sedflow import digest, dvc_digests, params, plan, stage_plugins, sync, systems
from sedflow.params import canonical

# `sedflow sync adopt` plans with the settings that files on disk were made with, whatever the pages say by now
SETTINGS = Path(config.get("settings", "."))

# Jobs whose network runs on a GPU take turns at it (the profile names one); without a GPU the cores decide alone. This
# asks the machine that plans; dxg is WSL's device. Profiles of clusters say it themselves.
GPU = int(config.get("gpu", Path("/dev/dxg").exists() or any(Path("/dev").glob("nvidia[0-9]*"))))


def stop(message):
    """End in one line: Snakemake would wrap an exception in its own and a traceback."""
    sys.exit(f"error: {message}")


try:
    SHARED = params.read_shared(SETTINGS / "params.yaml")
    PAGES = plan.Pages(SETTINGS / "workflow/systems", SHARED)
except ValueError as error:
    stop(error)


def as_they_are(files):
    """The last cure for files of unknown origin: it makes their systems' records anew."""
    known = {Path(file).parts[1] for file in files if file.startswith("models/")} & set(PAGES.names)
    names = " ".join(sorted(known) or [SHARED.system])
    return (
        f"if settings and code have not changed since, take all files as they are: snakemake --touch --forceall {names}"
    )


# Within `dvc repro` DVC decides, it has removed the stage's outputs; elsewhere our records must be true, but for the
# commands that mend them.
MENDS = bool({"--touch", "--unlock", "--cleanup-metadata"} & set(sys.argv))
if workflow.is_main_process and not MENDS and "DVC_STAGE" not in os.environ:
    if foreign := sync.foreign_outputs():
        cure = "Run: sedflow sync adopt" if sync.LOCK.is_file() else f"Delete them, or {as_they_are(foreign)}"
        stop(
            f"{len(foreign)} files are not those that Snakemake recorded (e.g. {foreign[0]}): they were changed by DVC, "
            f"git or by hand, so Snakemake cannot know what they were made with. {cure}"
        )
    if runs := sync.unrecorded_runs(PAGES.names):
        stop(
            f"{len(runs)} finished runs (e.g. {runs[0]}), but no .snakemake/ that says what they were made with. Bring "
            f"it back (a container has to mount the whole checkout), delete the runs, or {as_they_are(runs)}"
        )
if workflow.is_main_process and "DVC_STAGE" in os.environ:
    try:
        noted = Path("data/inventory", SHARED.system, "code")
        dvc_digests.check_own_files(PAGES.system(SHARED.system, SHARED.variant), noted)
    except ValueError as error:
        stop(error)


onsuccess:
    sync.remember()


onerror:
    sync.remember()


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
    ensemble=r"[^/]+",


def system_of(name, variant=None):
    """A system's settings, checked; by default in the variant that its rule makes."""
    try:
        return PAGES.checked(name, variant or PAGES.variant(name))
    except ValueError as error:
        stop(error)


def page_of(wildcards):
    return system_of(wildcards.system, wildcards.variant)


def stage_of(wildcards):
    return page_of(wildcards).stages[wildcards.stage]


def corpus_of(wildcards):
    try:
        return PAGES.corpus(wildcards.corpus)
    except ValueError as error:
        stop(error)


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
