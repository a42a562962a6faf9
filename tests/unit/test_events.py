"""Events and the TSV files they live in: what is read is what was written, and what is wrong is named."""

import pytest

from sedflow.events import (
    SUMMARIES,
    ClassSet,
    Clip,
    Event,
    LabelError,
    clip_id,
    merge_events,
    read_clips,
    read_durations,
    read_events,
    read_weak,
    write_clips,
    write_durations,
    write_events,
    write_weak,
)
from sedflow.scores import TIME_COLUMNS

CLASSES = ClassSet(("dog", "cat"), {"hound": "dog"})
HEADER = "filename\tonset\toffset\tevent_label\n"


def strong_file(tmp_path, rows, header=HEADER):
    path = tmp_path / "strong.tsv"
    path.write_bytes((header + rows).encode())
    return path


def test_strong_labels_survive_a_round_trip(tmp_path):
    events = {"a": [Event(0.5, 1.25, "dog"), Event(1.0, 2.0, "cat")], "click": [Event(3.0, 3.0002, "cat")], "quiet": []}
    write_events(tmp_path / "strong.tsv", events)
    assert read_events(tmp_path / "strong.tsv", CLASSES) == events


def test_weak_labels_durations_and_clips_survive_a_round_trip(tmp_path):
    write_weak(tmp_path / "weak.tsv", {"a": ("dog", "cat"), "b": ()})
    write_durations(tmp_path / "seconds.tsv", {"a": 10.0, "b": 3.37})
    clips = [
        Clip("a", "data/a.flac", 10.0, "00ff", "weak", ("dog/1", "bg/2")),
        Clip("b", "data/b.flac", 3.37, "01", "x"),
    ]
    write_clips(tmp_path / "clips.tsv", clips)
    assert read_weak(tmp_path / "weak.tsv", CLASSES) == {"a": ("cat", "dog"), "b": ()}
    assert read_durations(tmp_path / "seconds.tsv") == {"a": 10.0, "b": 3.37}
    assert read_clips(tmp_path / "clips.tsv") == clips


def test_byte_order_mark_crlf_and_blank_lines_are_accepted(tmp_path):
    path = strong_file(tmp_path, "a.wav\t0.0\t1.0\tdog\r\n\r\nb.wav\t\t\t\r\n", "\ufeff" + HEADER.replace("\n", "\r\n"))
    assert read_events(path, CLASSES) == {"a": [Event(0.0, 1.0, "dog")], "b": []}


def test_cells_that_a_spreadsheet_quoted_are_read_as_they_were_typed(tmp_path):
    table = '"filename"\t"onset"\t"offset"\t"event_label"\n"a, b.wav"\t"0"\t"1"\t"dog"\n"""c"".wav"\t0\t1\tcat\n'
    path = strong_file(tmp_path, table, header="")
    assert read_events(path, CLASSES) == {"a, b": [Event(0, 1, "dog")], '"c"': [Event(0, 1, "cat")]}
    weak = tmp_path / "weak.tsv"
    weak.write_bytes(b'filename\tevent_labels\r\nw.wav\t"cat,dog"\r\n"x.wav"\t""\r\n')
    assert read_weak(weak, CLASSES) == {"w": ("cat", "dog"), "x": ()}
    (tmp_path / "durations.tsv").write_text('"filename"\t"duration"\n"a.wav"\t10\n')
    assert read_durations(tmp_path / "durations.tsv") == {"a": 10.0}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ('a.wav\t0\t1\t"dog\n', r"""strong.tsv:2: '"dog' contains a quotation mark without a partner"""),
        ('a".wav\t0\t1\tdog\n', r"""strong.tsv:2: 'a".wav' contains a quotation mark"""),
    ],
)
def test_a_quotation_mark_without_a_partner_is_named(tmp_path, rows, said):
    with pytest.raises(LabelError, match=said):
        read_events(strong_file(tmp_path, rows))
    (tmp_path / "weak.tsv").write_text('filename\tevent_labels\na.wav\t"cat","dog"\n')
    with pytest.raises(LabelError, match=r"""weak.tsv:2: 'cat"' contains a quotation mark"""):
        read_weak(tmp_path / "weak.tsv")


def test_a_label_is_one_class_however_its_letters_are_composed(tmp_path):
    split, whole = "Klo\u0308te", "Kl\u00f6te"
    assert read_events(strong_file(tmp_path, f"a.wav\t0\t1\t{split}\n"), ClassSet((whole,)))["a"][0].label == whole
    assert ClassSet((split,), {"Ku\u0308he": split}) == ClassSet((whole,), {"K\u00fche": whole})
    (tmp_path / "weak.tsv").write_text(f"filename\tevent_labels\na.wav\t{split},{whole}\n")
    assert read_weak(tmp_path / "weak.tsv") == {"a": (whole,)}


def test_aliases_become_their_label(tmp_path):
    path = strong_file(tmp_path, "a.wav\t0\t1\thound\n")
    assert read_events(path, CLASSES)["a"][0].label == "dog"


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("a.wav\t0\t1\tdgo\n", r"strong\.tsv:2: label 'dgo' is not in the class list"),
        ("a.wav\t2\t1\tdog\n", r"strong\.tsv:2: offset 1\.0 s is not after onset 2\.0 s"),
        ("a.wav\t1\t1\tdog\n", "is not after onset"),
        ("a.wav\t-1\t1\tdog\n", "onset -1.0 s is negative"),
        ("a.wav\tnan\t1\tdog\n", "must be finite"),
        ("a.wav\t0\tinf\tdog\n", "must be finite"),
        ("a.wav\tzero\t1\tdog\n", "must be numbers in seconds"),
        ("a.wav\t0\t1\t\n", "has no label"),
        ("a.wav\t0\t1\tnan\n", "has no label"),
        ("\t0\t1\tdog\n", "no file name"),
        ("a.wav\t0\t1\tdog\tmore\n", "5 cells but 4 columns"),
        (
            "ok.wav\t0\t1\tdog\na.wav\t0\t11\tdog\n",
            r"strong\.tsv:3: .*is beyond|strong\.tsv:3: offset 11\.0 s is beyond",
        ),
        ("b.wav\t0\t1\tdog\n", "is not among the 2 known clips"),
    ],
)
def test_wrong_rows_are_named_with_file_row_and_value(tmp_path, rows, said):
    path = strong_file(tmp_path, rows)
    with pytest.raises(LabelError, match=said):
        read_events(path, CLASSES, {"a": 10.0, "ok": 10.0})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "the file is empty"),
        ("filename,onset,offset,event_label\na.wav,0,1,dog\n", "comma-separated"),
        ("filename\tonset\toffset\n", "no column 'event_label'"),
        ("filename\tonset\toffset\tevent_label\tonset\na.wav\t0\t1\tdog\t2\n", ":1: column 'onset' appears twice"),
        ((HEADER + "a.wav\t0\t1\thünd\n").encode("latin-1"), "strong.tsv:2: byte 0xfc is not UTF-8"),
        (HEADER.encode("utf-16"), "is not UTF-8; save the file"),
    ],
)
def test_wrong_headers_and_encodings_are_named(tmp_path, content, said):
    path = tmp_path / "strong.tsv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(LabelError, match=said):
        read_events(path, CLASSES)


def test_a_clip_twice_in_a_weak_or_duration_file_is_refused(tmp_path):
    path = tmp_path / "twice.tsv"
    path.write_text("filename\tevent_labels\na.wav\tdog\na.wav\tcat\n")
    with pytest.raises(LabelError, match="appears twice"):
        read_weak(path, CLASSES)
    path.write_text("filename\tduration\na.wav\t1\na.wav\t2\n")
    with pytest.raises(LabelError, match="appears twice"):
        read_durations(path)
    path.write_text("filename\tduration\na.wav\t0\n")
    with pytest.raises(LabelError, match="must be a positive number"):
        read_durations(path)


def test_merging_joins_close_events_of_one_class_and_drops_short_ones():
    events = [Event(0.0, 1.0, "dog"), Event(1.1, 2.0, "dog"), Event(0.5, 0.6, "cat"), Event(3.0, 3.25, "cat")]
    assert merge_events(events, max_gap=0.15, min_seconds=0.25) == [Event(0.0, 2.0, "dog"), Event(3.0, 3.25, "cat")]
    assert len(merge_events(events, max_gap=0.05)) == 4


@pytest.mark.parametrize("name", sorted({"filename", *TIME_COLUMNS, *SUMMARIES}))
def test_class_lists_refuse_names_of_columns(name):
    with pytest.raises(LabelError, match=f"{name!r} would be confused"):
        ClassSet(("dog", name))


def test_class_lists_refuse_doubles_and_strange_aliases():
    with pytest.raises(LabelError, match="duplicates"):
        ClassSet(("dog", "dog"))
    with pytest.raises(LabelError, match="aliases point to"):
        ClassSet(("dog",), {"puss": "cat"})
    with pytest.raises(LabelError, match="'cat' is a class and another spelling of 'dog'"):
        ClassSet(("dog", "cat"), {"cat": "dog"})


def test_class_list_files_have_aliases_and_comments(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text("# a comment\ndog\thound\twhelp\ncat\n")
    classes = ClassSet.read(path)
    assert list(classes) == ["dog", "cat"]
    assert classes.index("whelp") == 0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.wav", "a"),
        ("x/a.b.flac", "a.b"),
        ("a_0.000_10.000", "a_0.000_10.000"),
        ("w\\a.OGG", "a"),
        ("a.mp3.wav", "a"),
    ],
)
def test_only_audio_suffixes_are_cut_from_names(name, expected):
    assert clip_id(name) == expected
