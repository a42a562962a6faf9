"""Events from scores, and the way through other tools' files and back."""

import json
import os

import numpy as np
import pytest

from sedflow import audio
from sedflow.detections import check_target, detect_events, draw_detections, draw_recording, write_detections
from sedflow.events import Event, LabelError, read_events
from sedflow.labels import read_any_labels, read_audacity, read_raven
from sedflow.scores import Scores

CLASSES = ("dog", "bell")
FOUND = {"a": [Event(0.2, 0.6, "dog"), Event(0.3, 1.0, "bell")], "b": []}


def test_runs_above_the_threshold_become_events():
    values = np.array([[0.6, 0.0], [0.5, 0.9], [0.7, 0.9], [0.0, 0.9]])
    scores = {"a": Scores(values, np.arange(5) * 0.5, CLASSES)}
    assert detect_events(scores) == {
        "a": [Event(0.0, 0.5, "dog"), Event(0.5, 2.0, "bell"), Event(1.0, 1.5, "dog")]
    }  # 0.5 is not above 0.5
    assert detect_events(scores, 0.4)["a"] == [Event(0.0, 1.5, "dog"), Event(0.5, 2.0, "bell")]
    assert detect_events(scores, {"bell": 0.95})["a"] == [Event(0.0, 0.5, "dog"), Event(1.0, 1.5, "dog")]


def test_thresholds_of_unknown_classes_are_refused():
    scores = {"a": Scores(np.zeros((2, 2)), np.arange(3.0), CLASSES)}
    with pytest.raises(ValueError, match=r"\['cow'\]"):
        detect_events(scores, {"cow": 0.5})


def test_silence_below_every_threshold_is_no_event():
    scores = {"a": Scores(np.full((3, 2), -np.inf), np.arange(4.0), CLASSES)}
    assert detect_events(scores, -1e9) == {"a": []}


@pytest.mark.parametrize(
    ("name", "format"), [("labels", "audacity"), ("labels", "raven"), ("labels.tsv", "tsv"), ("labels.json", "json")]
)
def test_labels_survive_the_way_through_another_tool(tmp_path, name, format):
    write_detections(tmp_path / name, FOUND, format)
    if format == "json":
        told = json.loads((tmp_path / name).read_text())
        assert {clip: [Event(**event) for event in events] for clip, events in told.items()} == FOUND
    else:
        assert read_any_labels(tmp_path / name) == FOUND


def test_one_label_file_is_one_clip_and_soft_labels_are_cut_at_one_half(tmp_path):
    write_detections(tmp_path, {"a": FOUND["a"]}, "audacity")
    assert read_any_labels(tmp_path / "a.txt") == {"a": FOUND["a"]}
    rows = ["filename\tonset\toffset\tevent_label\tconfidence", "r.wav\t0\t1\tcar\t0.6", "r.wav\t1\t2\tcar\t0.9"]
    (tmp_path / "soft.tsv").write_text("\n".join([*rows, "r.wav\t2\t3\tcar\t0.5", "r.wav\t0\t1\tbird\t0.2"]) + "\n")
    assert read_any_labels(tmp_path / "soft.tsv") == {"r": [Event(0, 2, "car")]}


def test_labels_that_are_not_there_are_said_to_be_missing(tmp_path):
    with pytest.raises(LabelError, match="no such label file"):
        read_any_labels(tmp_path / "truth.tsv")


def test_tsv_and_json_hold_every_clip(tmp_path):
    write_detections(tmp_path / "found.tsv", FOUND, "tsv")
    assert read_events(tmp_path / "found.tsv") == FOUND
    write_detections(tmp_path / "found.json", FOUND, "json")
    told = json.loads((tmp_path / "found.json").read_text())
    assert told["b"] == []
    assert told["a"][0] == {"onset": 0.2, "offset": 0.6, "label": "dog"}


def test_unknown_formats_are_refused_with_those_that_exist(tmp_path):
    with pytest.raises(ValueError, match=r"no format 'elan'; choose from \['tsv'"):
        write_detections(tmp_path / "x", FOUND, "elan")


def test_audacity_frequency_rows_blank_rows_and_windows_line_ends_are_read(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf0.2\t0.6\tdog\r\n\\\t100\t900\r\n\r\n0.3\t1.0\tbell\r\n")
    assert read_audacity(tmp_path / "a.txt") == {"a": FOUND["a"]}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("0.5\t0.5\tdog", "a.txt:1: offset 0.5 s is not after onset"),
        ("0,5\t0,9\tdog", "a.txt:1: .*must be numbers"),
        ("0.5\t0.9\t", "no label"),
        ("0.5 0.9 dog", "separated by tabs"),
    ],
)
def test_impossible_audacity_labels_are_refused_with_file_and_row(tmp_path, row, words):
    (tmp_path / "a.txt").write_text(row + "\n")
    with pytest.raises(LabelError, match=words):
        read_audacity(tmp_path)


def test_raven_selections_count_once_and_may_name_their_clip(tmp_path):
    head = (
        "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tHigh Freq (Hz)\tBegin File\tSpecies\n"
    )
    rows = "".join(f"1\t{view}\t1\t0.2\t0.6\t0\t8000\tyard.wav\tdog\n" for view in ("Waveform 1", "Spectrogram 1"))
    (tmp_path / "x.Table.1.selections.txt").write_text(head + rows)
    assert read_raven(tmp_path)["yard"] == [Event(0.2, 0.6, "dog")]


SEQUENCE = "Selection\tBegin Time (s)\tEnd Time (s)\tBegin File\tFile Offset (s)\tSpecies\n"


def test_raven_selections_of_a_sequence_have_the_times_of_their_own_recording(tmp_path):
    rows = "1\t10.0\t12.0\tA_0600.wav\t10.0\twren\n2\t75.1\t77.3\tA_0700.wav\t15.1\twren\n"
    (tmp_path / "site1.Table.1.selections.txt").write_text(SEQUENCE + rows)
    found = {"A_0600": [Event(10.0, 12.0, "wren")], "A_0700": [Event(15.1, 17.3, "wren")]}
    assert read_any_labels(tmp_path) == found  # and no clip called site1


@pytest.mark.parametrize("head", [SEQUENCE, SEQUENCE.replace("Begin File\tFile Offset (s)\t", "")])
def test_a_raven_table_without_selections_names_its_clip(tmp_path, head):
    (tmp_path / "yard.Table.1.selections.txt").write_text(head)
    assert read_any_labels(tmp_path) == {"yard": []}


def test_raven_tables_of_several_recordings_without_offsets_in_them_are_refused(tmp_path):
    rows = "1\t10.0\t12.0\tA_0600.wav\t10.0\twren\n2\t75.0\t77.0\tA_0700.wav\t\twren\n"
    (tmp_path / "site1.txt").write_text(SEQUENCE + rows)
    with pytest.raises(LabelError, match=r"site1\.txt:3: .*several recordings.*add the measurement 'File O"):
        read_raven(tmp_path)
    (tmp_path / "site1.txt").write_text(SEQUENCE + rows.replace("A_0700", "A_0600").replace("\t10.0\twren", "\t\twren"))
    assert read_raven(tmp_path) == {"A_0600": [Event(10.0, 12.0, "wren"), Event(75.0, 77.0, "wren")]}


def test_raven_tables_whose_cells_are_quoted_are_read(tmp_path):
    head = '"Selection"\t"Begin Time (s)"\t"End Time (s)"\t"Species"\n'
    (tmp_path / "yard.txt").write_text(head + '"1"\t0.2\t0.6\t"dog"\n')
    assert read_any_labels(tmp_path) == {"yard": [Event(0.2, 0.6, "dog")]}


def test_raven_tables_without_a_class_column_are_refused(tmp_path):
    (tmp_path / "x.txt").write_text("Selection\tBegin Time (s)\tEnd Time (s)\n1\t0\t1\n")
    with pytest.raises(LabelError, match=r"none of the columns .*; rename the column with the class to one of them"):
        read_raven(tmp_path)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(LabelError, match="no label files"):
        read_audacity(tmp_path)


def test_a_picture_is_drawn(tmp_path):
    samples = np.sin(np.arange(16000) / 5)
    for events in (FOUND["a"], []):
        draw_detections(tmp_path / "picture.png", samples, 16000, events, FOUND["a"], "a clip")
        assert (tmp_path / "picture.png").read_bytes()[1:4] == b"PNG"


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_a_recording_at_its_own_rate_becomes_a_picture(tmp_path, ending):
    audio.write(tmp_path / "yard.flac", np.sin(np.arange(22050 * 2) / 5).astype(np.float32), 22050)
    draw_recording(tmp_path / f"pictures/yard.{ending}", tmp_path / "yard.flac", FOUND["a"])
    drawn = (tmp_path / f"pictures/yard.{ending}").read_bytes()
    assert drawn[:8].startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[ending])


@pytest.mark.parametrize("format", ["audacity", "raven"])
def test_one_clip_may_name_its_own_label_file(tmp_path, format):
    write_detections(tmp_path / "new/a.txt", {"a": FOUND["a"]}, format)
    assert read_any_labels(tmp_path / "new/a.txt") == {"a": FOUND["a"]}


@pytest.mark.parametrize(
    ("out", "format", "said"),
    [
        ("yard.wav", "tsv", "yard.wav: this is an audio file"),
        ("other.FLAC", "json", "other.FLAC: this is an audio file"),
        ("yard.wav", "audacity", "yard.wav: this is an audio file"),
        (".", "audacity", "yard.txt: these labels beside the recording"),
        ("../here", "audacity", "yard.txt: these labels beside the recording"),
        (".", "raven", "yard.Table.1.selections.txt: these labels beside the recording"),
    ],
)
def test_a_recording_and_the_labels_beside_it_are_never_replaced(tmp_path, monkeypatch, out, format, said):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name in ("yard.wav", "yard.txt", "yard.Table.1.selections.txt"):
        (tmp_path / "here" / name).write_text("of the user")
    with pytest.raises(LabelError, match=said):
        check_target(out, "yard.wav", format)


@pytest.mark.parametrize("format", ["tsv", "json", "audacity", "raven"])
def test_detections_are_written_into_a_pipe(tmp_path, format):
    write_detections(tmp_path / "yard.txt", {"yard": FOUND["a"]}, format)
    ours, theirs = os.pipe()
    with os.fdopen(ours) as end:
        check_target(f"/dev/fd/{theirs}", tmp_path / "yard.wav", format)
        write_detections(f"/dev/fd/{theirs}", {"yard": FOUND["a"]}, format)
        os.close(theirs)
        assert end.read() == (tmp_path / "yard.txt").read_text()


@pytest.mark.parametrize("format", ["audacity", "raven"])
def test_labels_in_a_folder_of_their_own_are_written_again(tmp_path, format):
    (tmp_path / "yard.wav").touch()
    for out in (tmp_path / "found", tmp_path / "found", tmp_path, tmp_path / "yard.txt", tmp_path / "yard.txt"):
        check_target(out, tmp_path / "yard.wav", format)
        if out != tmp_path:
            write_detections(out, {"yard": FOUND["a"]}, format)
            assert read_any_labels(out) == {"yard": FOUND["a"]}
