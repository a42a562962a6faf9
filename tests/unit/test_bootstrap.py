"""Intervals hold the metric, draws are paired, recordings stay together."""

import json

import numpy as np
import pytest

from sedflow.agreement import EvaluationError
from sedflow.bootstrap import against, describe_draws, draw, draw_weights, headlines, intervals
from sedflow.comparison import compare, comparison_table
from sedflow.evaluation import Evaluation
from sedflow.events import Event
from sedflow.groups import groups_of, independent
from sedflow.scores import Scores

CLASSES = ("dog", "bell")


def marked(noise, clips=24, seed=0):
    rng = np.random.default_rng(seed)
    scores, truth = {}, {}
    for number in range(clips):
        onset = round(rng.uniform(0, 2), 2)
        truth[f"c{number}"] = [Event(onset, onset + 1.0, CLASSES[number % 2])]
        values = rng.normal(0, noise, (50, 2))
        values[round(onset * 10) : round(onset * 10) + 10, number % 2] += 1
        scores[f"c{number}"] = Scores(values, np.arange(51) / 10, CLASSES)
    return scores, truth, dict.fromkeys(scores, 5.0)


def test_draws_keep_the_number_of_recordings_and_the_clips_of_one_together():
    clips = [f"c{k}" for k in range(9)]
    weights = draw_weights(clips, 50, seed=3, recordings=dict.fromkeys(["c0", "c5", "c7"], ("street",)))
    assert weights.shape == (50, 9)
    np.testing.assert_array_equal(weights[:, 0], weights[:, 5])
    np.testing.assert_array_equal(weights[:, 0], weights[:, 7])
    assert (weights[:, [0, 1, 2, 3, 4, 6, 8]].sum(axis=1) == 7).all()


def test_clips_that_hang_together_through_others_are_one_group():
    mixed = {"c0": ("a", "b"), "c1": ("b", "c"), "c2": ("c",), "c3": ("d",), "c4": ("d", "e")}
    clips = [*mixed, "c5", "c6"]
    group = groups_of(clips, mixed)
    assert group[0] == group[1] == group[2] != group[3] == group[4]
    assert len(set(group)) == 4
    assert describe_draws(clips, mixed) == "7 clips in 4 groups by recording: too few recordings for an interval"
    assert describe_draws([*clips, "c7", "c8"], mixed) == "9 clips in 6 groups by recording"


def test_clips_that_all_hang_together_are_drawn_one_by_one_and_that_is_said():
    tangled = {f"c{k}": (f"r{k}", f"r{k + 1}") for k in range(8)}
    clips = [*tangled, "lonely"]
    weights = draw_weights(clips, 50, seed=3, recordings=tangled)
    assert len({tuple(of_clip) for of_clip in weights.T}) == len(clips)
    assert (
        describe_draws(clips, tangled)
        == "9 clips, drawn independently although they share 7 recordings: the intervals are too narrow"
    )
    assert describe_draws(clips, {}) == "9 clips"


def test_intervals_hold_the_metric_and_are_the_same_for_the_same_seed():
    evaluation = Evaluation(*marked(0.4))
    found = intervals(evaluation, samples=60, seed=1)
    measured = headlines(evaluation.metrics())
    for name in ("psds2", "segment_f1_at_0.5", "intersection_f1_at_0.5", "clip_map"):
        low, high = found[name]
        assert low <= measured[name] <= high
        assert low < high or measured[name] == 1
    assert found == intervals(evaluation, samples=60, seed=1)
    assert found != intervals(evaluation, samples=60, seed=2)


def test_processes_change_nothing():
    evaluation = Evaluation(*marked(0.4))
    assert intervals(evaluation, samples=45) == intervals(evaluation, samples=45, jobs=2)


def test_progress_sees_every_piece_of_work():
    seen = []

    def progress(chunks, total):
        for chunk in chunks:
            seen.append(total)
            yield chunk

    draw([Evaluation(*marked(0.4))], samples=45, progress=progress)
    assert seen == [3, 3, 3]


def test_a_better_detector_is_found_to_be_better_and_the_same_one_is_not():
    worse, truth, durations = marked(0.6)
    better, _, _ = marked(0.15)
    rows = compare({"worse": [worse], "better": [better], "again": [worse]}, truth, durations, samples=80)
    assert "against_first" not in rows[0]
    gain = rows[1]["against_first"]["psds1"]
    assert gain["low"] > 0 and gain["p"] < 0.05
    assert gain["difference"] == pytest.approx(rows[1]["metrics"]["psds1"] - rows[0]["metrics"]["psds1"])
    assert rows[2]["against_first"]["psds1"] == {"difference": 0, "low": 0, "high": 0, "p": 1}
    table = comparison_table(rows)
    assert table[0] == ["metric", "worse", "better", "again"]
    psds1 = next(line for line in table if line[0] == "psds1")
    assert psds1[1].count("\n") == 1 and psds1[2].endswith("*")
    assert psds1[3].endswith("+0.000 [+0.000, +0.000]\np = 1.000")


def test_a_difference_that_no_draw_turns_is_as_rare_as_the_draws_can_tell():
    assert against(np.zeros(99), np.ones(99), 1.0, 20)["p"] == pytest.approx(0.02)
    assert against(np.zeros(99), np.zeros(99), 0.0, 20)["p"] == 1


def test_p_is_twice_the_share_of_draws_on_the_rarer_side_ties_counting_half():
    differences = np.array([-1.0] * 10 + [0.0] * 20 + [1.0] * 70)
    assert against(np.zeros(100), differences, 0.5, 20)["p"] == pytest.approx(2 * (10 + 20 / 2) / 100)
    assert against(np.zeros(100), -differences, -0.5, 20)["p"] == pytest.approx(0.4)
    assert against(np.zeros(110), np.append(differences, [np.nan] * 10), 0.5, 20)["p"] == pytest.approx(0.4)
    assert against(np.zeros(3), np.full(3, np.nan), 0.5, 20) == {"difference": 0.5, "p": 1}


@pytest.mark.parametrize(("witnesses", "p"), [(1, 1.0), (2, 0.5), (5, 0.0625), (6, 0.03125), (20, 2 / 1001)])
def test_a_difference_is_as_rare_as_so_few_recordings_can_tell(witnesses, p):
    test = against(np.zeros(1000), np.ones(1000), 1.0, witnesses)
    assert test["p"] == pytest.approx(p)
    assert ("low" in test) == ("high" in test) == (witnesses >= 6)


def test_parts_of_a_few_recordings_are_no_more_than_these():
    assert independent([f"c{k}" for k in range(10)], {f"c{k}": ("street",) for k in range(10)}) == 1
    assert independent(["a", "b", "c"], {"a": ("x",), "b": ("x",)}) == 2
    assert independent(["a", "b", "c"], {}) == 3


def test_few_recordings_have_neither_intervals_nor_stars():
    worse, truth, durations = marked(0.6, clips=3)
    better, _, _ = marked(0.15, clips=3)
    assert intervals(Evaluation(worse, truth, durations), samples=20) == {}
    rows = compare({"worse": [worse], "better": [better]}, truth, durations, samples=40)
    assert rows[0]["intervals"] == rows[1]["intervals"] == {}
    json.dumps(rows, allow_nan=False)
    psds1 = next(line for line in comparison_table(rows) if line[0] == "psds1")
    assert psds1[1].endswith("\n[–]") and psds1[2].endswith(" [–]\np = 0.250")


def test_runs_on_other_clips_are_not_compared():
    scores, truth, durations = marked(0.4)
    fewer = [{clip: what[clip] for clip in list(what)[1:]} for what in (scores, truth, durations)]
    with pytest.raises(EvaluationError, match=r"same clips; 1 are not in all runs, e.g. \['c0'\]"):
        draw([Evaluation(scores, truth, durations), Evaluation(*fewer)], samples=5)
