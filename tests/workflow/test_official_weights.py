"""Official weights: what is right stays where it is, and only other bytes make what reads them anew."""

import os

PAGE, CATALOGUE = "workflow/systems/demo.yaml", "data/pretrained.yaml"
WEIGHTS = "models/pretrained/mn04_as.pt"
ENCODER = {"name": "mobilenet", "width": 0.4, "front_end": "efficientat", "weights": "mn04_as"}


def edit(clone, file, old, new):
    path = clone.path / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_weights_that_are_right_are_neither_fetched_again_nor_change_what_reads_them(
    pristine, tmp_path, mirror_dir, monkeypatch
):
    monkeypatch.setenv("SEDFLOW_MIRROR", str(mirror_dir))
    clone = pristine.copy(tmp_path / "clone")
    clone.change(PAGE, ["sample_rate"], 32000)
    clone.change(PAGE, ["corpora", 0, "sample_rate"], 32000)
    clone.change(PAGE, ["detector", "encoders"], [ENCODER])
    clone.change(PAGE, ["stages", "frozen", "freeze"], ["mobilenet"])
    clone.change(PAGE, ["stages", "finetune", "optimizer", "lr"], {"head": 1.0e-3, "mobilenet": 1.0e-4})
    target = "data/inventory/demo/features/default.tsv"
    clone("snakemake", "--cores", "2", target)
    fetched = os.stat(clone.path / WEIGHTS)

    monkeypatch.setenv("SEDFLOW_MIRROR", str(tmp_path))  # where nothing could be had again
    edit(clone, CATALOGUE, "licence: MIT", "licence: MIT-0")
    edit(clone, CATALOGUE, "EfficientAT/releases", "moved/releases")
    edit(clone, CATALOGUE, "[BEATs_ssl.pt, null]", "[BEATs_ssl_2.pt, null]")
    assert "Nothing to be done" in clone("snakemake", "-n", target)
    edit(clone, "sedflow/download.py", "_TRIES = 4", "_TRIES = 5")
    assert "Nothing to be done" in clone("snakemake", "-n", WEIGHTS)
    edit(clone, "sedflow/download.py", "_TRIES = 5", "_TRIES = 4")
    clone("snakemake", "--cores", "1", "--forcerun", "weights", "--", WEIGHTS)
    kept = os.stat(clone.path / WEIGHTS)
    assert kept.st_ino == fetched.st_ino
    assert "Nothing to be done" in clone("snakemake", "-n", target)

    edit(clone, CATALOGUE, "899a8c62", "00000000")
    planned = clone("snakemake", "-n", target)
    assert "rule weights:" in planned and "rule features:" in planned
