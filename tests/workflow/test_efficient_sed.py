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
