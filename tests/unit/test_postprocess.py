"""Post-processors do what their names say at every threshold, and are tuned on validation only."""

import json

import numpy as np
import pytest

from sedflow import postprocess, postprocess_checks, tuning
from sedflow.detections import detect_events
from sedflow.evaluation import psds
from sedflow.events import Event, merge_events
from sedflow.postprocess import PostprocessError
from sedflow.scores import Scores

CLASSES = ("dog", "bell")


def random_scores(seed=0, clips=3, frames=60, rate=10, levels=8):
    rng = np.random.default_rng(seed)
    steps = rng.integers(0, levels, size=(clips, frames, 2)) / levels
    return {f"c{k}": Scores(steps[k], np.arange(frames + 1) / rate, CLASSES) for k in range(clips)}


def apply(scores, name, **settings):
    return postprocess.build({"name": name, "settings": dict.fromkeys(CLASSES, settings)}).apply(scores)


def noisy_set(seed=0, clips=40, rate=25):
    rng = np.random.default_rng(seed)
    scores, truth = {}, {}
    for number in range(clips):
        onset = round(rng.uniform(0, 5), 2)
        event = Event(onset, round(onset + rng.uniform(0.5, 3), 2), CLASSES[number % 2])
        values = rng.normal(0.2, 0.12, size=(10 * rate, 2))
        values[round(event.onset * rate) : round(event.offset * rate), number % 2] += 0.4
        scores[f"c{number}"] = Scores(np.clip(values, 0, 1), np.arange(10 * rate + 1) / rate, CLASSES)
        truth[f"c{number}"] = [event]
    return scores, truth, dict.fromkeys(scores, 10.0)


@pytest.mark.parametrize("name", sorted(tuning.CANDIDATES))
def test_every_kind_keeps_clips_and_classes_and_survives_json(name):
    scores = random_scores()
    for settings in tuning.CANDIDATES[name][:3]:
        told = json.loads(json.dumps({"name": name, "settings": dict.fromkeys(CLASSES, settings)}))
        processed = postprocess.build(told).apply(scores)
        assert list(processed) == list(scores)
        for clip, of_clip in processed.items():
            assert of_clip.classes == CLASSES
            assert of_clip.seconds == pytest.approx(scores[clip].seconds)
            assert not np.isnan(of_clip.values).any()


@pytest.mark.parametrize("specification", [None, {}, {"name": "none"}])
def test_no_post_processing_leaves_scores_alone(specification):
    scores = random_scores()
    assert postprocess.build(specification).apply(scores) == scores


def test_classes_have_their_own_settings():
    scores = random_scores()
    settings = {"dog": {"seconds": 0.0}, "bell": {"seconds": 0.5}}
    filtered = postprocess.build({"name": "median_filter", "settings": settings}).apply(scores)
    middles = np.arange(60) / 10 + 0.05
    for clip, of_clip in filtered.items():
        frame = np.searchsorted(of_clip.edges, middles, side="right") - 1
        np.testing.assert_array_equal(of_clip.column("dog")[frame], scores[clip].column("dog"))
        assert np.abs(np.diff(of_clip.column("bell"))).sum() < np.abs(np.diff(scores[clip].column("bell"))).sum()


@pytest.mark.parametrize("seed", range(3))
def test_minimum_duration_closes_gaps_then_drops_short_events_at_every_threshold(seed):
    scores = random_scores(seed)
    processed = apply(scores, "minimum_duration", seconds=0.3, gap_seconds=0.25)
    for threshold in np.arange(-0.05, 1, 0.1):
        raw, found = detect_events(scores, threshold), detect_events(processed, threshold)
        for clip, events in raw.items():
            expected = merge_events(events, max_gap=0.25 - 1e-6, min_seconds=0.3)
            assert [(round(e.onset, 6), round(e.offset, 6), e.label) for e in found[clip]] == [
                (round(e.onset, 6), round(e.offset, 6), e.label) for e in expected
            ]


@pytest.mark.parametrize("seed", range(3))
def test_hysteresis_keeps_an_event_until_the_score_falls_below_its_share_of_the_threshold(seed):
    scores = random_scores(seed)
    processed = apply(scores, "hysteresis", ratio=0.5)
    for threshold in np.arange(0.06, 1, 0.11):
        long, found = detect_events(scores, threshold / 2), detect_events(processed, threshold)
        for clip, events in long.items():
            peaks = {e: scores[clip].column(e.label)[round(e.onset * 10) : round(e.offset * 10)].max() for e in events}
            assert found[clip] == [event for event in events if peaks[event] > threshold]


def test_hysteresis_refuses_logits():
    logits = {clip: s.with_values(s.values - 0.5) for clip, s in random_scores().items()}
    with pytest.raises(PostprocessError, match="not logits"):
        apply(logits, "hysteresis", ratio=0.5)


def test_a_threshold_moves_detections_to_one_half_and_leaves_psds():
    scores, truth, durations = noisy_set()
    moved = apply(scores, "threshold", threshold=0.3)
    assert detect_events(moved, 0.5) == detect_events(scores, 0.3)
    assert psds(moved, truth, durations) == pytest.approx(psds(scores, truth, durations))


def test_boxes_keep_their_borders_at_every_threshold():
    boxed = apply(random_scores(), "csebbs", step_seconds=0.4, merge_absolute=0.2)
    everything = detect_events(boxed, -1.0)
    for threshold in (0.2, 0.4, 0.6):
        for clip, events in detect_events(boxed, threshold).items():
            assert set(events) <= set(everything[clip])


def test_a_chain_applies_its_steps_in_order():
    scores = random_scores()
    steps = [{"name": "frame_median_filter", "frames": 3}, {"name": "minimum_duration", "seconds": 0.3}]
    one_by_one = apply(apply(scores, "frame_median_filter", frames=3), "minimum_duration", seconds=0.3)
    chained = apply(scores, "chain", steps=steps)
    for clip in scores:
        np.testing.assert_array_equal(chained[clip].values, one_by_one[clip].values)


def test_clips_of_unequal_length_keep_their_own_frames():
    scores = random_scores(clips=2)
    scores["c1"] = Scores(scores["c1"].values[:17], scores["c1"].edges[:18], CLASSES)
    for name in tuning.CANDIDATES:
        processed = apply(scores, name, **tuning.CANDIDATES[name][-1])
        assert processed["c0"].seconds == pytest.approx(6.0)
        assert processed["c1"].seconds == pytest.approx(1.7)


@pytest.mark.parametrize(
    ("specification", "words"),
    [
        ({"name": "medfilt", "settings": {"dog": {}}}, "no post-processor 'medfilt'; choose from .*median_filter"),
        ({"name": "median_filter", "settings": {"dog": {"second": 1}}}, "no setting 'second'; its settings are"),
    ],
)
def test_unknown_names_are_refused_with_what_there_is(specification, words):
    with pytest.raises(PostprocessError, match=words):
        postprocess.build(specification)


def test_settings_of_another_detector_are_refused():
    told = {"name": "median_filter", "settings": {"dog": {}, "cow": {}}}
    with pytest.raises(PostprocessError, match=r"2 classes differ, e.g. \['bell', 'cow'\]"):
        postprocess.build(told).apply(random_scores())


@pytest.mark.parametrize("split", ["test", "Test", "public_eval"])
def test_nothing_is_tuned_on_test(split):
    with pytest.raises(PostprocessError, match="must not be tuned on"):
        tuning.tune_classes("median_filter", None, *noisy_set(clips=4), split)


@pytest.mark.parametrize("kind", ["median_filter", "frame_median_filter", "csebbs", "minimum_duration", "hysteresis"])
def test_tuning_never_makes_a_class_worse_than_its_first_candidate(kind):
    scores, truth, durations = noisy_set()
    candidates = tuning.CANDIDATES[kind][::3]
    told = tuning.tune_classes(kind, candidates, scores, truth, durations, "validation")
    assert told["tuned_on"] == "validation"
    first = tuning.tune_classes(kind, candidates[:1], scores, truth, durations, "validation")
    for label in CLASSES:
        assert told["reached"][label] >= first["reached"][label]
        assert told["settings"][label] in candidates
    after = psds(postprocess.build(json.loads(json.dumps(told))).apply(scores), truth, durations)
    assert 0 <= after["psds1"] <= 1


def test_a_filter_is_found_where_scores_are_noisy():
    scores, truth, durations = noisy_set()
    told = tuning.tune_classes("median_filter", None, scores, truth, durations, "validation")
    for label in CLASSES:
        assert told["settings"][label]["seconds"] > 0
        assert told["reached"][label] > told["untouched"][label]
        assert 0.2 < told["thresholds"][label] < 0.7


def test_a_list_of_numbers_stands_for_each_of_them():
    grid = {"step_seconds": [0.3, 0.5], "merge_absolute": None, "merge_relative": [1.5, 2.0]}
    written_out = [
        {"step_seconds": step, "merge_absolute": None, "merge_relative": ratio}
        for step in (0.3, 0.5)
        for ratio in (1.5, 2.0)
    ]
    assert tuning.combinations(grid) == written_out
    steps = {"steps": [{"name": "threshold", "threshold": 0.3}]}
    assert tuning.combinations(steps) == [steps]
    few = noisy_set(clips=6)
    told = [tuning.tune_classes("csebbs", grids, *few, "validation") for grids in ([grid], written_out)]
    assert told[0] == told[1]


def test_what_was_tuned_is_what_is_applied_even_where_candidates_name_another_kind():
    few, filtered = noisy_set(clips=6), {"name": "median_filter", "seconds": 0.5}
    told = [tuning.tune_classes(kind, [filtered], *few, "validation") for kind in ("none", "median_filter")]
    one, other = (postprocess.build(spec).apply(few[0]) for spec in told)
    assert all(np.array_equal(one[clip].values, other[clip].values) for clip in few[0])


def test_a_class_that_validation_lacks_gets_what_serves_the_others():
    scores, truth, durations = noisy_set()
    dogs = {clip: [e for e in events if e.label == "dog"] for clip, events in truth.items()}
    told = tuning.tune_classes("median_filter", None, scores, dogs, durations, "validation")
    assert told["settings"]["bell"] == told["settings"]["dog"]
    assert "bell" not in told["reached"]


def test_thresholds_are_tuned_for_f1_and_not_for_psds():
    scores, truth, durations = noisy_set()
    with pytest.raises(PostprocessError, match="same at every threshold"):
        tuning.tune_classes("threshold", None, scores, truth, durations, "validation", "psds1")
    told = tuning.tune_classes("threshold", None, scores, truth, durations, "validation", "collar_f1_at_0.5")
    assert all(told["reached"][label] >= told["untouched"][label] for label in CLASSES)


@pytest.mark.parametrize(
    ("kind", "candidates", "objective"),
    [
        ("threshold", None, "collar_f1_at_0.5"),
        ("median_filter", None, "collar_f1_at_0.5"),
        (
            "chain",
            [{"steps": [{"name": "median_filter", "seconds": 0.3}, {"name": "threshold", "threshold": 0.4}]}],
            "psds1",
        ),
    ],
)
def test_detections_are_cut_where_the_settings_put_their_threshold(kind, candidates, objective):
    scores, truth, durations = noisy_set()
    told = tuning.tune_classes(kind, candidates, scores, truth, durations, "validation", objective)
    assert told["thresholds"] == {"dog": 0.5, "bell": 0.5}


def test_unknown_kinds_and_objectives_are_refused():
    with pytest.raises(PostprocessError, match="no post-processor 'smooth'"):
        tuning.tune_classes("smooth", None, *noisy_set(clips=4), "validation")
    with pytest.raises(PostprocessError, match="no objective 'f1'"):
        tuning.tune_classes("median_filter", None, *noisy_set(clips=4), "validation", "f1")
    with pytest.raises(PostprocessError, match="needs candidates"):
        tuning.tune_classes("chain", None, *noisy_set(clips=4), "validation")


@pytest.mark.parametrize(
    "spec",
    [
        {"name": "csebbs"},
        {"name": "hysteresis", "candidates": [{"ratio": 0.5}]},
        {"name": "threshold", "objective": "collar_f1_at_0.5"},
        {
            "name": "chain",
            "candidates": [{"steps": [{"name": "median_filter", "seconds": 0.3}, {"name": "threshold"}]}],
        },
    ],
)
def test_a_page_may_name_any_post_processor_and_what_to_try(spec):
    postprocess_checks.check(spec)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"name": "csebb"}, "no post-processor 'csebb'"),
        ({"name": "csebbs", "candidate": []}, "no key 'candidate'"),
        ({"name": "median_filter", "candidates": [{"second": 1}]}, "no setting 'second'"),
        ({"name": "median_filter", "candidates": [{"seconds": "long"}]}, "seconds cannot be 'long': .*valid number"),
        ({"name": "median_filter", "candidates": [{"seconds": [0.1, -1]}]}, "seconds cannot be -1: .*greater than"),
        ({"name": "frame_median_filter", "candidates": [{"frames": 2.5}]}, "frames cannot be 2.5: .*valid integer"),
        (
            {"name": "csebbs", "candidates": [{"merge_absolute": [0.1, None]}]},
            r"merge_absolute cannot be \[0.1, None\]",
        ),
        ({"name": "hysteresis", "candidates": [{"ratio": 2}]}, "ratio cannot be 2: .*less than or equal to 1"),
        ({"name": "median_filter", "objective": "psds3"}, "no objective 'psds3'"),
        ({"name": "threshold"}, "the same at every threshold"),
        ({"name": "chain", "candidates": [{"steps": [{"name": "hysteresis", "ratio": 0}]}]}, "ratio cannot be 0"),
        (
            {"name": "chain", "candidates": [{"steps": [{"name": "threshold", "threshold": t}]} for t in (0.4, 0.9)]},
            r"psds1\+psds2 is the same at every threshold, the candidates differ",
        ),
        ({"name": "chain"}, "a chain needs candidates"),
        ({"name": "chain", "candidates": [{"steps": [{"name": "smooth"}]}]}, "no post-processor 'smooth'"),
    ],
)
def test_a_page_that_names_what_does_not_exist_is_refused(spec, words):
    with pytest.raises(PostprocessError, match=words):
        postprocess_checks.check(spec)


def test_thresholds_before_a_step_that_takes_ratios_of_scores_may_differ():
    steps = [[{"name": "threshold", "threshold": t}, {"name": "hysteresis", "ratio": 0.5}] for t in (0.3, 0.4)]
    postprocess_checks.check({"name": "chain", "candidates": [{"steps": of_one} for of_one in steps]})
    with pytest.raises(PostprocessError, match="the candidates differ in theirs"):
        postprocess_checks.check({"name": "chain", "candidates": [{"steps": of_one[::-1]} for of_one in steps]})
