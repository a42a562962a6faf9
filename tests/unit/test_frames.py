"""Seconds and frames."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sedflow.events import ClassSet, Event, LabelError
from sedflow.frames import FrameGrid, frame_targets

CLASSES = ClassSet(("dog", "cat"))


def test_ten_seconds_are_the_published_numbers_of_frames():
    assert FrameGrid(25).frames(10.0) == 250
    assert FrameGrid(15.625).frames(9.984) == 156


def test_a_partial_last_frame_counts():
    assert FrameGrid(25).frames(10.001) == 251
    assert FrameGrid(25).frames(0.0001) == 1


def test_labels_match_the_dcase_rule():
    # specs: 0.163–0.665 s covers frames [2, 11) of 64 ms
    targets = frame_targets([Event(0.163, 0.665, "dog")], CLASSES, FrameGrid(15.625), 156)
    assert np.flatnonzero(targets[:, 0]).tolist() == list(range(2, 11))
    assert targets[:, 1].sum() == 0


def test_decimal_times_on_a_frame_edge_do_not_spill():
    targets = frame_targets([Event(0.3, 0.6, "cat")], CLASSES, FrameGrid(10), 20)
    assert np.flatnonzero(targets[:, 1]).tolist() == [3, 4, 5]


@given(st.floats(0, 59), st.floats(0.01, 10), st.sampled_from([10.0, 15.625, 25.0, 50.0]))
def test_every_frame_an_event_touches_is_marked(onset, length, rate):
    grid = FrameGrid(rate)
    frames = grid.frames(70)
    marked = np.flatnonzero(frame_targets([Event(onset, onset + length, "dog")], CLASSES, grid, frames)[:, 0])
    edges = grid.edges(frames)
    assert edges[marked[0]] <= onset + 1e-5
    assert edges[marked[-1] + 1] >= onset + length - 1e-5
    assert len(marked) <= length * rate + 2


@pytest.mark.parametrize(("onset", "offset"), [(0.1, 0.3), (0.02, 0.1), (0.021, 0.059), (0.3, 0.38), (9.5, 12.0)])
def test_a_frame_counts_by_its_middle_if_asked(onset, offset):
    targets = frame_targets([Event(onset, offset, "cat")], CLASSES, FrameGrid(25), 250, "centre")
    middles = (np.arange(250) + 0.5) / 25
    expected = (middles >= onset - 1e-6) & (middles <= offset + 1e-6)  # HEAR: the end counts
    np.testing.assert_array_equal(targets[:, 1], expected)
    assert not targets[:, 0].any()


def test_impossible_events_are_refused():
    with pytest.raises(ValueError, match="not after its onset"):
        frame_targets([Event(1.0, 1.0, "dog")], CLASSES, FrameGrid(25), 250)
    with pytest.raises(LabelError, match="not in the class list"):
        frame_targets([Event(1.0, 2.0, "cow")], CLASSES, FrameGrid(25), 250)
    with pytest.raises(ValueError, match="must be positive"):
        FrameGrid(0)


def test_the_last_edge_is_the_end_of_the_clip():
    assert FrameGrid(25).edges(110, 4.37)[-1] == pytest.approx(4.37)
