"""What goes into a container image: everything that git has, nothing that the pipeline makes."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def ignored(path):
    """Whether Docker leaves a path out: its last pattern that fits the path, or a folder above it, decides."""
    left_out = False
    for line in (ROOT / ".dockerignore").read_text().split():
        pattern = re.escape(line.removeprefix("!")).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
        if re.fullmatch(f"{pattern}(/.*)?", path):
            left_out = not line.startswith("!")
    return left_out


def test_an_image_has_every_file_of_the_repository():
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert [name for name in names.split("\0") if name and ignored(name)] == []


@pytest.mark.parametrize(
    "folder", ["raw", "audio", "audioset", "manifests", "features", "inventory", "logits", "pseudo"]
)
def test_an_image_has_no_tables_without_their_audio(folder):
    assert ignored(f"data/{folder}/esc10/clips.tsv")


def test_an_image_has_nothing_that_git_ignores():
    for line in [*(ROOT / ".gitignore").read_text().split(), ".dvc/config.local", ".dvc/cache", ".dvc/tmp"]:
        depth = "" if "/" in line.rstrip("/") else "some/folder/"
        assert ignored(depth + line.strip("/").replace("*", "x")), line


@pytest.mark.parametrize("file", ["Dockerfile", "Dockerfile.blackwell"])
def test_a_container_is_started_with_room_for_the_batches_of_its_workers(file):
    runs = [line for line in (ROOT / "envs" / file).read_text().splitlines() if "docker run --rm" in line]
    assert runs and all("--shm-size=8g" in line for line in runs)


@pytest.mark.parametrize("file", ["Dockerfile", "Dockerfile.blackwell"])
def test_a_container_that_runs_the_pipeline_leaves_records_and_half_finished_runs_in_the_checkout(file):
    runs = [line for line in (ROOT / "envs" / file).read_text().splitlines() if "docker run" in line]
    pipelines = [line for line in runs if "snakemake" in line]
    assert pipelines and all('-v "$PWD:/checkout" -w /checkout ' in line for line in pipelines)
