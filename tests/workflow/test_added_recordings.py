"""A corpus in a folder of the user's: what changes there is noticed, what does not costs nothing."""

import os

import pytest
import yaml
from corpus_folders import STRONG, noise, table

PAGE = "workflow/systems/birds.yaml"
INVENTORY = "data/raw/folder/files.tsv"
CHANGES = ["nothing", "a new recording", "a replaced recording", "a replaced one of equal size", "a lost recording"]


@pytest.fixture(scope="module")
def birds(pristine, tmp_path_factory):
    """A clone whose own system reads a folder that was checked and listed once."""
    clone = pristine.copy(tmp_path_factory.mktemp("birds") / "clone")
    folder = clone.path / "my_birds"
    for k in range(6):
        noise(folder / f"audio/bird{k}.wav", 0.5)
    table(folder / "strong.tsv", STRONG, *((f"bird{k}.wav", 0.1, 0.4, "chirp") for k in range(6)))
    for hour in ("dawn", "noon"):
        noise(folder / f"unlabeled/{hour}.wav", 0.5)
    page = yaml.safe_load((clone.path / "workflow/systems/demo.yaml").read_text())
    page["corpora"] = [{"name": "folder", "path": "my_birds", "shards": 1}]
    for stage in page["stages"].values():
        stage["sources"] = {"real_strong": 2, "unlabeled": 1}
    (clone.path / PAGE).write_text(yaml.safe_dump(page, sort_keys=False))
    clone("snakemake", "--cores", "1", INVENTORY)
    return clone


@pytest.mark.parametrize("change", CHANGES)
def test_a_folder_is_read_again_when_recordings_come_go_or_change(birds, tmp_path, change):
    clone = birds.copy(tmp_path / "clone")
    audio = clone.path / "my_birds/unlabeled/dawn.wav"
    if change == "a new recording":
        audio = noise(audio.with_name("dusk.wav"), 0.5)
    elif change == "a replaced recording":
        noise(audio, 0.7)
    elif change == "a replaced one of equal size":
        noise(audio, 0.5, seed=1)
    elif change == "a lost recording":
        audio.unlink()
    if audio.exists():
        os.utime(audio, (1e9, 1e9))  # as `cp -p` and `mv` leave it: older than what was made of its neighbours
    planned = clone("snakemake", "-n", INVENTORY)
    assert ("Nothing to be done" in planned) == (change == "nothing")
    assert ("rule download:" in planned) == (change != "nothing")


def test_a_link_to_a_recording_that_is_gone_ends_planning_with_one_line(birds, tmp_path):
    clone = birds.copy(tmp_path / "clone")
    (clone.path / "my_birds/unlabeled/dusk.wav").symlink_to(tmp_path / "gone.wav")
    said = clone("snakemake", "-n", INVENTORY, check=False)
    assert "error: my_birds/unlabeled/dusk.wav: a link to a recording that does not exist; restore it" in said
    assert "Traceback" not in said
