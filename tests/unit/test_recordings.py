"""Windows become recordings without losing or doubling time."""

import numpy as np
import pytest

from sedflow.evaluation import evaluate
from sedflow.events import Event
from sedflow.recordings import are_windows, join_durations, join_scores, join_truth, parse_window, sounding
from sedflow.scores import ScoreError, Scores


def window(values, rate=4):
    values = np.asarray(values, dtype=float)[:, None]
    return Scores(values, np.arange(len(values) + 1) / rate, ("car",))


def test_names_hold_the_recording_and_hundredths_of_a_second():
    assert parse_window("cafe-12_a-500-1500") == ("cafe-12_a", 5.0, 15.0)
    for name in ("cafe", "cafe-500", "cafe-500-500"):
        with pytest.raises(ScoreError, match="is not a window"):
            parse_window(name)


def test_overlapping_windows_are_averaged_second_by_second():
    windows = {"r-0-200": window([0, 0, 0, 0, 1, 1, 0, 0]), "r-100-300": window([1, 1, 1, 1, 0.2, 0.2, 0.2, 0.2])}
    joined = join_scores(windows)["r"]
    np.testing.assert_allclose(joined.edges, [0, 1, 2, 3])
    np.testing.assert_allclose(joined.values[:, 0], [0, (0.5 + 1) / 2, 0.2])


def test_frames_across_seconds_are_shared_by_overlap():
    joined = join_scores({"r-0-200": Scores(np.array([[0.0], [1.0]]), np.array([0, 1.25, 2.0]), ("car",))})["r"]
    np.testing.assert_allclose(joined.values[:, 0], [0, 0.75])


def test_outside_of_boxes_nothing_is_detected_and_a_second_partly_in_a_box_counts_in_part():
    low = -np.inf
    windows = {"r-0-200": window([low] * 4 + [0.8, 0.8, low, low]), "r-100-300": window([low] * 8)}
    assert join_scores(windows)["r"].values[:, 0].tolist() == [low, pytest.approx(0.2), low]
    logits = join_scores({"r-0-100": window([-3.0, -1.0, low, low])})["r"]
    assert logits.values[0, 0] == pytest.approx((-3 - 1 - 3 - 3) / 4)


def test_a_part_without_a_window_is_refused():
    with pytest.raises(ScoreError, match=r"no window covers 1\.00 s"):
        join_scores({"r-0-100": window([0] * 4), "r-200-300": window([0] * 4)})


def test_events_of_windows_join_where_windows_meet():
    windows = {"r-0-200": [Event(1.0, 2.0, "car")], "r-100-300": [Event(0.0, 1.5, "car")], "s-0-100": []}
    assert join_truth(windows) == {"r": [Event(1.0, 2.5, "car")], "s": []}


def test_soft_labels_above_the_threshold_become_events():
    soft = [Event(0, 1, "car", 0.6), Event(1, 2, "car", 0.9), Event(2, 3, "car", 0.5), Event(0, 1, "bird", 0.2)]
    assert sounding(soft) == [Event(0, 2, "car")]


def test_recordings_last_until_their_last_window_ends():
    assert join_durations(["r-0-1000", "r-500-1500", "s-0-700"]) == {"r": 15.0, "s": 7.0}
    assert are_windows(["r-0-1000", "r-500-1500"]) and not are_windows(["r-0-1000", "dog"])


def test_joined_recordings_are_judged_like_clips():
    windows = {f"r-{k}00-{k + 4}00": window(np.repeat([0, 1, 0, 0], 4)) for k in range(0, 12, 4)}
    truth = join_truth({name: [Event(1.0, 2.0, "car")] for name in windows})
    assert evaluate(join_scores(windows), truth, {"r": 12.0})["segment_mpauc_max_fpr_0.1"]["mean"] == pytest.approx(1)
