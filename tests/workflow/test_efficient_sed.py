"""EfficientSED's page: distillation from stored pseudo-labels, and from a teacher that listens along."""

import json


def test_its_tiny_forms_run_from_audio_to_report_and_share_their_teacher(pristine, tmp_path):
    clone = pristine.copy(tmp_path / "clone")
    assert set(clone.from_audio_to_report("efficient_sed")) == {"strong"}
    index = json.loads(
        (clone.path / "data/pseudo/efficient_sed/tiny/seed1/efficient_sed_tiny/real_strong.json").read_text()
    )
    assert index["members"] == ["models/efficient_sed/tiny_teacher/strong/seed1 student"]
    teacher = clone.path / "models/efficient_sed/tiny_teacher/strong/seed1/best.safetensors"
    made = teacher.stat().st_mtime_ns
    assert set(clone.from_audio_to_report("efficient_sed", "tiny_online")) == {"strong"}
    assert teacher.stat().st_mtime_ns == made

    page = clone.path / "workflow/systems/efficient_sed.yaml"
    written = page.read_text()
    page.write_text(
        written[: written.index("comparison:")]
        + "comparison: {seeds: [1], groups: {Distillation: [tiny_online, tiny]}}\n"
    )
    clone("snakemake", "--cores", "1", "efficient_sed_comparison")
    rows = (clone.path / "models/efficient_sed/comparison/table.tsv").read_text().splitlines()
    assert [row.split("\t")[:4] for row in rows[1:]] == [
        ["Distillation", "tiny_online", "strong", "1"],
        ["Distillation", "tiny", "strong", "1"],
    ]
    assert (clone.path / "models/efficient_sed/comparison/plot.png").stat().st_size > 10_000
