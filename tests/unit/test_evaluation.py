"""What the metrics mean at the edges: nothing to find, nothing found, ties, odd input, weights."""

import dataclasses
import json
from contextlib import nullcontext

import numpy as np
import pytest

from sedflow import psds
from sedflow.agreement import EvaluationError
from sedflow.evaluation import Evaluation, Rules, evaluate, psd_roc
from sedflow.evaluation import psds as psds_metrics
from sedflow.events import Event, LabelError, read_events, write_events
from sedflow.scores import ScoreColumns, Scores, load_scores, save_scores
from sedflow.stretches import Frames
from sedflow.truth import Truth

CLASSES = ("dog", "bell")


def scores_of(events, seconds=10.0, rate=25, loud=1.0, classes=CLASSES):
    """A detector that marks the given events."""
    values = np.zeros((round(seconds * rate), len(classes)))
    for event in events:
        values[round(event.onset * rate) : round(event.offset * rate), classes.index(event.label)] = loud
    return Scores(values, np.arange(len(values) + 1) / rate, classes)


def noisy(clips=30, seed=0, frames=100, labels=CLASSES):
    rng = np.random.default_rng(seed)
    scores, truth = {}, {}
    for number in range(clips):
        onset = round(rng.uniform(0, 2), 2)
        truth[f"c{number}"] = [Event(onset, onset + 1.2, labels[number % len(labels)])] if number % 3 else []
        marked = scores_of(truth[f"c{number}"], frames / 25, classes=labels)
        scores[f"c{number}"] = marked.with_values(marked.values + rng.normal(0, 0.5, marked.values.shape))
    return scores, truth, dict.fromkeys(scores, frames / 25)


@pytest.fixture
def two_clips():
    truth = {"a": [Event(1.0, 3.0, "dog"), Event(5.0, 6.0, "bell")], "b": [Event(2.0, 4.0, "dog")], "c": []}
    return truth, dict.fromkeys(truth, 10.0)


def test_a_perfect_detector_reaches_one_everywhere(two_clips):
    truth, durations = two_clips
    metrics = evaluate({clip: scores_of(events) for clip, events in truth.items()}, truth, durations)
    for name in ("psds1", "psds2", "psds1_macro"):
        assert metrics[name] == pytest.approx(1)
    for name in (
        "collar_f1_at_0.5",
        "onset_f1_at_0.5",
        "segment_f1_at_0.5",
        "intersection_f1_at_0.5",
        "collar_best_f1",
    ):
        assert metrics[name]["macro_average"] == metrics[name]["micro_average"] == 1
    assert metrics["segment_error_rate_at_0.5"]["error_rate"] == 0
    assert metrics["segment_mpauc_max_fpr_0.1"]["mean"] == pytest.approx(1)
    assert metrics["clip_map"]["mean"] == 1


def test_a_silent_detector_finds_nothing(two_clips):
    truth, durations = two_clips
    silent = {clip: scores_of([]).with_values(np.full((250, 2), -np.inf)) for clip in truth}
    metrics = evaluate(silent, truth, durations)
    assert metrics["psds1"] == metrics["psds2"] == metrics["collar_best_f1"]["macro_average"] == 0
    assert metrics["segment_error_rate_at_0.5"]["deletions"] == 1


def test_metrics_are_plain_json(two_clips):
    truth, durations = two_clips
    scores = {clip: scores_of(events) for clip, events in truth.items()}
    for metrics in (evaluate(scores, truth, durations), psd_roc(scores, truth, durations)):
        assert json.loads(json.dumps(metrics, allow_nan=False)).keys() == metrics.keys()


def test_classes_without_truth_are_named_and_left_out(two_clips):
    truth, durations = two_clips
    only_dogs = {clip: [e for e in events if e.label == "dog"] for clip, events in truth.items()}
    metrics = evaluate({clip: scores_of(events) for clip, events in truth.items()}, only_dogs, durations)
    assert metrics["classes_without_truth"] == ["bell"]
    assert list(metrics["psds1_per_class"]) == ["dog"]
    assert metrics["psds1"] == pytest.approx(1)


def test_a_set_without_any_event_has_no_metrics_but_does_not_fail():
    assert evaluate({"a": scores_of([])}, {}, {"a": 10.0}) == {
        "clips": 1,
        "hours": pytest.approx(10 / 3600),
        "classes_without_truth": ["dog", "bell"],
    }


def test_a_single_clip_is_enough():
    events = [Event(1.0, 3.0, "dog")]
    metrics = evaluate({"a": scores_of(events)}, {"a": events}, {"a": 10.0})
    assert metrics["psds1"] == pytest.approx(1)
    assert metrics["clip_d_prime"]["mean"] is None  # no clip without the class to tell it from


def test_a_class_that_is_told_perfectly_raises_the_mean_of_d_prime():
    events = [Event(1.0, 3.0, "dog"), Event(4.0, 5.0, "bell")]
    truth = {"a": events, "b": events[:1], "c": [], "d": events[1:]}
    good = {clip: scores_of(of_clip) for clip, of_clip in truth.items()}
    d_prime = evaluate(good, truth, dict.fromkeys(truth, 10.0))["clip_d_prime"]
    assert d_prime["dog"] == d_prime["bell"] == d_prime["mean"] == pytest.approx(np.sqrt(2) * 1.1503, abs=1e-3)
    worse = good | {"c": scores_of(events[:1])}
    mixed = evaluate(worse, truth, dict.fromkeys(truth, 10.0))["clip_d_prime"]
    assert mixed["dog"] < mixed["mean"] < mixed["bell"] == d_prime["bell"]


def test_clips_without_truth_count_as_silent():
    events = [Event(1.0, 3.0, "dog")]
    scores = {"a": scores_of(events), "b": scores_of(events)}
    metrics = evaluate(scores, {"a": events}, {"a": 10.0, "b": 10.0})
    assert metrics["collar_f1_at_0.5"]["dog"] == pytest.approx(2 / 3)  # one found, one false


def test_logits_and_probabilities_rank_alike():
    scores, truth, durations = noisy()
    squeezed = {clip: s.with_values(1 / (1 + np.exp(-s.values))) for clip, s in scores.items()}
    logits, probabilities = (psds_metrics(s, truth, durations) for s in (scores, squeezed))
    assert logits == pytest.approx(probabilities)
    best = [evaluate(s, truth, durations)["collar_best_f1"] for s in (scores, squeezed)]
    assert best[0] == pytest.approx(best[1])


def test_constant_scores_are_one_operating_point(two_clips):
    truth, durations = two_clips
    flat = {clip: scores_of([]).with_values(np.full((250, 2), 0.7)) for clip in truth}
    metrics = evaluate(flat, truth, durations)
    assert metrics["psds1"] == 0  # whole clips are never relevant here
    assert metrics["clip_d_prime"]["dog"] == pytest.approx(0)


def test_weights_count_clips_as_often_as_copies_of_them():
    scores, truth, durations = noisy(clips=12)
    evaluation = Evaluation(scores, truth, durations)
    weights = np.random.default_rng(1).integers(0, 4, len(scores)).astype(float)
    copies = [(clip, copy) for clip, weight in zip(scores, weights, strict=True) for copy in range(int(weight))]
    of_copies = [{f"{clip}-{k}": what[clip] for clip, k in copies} for what in (scores, truth, durations)]
    expected = evaluate(*of_copies)
    found = evaluation.metrics(weights)
    for name in ("psds1", "psds2", "hours"):
        assert found[name] == pytest.approx(expected[name], abs=1e-9)
    for name in (
        "collar_best_f1",
        "segment_f1_at_0.5",
        "segment_error_rate_at_0.5",
        "segment_mpauc_max_fpr_0.1",
        "clip_map",
    ):
        assert found[name] == pytest.approx(expected[name], abs=1e-9), name


def test_low_scores_that_cannot_matter_are_skipped_without_changing_psds():
    scores, truth, durations = noisy(clips=200, labels=("dog", "bell", "saw"))
    frames = Frames.of(scores)
    index = Truth(truth, frames.clips, frames.classes)
    hours = psds.hours_of(frames, durations)
    for label in frames.classes:
        values = frames.column(label)
        assert psds.floor_of(values, frames, index, label, 100 * hours) > values.min()
        whole = psds.stretches(values, frames)
        for criteria in psds.CRITERIA.values():
            changes = psds.count(whole, index, label, criteria)
            everything = psds.curve(changes, index, label, criteria, np.ones(len(scores)), hours)
            quick = psds.class_rocs(values, frames, index, label, {"x": criteria}, hours)["x"]
            assert quick.area(100) == pytest.approx(everything.area(100), abs=1e-12)


def test_the_area_under_the_plotted_roc_is_psds():
    scores, truth, durations = noisy()
    roc = psd_roc(scores, truth, durations, "psds2")["overall"]
    area = np.sum(np.array(roc["tpr"]) * np.diff(roc["efpr"], append=100.0)) / 100
    assert area == pytest.approx(psds_metrics(scores, truth, durations)["psds2"])


def test_criteria_refuse_a_cross_trigger_weight_without_its_threshold():
    with pytest.raises(ValueError, match="go together"):
        psds.Criteria(dtc=0.1, gtc=0.1, alpha_ct=0.5)


def broken(change):
    truth = {f"clip{k:02}": [Event(1.0, 2.0, "dog")] for k in range(12)}
    given = {
        "scores": {clip: scores_of(events) for clip, events in truth.items()},
        "truth": truth,
        "durations": dict.fromkeys(truth, 10.0),
    }
    change(given)
    return given


def _nan(given):
    values = given["scores"]["clip00"].values.copy()
    values[3, 1] = np.nan
    given["scores"]["clip00"] = given["scores"]["clip00"].with_values(values)


def _other_classes(given):
    given["scores"]["clip03"] = dataclasses.replace(given["scores"]["clip03"], classes=("dog", "cow"))


def _late(given):
    scores = given["scores"]["clip04"]
    given["scores"]["clip04"] = dataclasses.replace(scores, edges=scores.edges + 2)
    given["durations"]["clip04"] = 12.0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda g: [g["scores"].pop(f"clip{k:02}") for k in range(11)], "11 clips have no scores: clip00.* and 1 more"),
        (lambda g: g["durations"].pop("clip05"), "1 scored clips have no duration: clip05"),
        (lambda g: g["truth"].update(other=[]), "1 clips with truth have no scores: other. Score them, or"),
        (lambda g: g["durations"].clear(), "durations is empty"),
        (_nan, r"NaN or \+inf: clip00"),
        (_other_classes, "1 clips have other classes .*clip03"),
        (lambda g: g["durations"].update(clip01=7.0), r"another length: clip01 \(0.00–10.00 s scored, 7.00 s long\)"),
        (lambda g: g["durations"].update(clip01=70.0), "another length: clip01"),
        (_late, r"another length: clip04 \(2.00–12.00 s scored, 12.00 s long"),
        (lambda g: g["truth"].update(clip02=[Event(1, 2, "cow")]), "labels outside .*clip02 1.000–2.000 cow"),
        (lambda g: g["truth"].update(clip02=[Event(2, 1, "dog")]), "do not run from"),
        (lambda g: g["truth"].update(clip02=[Event(9, 11, "dog")]), "end after their clip: clip02 9.000–11.000 dog"),
        (
            lambda g: g["truth"].update(clip02=[Event(1, 3, "dog"), Event(2, 4, "dog")]),
            "overlap or touch.*merge_events",
        ),
    ],
)
def test_scores_and_truth_that_disagree_are_refused(change, words):
    with pytest.raises(EvaluationError, match=words):
        evaluate(**broken(change))


@pytest.mark.parametrize(("offset", "accepted"), [(10.06, True), (10.11, False)])
def test_the_corpus_door_and_the_judge_agree_how_far_rounding_may_reach(tmp_path, offset, accepted):
    truth = {"clip02": [Event(9, offset, "dog")]}
    write_events(tmp_path / "strong.tsv", truth)
    for door, error in (
        (lambda: read_events(tmp_path / "strong.tsv", durations={"clip02": 10.0}), LabelError),
        (lambda: evaluate(**broken(lambda given: given["truth"].update(truth))), EvaluationError),
    ):
        with nullcontext() if accepted else pytest.raises(error):
            door()


def test_chosen_classes_are_judged_alone(two_clips):
    truth, durations = two_clips
    scores = {clip: scores_of(events) for clip, events in truth.items()}
    assert list(evaluate(scores, truth, durations, Rules(classes=["bell"]))["psds1_per_class"]) == ["bell"]
    with pytest.raises(EvaluationError, match=r"have no scores, e.g. \['cow'\]"):
        evaluate(scores, truth, durations, Rules(classes=["cow"]))


def test_silent_clips_count_unless_they_are_dropped(two_clips):
    truth, durations = two_clips
    scores = {clip: scores_of(events) for clip, events in truth.items()} | {"c": scores_of([Event(1, 2, "dog")])}
    kept = evaluate(scores, truth, durations)
    dropped = evaluate(scores, truth, durations, Rules(drop_silent_clips=True))
    assert (kept["clips"], dropped["clips"]) == (3, 2)
    assert kept["collar_f1_at_0.5"]["dog"] < dropped["collar_f1_at_0.5"]["dog"] == 1


def test_a_score_file_is_judged_class_by_class_like_one_in_memory(tmp_path):
    scores, truth, durations = noisy(clips=40)
    save_scores(tmp_path / "scores.parquet", scores)
    frames = Frames.reading(ScoreColumns(tmp_path / "scores.parquet"))
    seen = []
    rocs = psds.psd_rocs(frames, truth, durations, progress=lambda labels: seen.extend(labels) or labels)
    assert seen == list(CLASSES)
    stored = psds_metrics(load_scores(tmp_path / "scores.parquet"), truth, durations)
    for name, value in stored.items():
        assert psds.psds_of(rocs[name], psds.CRITERIA[name])[0] == value
