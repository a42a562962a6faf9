"""Metrics equal those of sed_scores_eval, on real DCASE scores and on scores made to be awkward."""

import dataclasses
import json

import numpy as np
import pytest
from scipy.stats import norm

from sedflow import postprocess, psds
from sedflow.compat import prepare_sed_scores_eval
from sedflow.counting import Collar, collar_tallies
from sedflow.detections import detect_events
from sedflow.evaluation import Rules, evaluate
from sedflow.events import Event, merge_events, read_durations, read_events
from sedflow.scores import Scores, load_scores
from sedflow.stretches import Frames
from sedflow.tallies import f1_table
from sedflow.truth import Truth


@pytest.fixture(scope="module")
def reference(eval_reference_dir):
    scores = load_scores(eval_reference_dir / "scores")
    truth = read_events(eval_reference_dir / "ground_truth.tsv")
    durations = read_durations(eval_reference_dir / "durations.tsv")
    expected = json.loads((eval_reference_dir / "expected.json").read_text())
    return scores, truth, durations, expected


def same_for_all(scores, name, **settings):
    classes = next(iter(scores.values())).classes
    return postprocess.build({"name": name, "settings": dict.fromkeys(classes, settings)}).apply(scores)


def assert_reached(found, expected, path=""):
    for name, value in expected.items():
        if isinstance(value, dict):
            assert_reached(found[name], value, f"{path}/{name}")
        else:
            assert found[name] == pytest.approx(value, abs=1e-9), f"{path}/{name}"


def test_raw_scores_give_the_expected_metrics(reference):
    scores, truth, durations, expected = reference
    assert_reached(evaluate(scores, truth, durations), expected["raw"])


@pytest.mark.parametrize("seconds", [0.32, 0.48])
def test_median_filtered_scores_give_the_expected_metrics(reference, seconds):
    scores, truth, durations, expected = reference
    filtered = same_for_all(scores, "median_filter", seconds=seconds)
    assert_reached(evaluate(filtered, truth, durations), expected[f"median_filter_{seconds}s"])


@pytest.mark.parametrize("setting", ["0.32/0.15/1.5", "0.48/0.2/2.0"])
def test_csebbs_give_the_expected_metrics(reference, setting):
    scores, truth, durations, expected = reference
    block = expected["csebbs"][setting]
    boxed = same_for_all(
        scores,
        "csebbs",
        step_seconds=block["step_filter_length"],
        merge_absolute=block["merge_threshold_abs"],
        merge_relative=block["merge_threshold_rel"],
    )
    assert_reached(evaluate(boxed, truth, durations), block["metrics"])


def awkward(seed, levels, clips=12, classes=("dog", "bell", "saw"), silence=False):
    """Clips of unequal length, some without events; ``levels`` distinct scores make ties."""
    rng = np.random.default_rng(seed)
    scores, truth, durations = {}, {}, {}
    for number in range(clips):
        frames = int(rng.integers(1, 60))
        values = rng.normal(size=(frames, len(classes)))
        values = np.round(values * levels) / levels if levels else values
        if silence:
            values[rng.random(values.shape) < 0.3] = -np.inf
        seconds = frames * 0.04
        times = np.sort(np.round(rng.uniform(0, seconds, size=(int(rng.integers(0, 5)), 2)), 3), axis=1)
        events = [Event(on, off, classes[rng.integers(len(classes))]) for on, off in times if off > on]
        name = f"clip{number}"
        scores[name] = Scores(values, np.arange(frames + 1) * 0.04, classes)
        truth[name], durations[name] = merge_events(events, max_gap=0.01), seconds
    for number, label in enumerate(classes):  # the library wants every class to sound somewhere
        name = f"whole{number}"
        scores[name] = Scores(rng.normal(size=(10, len(classes))), np.arange(11) * 0.1, classes)
        truth[name], durations[name] = [Event(0.2, 0.7, label)], 1.0
    return scores, truth, durations


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("levels", [0, 3])
@pytest.mark.parametrize("name", ["psds1", "psds2", "psds1_macro"])
def test_psds_of_awkward_scores_matches_sed_scores_eval(seed, levels, name):
    prepare_sed_scores_eval()
    from sed_scores_eval import intersection_based

    scores, truth, durations = awkward(seed, levels, silence=seed % 3 == 0)
    criteria = psds.CRITERIA[name]
    # the clips are so short that the standard end of the curve would hide most of it
    criteria = dataclasses.replace(criteria, max_efpr=[100.0, 3000.0, 30000.0][seed % 3])
    found, per_class = psds.psds_of(psds.psd_rocs(scores, truth, durations, {name: criteria})[name], criteria)
    expected, expected_per_class, *_ = intersection_based.psds(
        {clip: s.table() for clip, s in scores.items()},
        {clip: [(e.onset, e.offset, e.label) for e in events] for clip, events in truth.items()},
        durations,
        dtc_threshold=criteria.dtc,
        gtc_threshold=criteria.gtc,
        cttc_threshold=criteria.cttc,
        alpha_ct=criteria.alpha_ct,
        alpha_st=criteria.alpha_st,
        max_efpr=criteria.max_efpr,
    )
    assert found == pytest.approx(expected, abs=1e-9)
    assert per_class == pytest.approx(expected_per_class, abs=1e-9)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("levels", [0, 3])
@pytest.mark.parametrize("collar", [Collar(0.2, 0.2, 0.2), Collar(0.2), Collar(0.5, 0.5)])
def test_collar_f1_of_awkward_scores_matches_sed_scores_eval(seed, levels, collar):
    prepare_sed_scores_eval()
    from sed_scores_eval import collar_based

    scores, truth, _ = awkward(seed, levels, silence=seed % 3 == 0)
    frames = Frames.of(scores)
    tallies = collar_tallies(frames, Truth(truth, frames.clips, frames.classes), collar)
    ones = np.ones(len(frames.clips))
    tables = {clip: s.table() for clip, s in scores.items()}
    events = {clip: [(e.onset, e.offset, e.label) for e in of_clip] for clip, of_clip in truth.items()}
    widths = {"onset_collar": collar.onset, "offset_collar": collar.offset, "offset_collar_rate": collar.rate}
    at = f1_table({label: tally.at(0.1, ones) for label, tally in tallies.items()})
    best = f1_table({label: tally.at_best(ones)[0] for label, tally in tallies.items()})
    assert at == pytest.approx(collar_based.fscore(tables, events, 0.1, **widths)[0], abs=1e-9)
    assert best == pytest.approx(collar_based.best_fscore(tables, events, **widths)[0], abs=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_clip_average_precision_and_area_match_scikit_learn(seed):
    from sklearn import metrics

    scores, truth, durations = awkward(seed, levels=[0, 3][seed % 2], clips=40)
    found = evaluate(scores, truth, durations)
    for label in found["psds1_per_class"]:
        present = [any(e.label == label for e in truth[clip]) for clip in scores]
        loudest = [s.column(label).max() for s in scores.values()]
        assert found["clip_map"][label] == pytest.approx(metrics.average_precision_score(present, loudest))
        area = metrics.roc_auc_score(present, loudest)
        assert found["clip_d_prime"][label] == pytest.approx(np.sqrt(2) * norm.ppf(area))


@pytest.mark.parametrize("seed", range(4))
def test_onset_f1_and_segment_error_rate_match_sed_eval(seed):
    prepare_sed_scores_eval()
    import sed_eval
    from dcase_util.containers import MetaDataContainer

    scores, truth, durations = awkward(seed, levels=0, clips=30)
    found = evaluate(scores, truth, durations, Rules(threshold=0.4))
    detections = detect_events(scores, 0.4)
    labels = list(next(iter(scores.values())).classes)
    by_event = sed_eval.sound_event.EventBasedMetrics(labels, t_collar=0.2, evaluate_offset=False)
    by_segment = sed_eval.sound_event.SegmentBasedMetrics(labels, time_resolution=1.0)
    for clip in scores:
        lists = [
            MetaDataContainer(
                [{"file": clip, "onset": e.onset, "offset": e.offset, "event_label": e.label} for e in events]
            )
            for events in (truth[clip], detections[clip])
        ]
        by_event.evaluate(*lists)
        by_segment.evaluate(*lists, evaluated_length_seconds=durations[clip])
    overall = by_event.results_overall_metrics()["f_measure"]["f_measure"]
    assert found["onset_f1_at_0.4"]["micro_average"] == pytest.approx(overall)
    rates = by_segment.results_overall_metrics()["error_rate"]
    ours = found["segment_error_rate_at_0.4"]
    assert ours["error_rate"] == pytest.approx(rates["error_rate"])
    assert ours["substitutions"] == pytest.approx(rates["substitution_rate"])
    assert ours["deletions"] == pytest.approx(rates["deletion_rate"])
    assert ours["insertions"] == pytest.approx(rates["insertion_rate"])
