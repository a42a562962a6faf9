"""Snakemake's records of what was made: behind after a kill -9 in the middle of a job, or not there at all."""

import os
import signal
import subprocess
import sys
import time

import pytest

# the second round writes its first file and then waits for the kill
RULE = """
rule rounds:
    output: "first.txt", "second.txt"
    params: number=config.get("round", 1)
    shell:
        "echo {params.number} > first.txt; [ {params.number} = 1 ] || {{ touch waits; sleep 600; }};"
        " cp first.txt second.txt"
"""
PLAN = ("snakemake", "-n", "first.txt", "--config", "round=2")


@pytest.fixture(scope="module")
def killed(pristine, tmp_path_factory):
    """A clone whose Snakemake was killed in a job's second run; what another shell saw of it before the kill."""
    clone = pristine.copy(tmp_path_factory.mktemp("killed") / "clone")
    with (clone.path / "Snakefile").open("a") as snakefile:
        snakefile.write(RULE)
    clone("snakemake", "--cores", "1", "first.txt")
    command = [sys.executable, "-m", "snakemake", "--cores", "1", *PLAN[2:]]
    with (clone.path / "waiting.log").open("w") as log:
        run = subprocess.Popen(command, cwd=clone.path, stdout=log, stderr=log, start_new_session=True)
    deadline = time.monotonic() + 120
    while not (clone.path / "waits").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    seen = clone(*PLAN, check=False)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    assert (clone.path / "first.txt").read_text() == "2\n", (clone.path / "waiting.log").read_text()
    return clone, seen


def test_another_shell_can_plan_while_a_job_runs_again(killed):
    assert "rule rounds:" in killed[1]


def test_after_a_kill_the_next_command_runs_the_job_again(killed, tmp_path):
    clone = killed[0].copy(tmp_path / "clone")
    assert "rule rounds:" in clone(*PLAN, check=False)
    clone("snakemake", "--unlock", "first.txt")
    clone("snakemake", "--cores", "1", "first.txt")
    assert (clone.path / "second.txt").read_text() == "1\n"


@pytest.mark.parametrize("cure", [("--unlock",), ("--cleanup-metadata", "first.txt")])
def test_files_of_unknown_origin_do_not_keep_snakemake_from_being_mended(killed, tmp_path, cure):
    clone = killed[0].copy(tmp_path / "clone")
    clone("rm", "-r", ".snakemake/incomplete")  # the marks of what was being made
    assert "files are not those that Snakemake recorded" in clone(*PLAN, check=False)
    clone("snakemake", *cure)


def test_without_dvc_lock_files_of_unknown_origin_are_not_left_to_dvc(killed, tmp_path):
    """A checkout that was copied without the times of its files, and that DVC has never seen."""
    clone = killed[0].copy(tmp_path / "clone")
    clone("rm", "-r", ".snakemake/incomplete", "waits")
    said = clone(*PLAN, check=False)
    assert "sync adopt" not in said and "snakemake --touch --forceall demo" in said
    clone("touch", "dvc.lock")
    assert "Run: sedflow sync adopt" in clone(*PLAN, check=False)
    clone("rm", "dvc.lock")
    clone("snakemake", "--unlock", "first.txt")
    clone("snakemake", "--cores", "1", "--touch", "--forceall", *PLAN[2:])
    assert "Nothing to be done" in clone(*PLAN)


def test_results_without_any_record_are_not_taken_for_up_to_date(pristine, tmp_path):
    clone = pristine.copy(tmp_path / "clone")
    run = clone.path / "models/demo/default/frozen/seed1/settings.json"
    run.parent.mkdir(parents=True)
    run.touch()
    said = clone("snakemake", "-n", check=False)
    assert "no .snakemake/ that says what they were made with" in said
    assert "snakemake --touch --forceall demo" in said
    run.unlink()
    clone("snakemake", "-n")
