"""A run's scores: tuned on validation, measured on test, corpus by corpus."""

import json

import numpy as np
import pytest

from sedflow import judge
from sedflow.agreement import EvaluationError
from sedflow.events import Clip, Event, write_clips, write_durations, write_events
from sedflow.postprocess import PostprocessError
from sedflow.scores import Scores, save_scores

CLASSES = ("dog", "car")


def write_corpus(folder, names, label, soft=False, seconds=4.0):
    """Validation and test with an event of one class in each clip; gives the scores of a good detector."""
    scores, clips = {}, []
    rng = np.random.default_rng(0)
    for split in ("validation", "test"):
        truth, of_split = {}, {}
        for number, name in enumerate(names(split)):
            onset = float(number % 2)
            confidence = 0.9 if number % 3 else 0.3
            truth[name] = [Event(onset, onset + 2, label, confidence if soft else 1.0)]
            values = rng.uniform(0, 0.4, (40, 2))
            values[round(onset * 10) : round(onset * 10) + 20, CLASSES.index(label)] += 0.55 if number % 3 else 0.1
            values[:, 1 - CLASSES.index(label)] += 0.5  # of a class that this corpus knows nothing of
            of_split[name] = Scores(values, np.arange(41) / 10, CLASSES)
            clips.append(Clip(name, f"{name}.flac", seconds, "", split, (f"place{number // 2}",)))
        folder.mkdir(parents=True, exist_ok=True)
        write_events(folder / f"{split}.tsv", truth, confidences=soft)
        write_durations(folder / f"{split}_durations.tsv", dict.fromkeys(truth, seconds))
        scores[split] = of_split
    write_clips(folder / "clips.tsv", clips)
    return scores


@pytest.fixture
def run(tmp_path):
    """Scores of student and teacher, on one corpus and on two."""
    dogs = write_corpus(tmp_path / "dogs", lambda split: [f"{split}{k}" for k in range(12)], "dog")
    cars = write_corpus(
        tmp_path / "cars", lambda split: [f"{split}-{k}00-{k + 4}00" for k in range(0, 32, 4)], "car", True
    )
    for split in ("validation", "test"):
        for network, scores in (("student", dogs[split]), ("both", dogs[split] | cars[split])):
            save_scores(tmp_path / f"{split}_{network}.parquet", scores)
    return tmp_path


def tuned(run, network, corpora):
    manifests = [run / name for name in corpora]
    kind = {"name": "median_filter", "candidates": [{"seconds": 0.0}, {"seconds": 0.5}]}
    return judge.tune_run([run / f"validation_{network}.parquet"], manifests, kind, "psds1"), manifests


def test_the_chosen_network_has_intervals_over_recordings(run):
    told, manifests = tuned(run, "student", ["dogs"])
    metrics, roc = judge.evaluate_run([run / "test_student.parquet"], manifests, told)
    intervals = metrics["intervals"]
    assert metrics["chosen"] == told["chosen"] == "student"
    assert (intervals["drawn"], intervals["draws"]) == ("12 clips in 6 groups by recording", judge.DRAWS)
    measured = metrics["student"]["postprocessed"]
    for name in ("collar_f1_at_0.5", "intersection_f1_at_0.5"):
        low, high = intervals["metrics"][name]
        assert low <= measured[name]["macro_average"] <= high
    json.dumps([metrics, roc], allow_nan=False)


def test_corpora_are_judged_alone_and_the_first_one_is_the_headline(run):
    told, manifests = tuned(run, "both", ["dogs", "cars"])
    metrics, _ = judge.evaluate_run([run / "test_both.parquet"], manifests, told)
    block = metrics["both"]["postprocessed"]
    assert set(block["corpora"]) == {"dogs", "cars"}
    assert block["psds1"] == block["corpora"]["dogs"]["psds1"]
    assert "dog" in block["collar_best_f1"] and "car" not in block["collar_best_f1"]
    alone, manifests = tuned(run, "student", ["dogs"])
    expected, _ = judge.evaluate_run([run / "test_student.parquet"], manifests, alone)
    assert block["intersection_best_f1"] == expected["student"]["postprocessed"]["intersection_best_f1"]


def test_windows_with_soft_labels_are_judged_as_recordings(run):
    told, manifests = tuned(run, "both", ["dogs", "cars"])
    metrics, _ = judge.evaluate_run([run / "test_both.parquet"], manifests, told)
    cars = metrics["both"]["postprocessed"]["corpora"]["cars"]
    assert cars["clips"] == 1 and cars["hours"] == pytest.approx(32 / 3600)
    assert cars["segment_mpauc_max_fpr_0.1"]["mean"] > 0.9  # unsure labels are no events, so quiet scores are right


def test_clips_named_by_date_are_no_windows(tmp_path):
    scores = write_corpus(tmp_path / "park", lambda split: [f"{split}-05-{day}" for day in range(10, 18)], "dog")
    own, truth, durations = judge.of_corpus(tmp_path / "park", "test", scores["test"])
    assert set(own) == set(truth) == set(durations) == set(scores["test"])


def test_each_class_is_tuned_where_it_sounds(run):
    told, _ = tuned(run, "both", ["dogs", "cars"])
    dogs, _ = tuned(run, "student", ["dogs"])
    assert told["both"]["settings"]["dog"] == dogs["student"]["settings"]["dog"]
    assert set(told["both"]["reached"]) == {"dog", "car"}
    assert told["both"]["tuned_on"] == "validation"


def test_classes_of_other_corpora_than_the_page_says_are_left_as_they_are(run):
    manifests = [run / name for name in ("dogs", "cars")]
    kind = {"name": "median_filter", "candidates": [{"seconds": 0.5}], "corpora": ["dogs"]}
    told = judge.tune_run([run / "validation_both.parquet"], manifests, kind, "psds1")
    assert told["both"]["settings"] == {"dog": {"seconds": 0.5}, "car": {"name": "none"}}
    metrics, _ = judge.evaluate_run([run / "test_both.parquet"], manifests, json.loads(json.dumps(told)))
    raw, processed = (metrics["both"][kind]["corpora"] for kind in ("raw", "postprocessed"))
    assert processed["cars"] == raw["cars"] and processed["dogs"] != raw["dogs"]


def test_boxes_of_windows_are_judged_and_a_class_that_validation_lacks_is_left_as_it_is(run):
    manifests = [run / name for name in ("dogs", "cars")]
    write_events(run / "dogs" / "validation.tsv", {f"validation{k}": [] for k in range(8)})
    kind = {"name": "csebbs", "corpora": ["cars"]}
    told = judge.tune_run([run / "validation_both.parquet"], manifests, kind, "psds1")
    assert told["both"]["settings"]["dog"] == {"name": "none"} != told["both"]["settings"]["car"]
    metrics, _ = judge.evaluate_run([run / "test_both.parquet"], manifests, told)
    assert 0 <= metrics["both"]["postprocessed"]["corpora"]["cars"]["segment_mpauc_max_fpr_0.1"]["mean"] <= 1


def test_scores_of_test_are_not_tuned_on(run):
    with pytest.raises(EvaluationError, match=r"test_student\.parquet: not validation scores"):
        judge.tune_run([run / "test_student.parquet"], [run / "dogs"], {"name": "median_filter"}, "psds1")
    disguised = run / "validation_disguised.parquet"
    disguised.write_bytes((run / "test_student.parquet").read_bytes())
    with pytest.raises(EvaluationError, match="12 clips belong to none of"):
        judge.tune_run([disguised], [run / "dogs"], {"name": "median_filter"}, "psds1")
    with pytest.raises(PostprocessError, match="must not be tuned on"):
        judge.tuning.tune_classes("median_filter", None, {}, {}, {}, "test")


def test_a_split_that_no_corpus_has_is_named(tmp_path):
    with pytest.raises(EvaluationError, match=r"no test\.tsv in .*run `snakemake`"):
        judge.corpora_with([tmp_path], "test")


@pytest.mark.parametrize("name", ["csebbs", "median_filter", "minimum_duration", "hysteresis", "threshold"])
def test_every_post_processor_goes_the_same_way_from_tuning_to_metrics(run, name):
    kind = {"name": name, "candidates": judge.tuning.CANDIDATES[name][:2], "objective": "collar_f1_at_0.5"}
    told = judge.tune_run([run / "validation_student.parquet"], [run / "dogs"], kind, "psds1")
    assert (told["student"]["name"], told["student"]["objective"]) == (name, "collar_f1_at_0.5")
    metrics, _ = judge.evaluate_run([run / "test_student.parquet"], [run / "dogs"], told)
    assert metrics["student"]["postprocessed"]["psds1"] >= 0
