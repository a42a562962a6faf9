"""Two corpora with different classes in one system: from sounds to metrics of each."""

import numpy as np
import pytest
from training_run import PAGE

from sedflow import collect, judge, plugins
from sedflow.corpora import write_pieces
from sedflow.manifests import read_manifests
from sedflow.systems import check_system

FEW = {"name": "demo", "seconds": 3.0, "weak": 0, "unlabeled": 0, "validation": 3, "test": 3, "shards": 1}
HOMES = {**FEW, "synthetic_strong": 2, "real_strong": 2, "weak": 2, "unlabeled": 2, "classes": ["beep", "knock"]}
STREETS = {
    **FEW,
    **{"as": "streets", "prefix": "street_", "seed": 2, "synthetic_strong": 0, "soft": 4},
    **{"classes": ["buzz", "chirp", "sweep"], "copies": {"buzz": ["beep"]}},
}
SMALL = {"name": "cnn", "channels": [4, 8, 8], "pooling": [[2, 2], [2, 4], [1, 16]]}
STAGE = {
    "sources": {"synthetic_strong": 1, "real_strong": 1, "soft": 2, "weak": 1, "unlabeled": 1},
    "sampling": {"real_strong": "balanced", "soft": "balanced"},
    "augment": [{"name": "mixup", "probability": 1.0}],
    "losses": [{"name": "supervised"}, {"name": "consistency"}],
    "teacher": {"decay": 0.9},
    "optimizer": {"lr": {"head": 0.003, "cnn": 0.003}},
    "steps": 4,
    "validate_every": 2,
}


@pytest.fixture(scope="module")
def system():
    detector = PAGE["detector"] | {"encoders": [SMALL], "frame_rate": 15.625}
    page = PAGE | {"corpora": [HOMES, STREETS], "clip_seconds": 3.0, "detector": detector, "stages": {"only": STAGE}}
    page["inference"] = {"window_seconds": 3.0, "hop_seconds": 1.5}
    return check_system(page).model_dump(mode="json")


@pytest.fixture(scope="module")
def made(system, tmp_path_factory):
    """Manifests of both corpora, as the rules make them."""
    root, folders = tmp_path_factory.mktemp("data"), []
    for spec in system["corpora"]:
        corpus = plugins.build("corpora", {key: value for key, value in spec.items() if key != "as"})
        name = spec.get("as", "demo")
        raw, audio, manifests = (root / part / name for part in ("raw", "audio", "manifests"))
        corpus.download(raw)
        write_pieces(manifests / "soundbank.tsv", corpus.soundbank(raw, audio))
        collect.write_shard(manifests / "shards", 0, corpus.prepare(manifests / "soundbank.tsv", audio, 0))
        collect.collect(manifests, 1, corpus.sources, corpus.classes)
        folders.append(manifests)
    return folders


def corpora_of(system):
    specs = [{key: value for key, value in spec.items() if key != "as"} for spec in system["corpora"]]
    return specs, [plugins.build("corpora", spec) for spec in specs]


def test_soft_labels_say_how_sure_they_are(made, system):
    text = (made[1] / "soft.tsv").read_text().splitlines()
    assert text[0].split("\t")[-1] == "confidence"
    confidences = {float(row.split("\t")[-1]) for row in text[1:] if row.split("\t")[-1]}
    assert len(confidences) > 1 and all(0 < value <= 1 for value in confidences)
    tables = read_manifests(made, corpora_of(system)[1])
    assert list(tables.classes) == ["beep", "knock", "buzz", "chirp", "sweep"]
    assert any(event.label == "beep" for events in tables.strong.values() for event in events if event.confidence < 1)


def test_two_corpora_train_one_detector_and_are_judged_each_on_its_own(made, system, tmp_path):
    from sedflow.inference import score_splits
    from sedflow.specification import read_specification
    from sedflow.train import train

    parts = ("detector", "clip_seconds", "sample_rate", "inference", "feature_shards")
    settings = {key: system[key] for key in parts} | {"system": "test", "stage_name": "only"}
    settings |= {"stage": system["stages"]["only"], "corpora": corpora_of(system)[0]}
    train(settings, 1, made, {}, {}, None, tmp_path / "work", tmp_path / "run")
    best = tmp_path / "run" / "best.safetensors"
    assert read_specification(best).classes == ["beep", "knock", "buzz", "chirp", "sweep"]
    score_splits(best, made, ["validation", "test"], tmp_path / "scores", "student")
    tuned = judge.tune_run([tmp_path / "scores/validation_student.parquet"], made, {"name": "median_filter"}, "psds1")
    metrics, _ = judge.evaluate_run([tmp_path / "scores/test_student.parquet"], made, tuned)
    judged = metrics["student"]["postprocessed"]["corpora"]
    assert set(judged) == {"demo", "streets"}
    for name, classes in (("demo", {"beep", "knock"}), ("streets", {"buzz", "chirp", "sweep"})):
        assert judged[name]["clips"] == 3
        per_class = {label for label in judged[name]["psds1_per_class"] if not label.endswith(("_average", "mean"))}
        assert per_class <= classes and np.isfinite(judged[name]["psds1"])
