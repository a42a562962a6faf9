"""What holds for every corpus, and what each of ours adds."""

import functools
import json
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path

import corpus_folders
import numpy as np
import pytest
import soundfile

from sedflow import audio, plugins
from sedflow.clips import cut_events
from sedflow.collect import LeakError, collect, write_shard
from sedflow.corpora import read_pieces, write_pieces
from sedflow.corpora.esc10 import ESC10
from sedflow.corpora.maestro import Maestro
from sedflow.download import read_sums
from sedflow.events import Event, LabelError, read_clips, read_events, read_weak
from sedflow.files import sha256
from sedflow.manifests import PUBLIC

FEW = {"synthetic_strong": 4, "weak": 3, "unlabeled": 3, "validation": 3, "test": 3}


@pytest.fixture(scope="module")
def mirror(mirror_dir):
    """The mirror, with ESC-10 cut down to two recordings per class and fold."""
    rows = ESC10._recordings
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ESC10, "_recordings", lambda self: _two_of_each(rows(self)))
        yield mirror_dir


@pytest.fixture(scope="module")
def settings_of(tmp_path_factory, mirror):
    """Small settings of every corpus; a new corpus adds a line here."""
    own = own_recordings(tmp_path_factory.mktemp("own"))
    city = [recording for recording in Maestro().recordings if recording.startswith("city_center")]
    absent = {"soft": 28, "validation": 5, "test": 16}
    real = lambda name, *args: getattr(corpus_folders, name)(tmp_path_factory.mktemp(name), *args)  # noqa: E731
    return {
        "demo": {"name": "demo", **FEW, "shards": 2},
        "esc10": {"name": "esc10", "clips": FEW, "shards": 2},
        "folder": {"name": "folder", "path": str(own), "seconds": 4.0, "shards": 2},
        "desed": {"name": "desed", "path": str(real("desed")), "seconds": 2.0, "weak_share": 1.0, "shards": 2},
        "maestro": {"name": "maestro", "path": str(real("maestro", city)), "allow_missing": absent, "shards": 2},
        "audioset_strong": {
            "name": "audioset_strong",
            "path": str(real("audioset")),
            "validation": 2,
            "seconds": 2.0,
            "shards": 2,
        },
        "dcase2016_task2": {"name": "dcase2016_task2", "path": str(real("dcase2016")), "seconds": 2.0, "shards": 2},
    }


@pytest.fixture(scope="module")
def made(settings_of, mirror, tmp_path_factory):
    """Name → (corpus, manifests), made once."""
    return functools.cache(lambda name: make(settings_of[name], tmp_path_factory.mktemp(name), mirror))


def _two_of_each(rows):
    kept, ids = [], {}
    for row in rows:
        of_class = ids.setdefault((row["path"].split("/")[0], row["fold"]), set())
        if len(of_class) < 2 or row["freesound_id"] in of_class:
            of_class.add(row["freesound_id"])
            kept.append(row)
    return kept


def own_recordings(folder):
    """Ten strongly labelled files of odd rates and lengths, three weak ones, two without labels."""
    rng = np.random.default_rng(0)
    strong = ["filename\tonset\toffset\tevent_label"]
    for k in range(10):
        rate, seconds = (8000, 22050, 44100)[k % 3], 2 + k
        write(folder / "audio" / f"day {k % 2}" / f"clip {k}.wav", rng, seconds, rate, 1 + k % 2)
        strong += [f"clip {k}.wav\t0.5\t{1 + k}\tdog", f"clip {k}.wav\t1.0\t1.5\tcat"]
    (folder / "strong.tsv").write_text("\n".join(strong) + "\n")
    for k in range(3):
        write(folder / "audio" / f"weak {k}.flac", rng, 3, 16000, 1)
        write(folder / "unlabeled" / f"wild {k}.ogg", rng, 9, 16000, 1)
    (folder / "weak.tsv").write_text("filename\tevent_labels\nweak 0.flac\tdog,cat\nweak 1.flac\t\nweak 2.flac\tcat\n")
    return folder


def write(path, rng, seconds, rate, channels):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * rng.standard_normal((round(seconds * rate), channels)), rate)


def make(settings, root, mirror):
    """Everything the commands do; returns (corpus, manifests)."""
    corpus = plugins.build("corpora", settings)
    name = settings["name"]
    raw, sounds, manifests = (root / "data" / part / name for part in ("raw", "audio", "manifests"))
    corpus.download(raw, mirror)
    if corpus.uses_soundbank:
        write_pieces(manifests / "soundbank.tsv", corpus.soundbank(raw, sounds))
        raw = manifests / "soundbank.tsv"
    for shard in range(corpus.shards):
        write_shard(manifests / "shards", shard, corpus.prepare(raw, sounds, shard))
    collect(manifests, corpus.shards, corpus.sources, corpus.classes)
    return corpus, manifests


@pytest.mark.parametrize("name", plugins.names("corpora"))
def test_every_corpus(name, settings_of, made):
    assert name in settings_of, f"give corpus {name!r} small settings in settings_of"
    corpus, manifests = made(name)
    clips = read_clips(manifests / "clips.tsv")
    assert set(corpus.sources.values()) <= {"strong", "soft", "weak", "none"}
    assert {clip.source for clip in clips} == set(corpus.sources)
    assert {"validation", "test"} <= set(corpus.sources)

    files = {clip.id: audio.info(clip.path) for clip in clips}
    assert all(found.seconds == pytest.approx(clip.seconds) for clip, found in zip(clips, files.values(), strict=True))
    assert all(sha256(clip.path) == clip.sha256 for clip in clips)
    assert len({(found.sample_rate, found.channels) for found in files.values()}) == 1

    durations = {clip.id: clip.seconds for clip in clips}
    for source, kind in corpus.sources.items():
        named = {clip.id for clip in clips if clip.source == source}
        if kind in ("strong", "soft"):
            table = manifests / f"{source}.tsv"
            assert set(read_events(table, corpus.classes, durations, needs_confidence=kind == "soft")) == named
        elif kind == "weak":
            assert set(read_weak(manifests / f"{source}.tsv", corpus.classes)) == named

    heard = {}
    for clip in clips:
        assert clip.recordings
        split = clip.source if clip.source in ("validation", "test") else "train"
        for recording in clip.recordings:
            assert heard.setdefault(recording, split) == split


@pytest.mark.parametrize("name", plugins.names("corpora"))
def test_the_number_of_shards_changes_nothing(name, settings_of, made, tmp_path, mirror):
    _, first = made(name)
    _, second = make(settings_of[name] | {"shards": 3}, tmp_path, mirror)
    assert [(c.id, c.sha256, c.recordings) for c in read_clips(first / "clips.tsv")] == [
        (c.id, c.sha256, c.recordings) for c in read_clips(second / "clips.tsv")
    ]
    for table in sorted(path.name for path in first.glob("*.tsv")):
        if table not in ("clips.tsv", "soundbank.tsv"):  # which hold paths
            assert (first / table).read_bytes() == (second / table).read_bytes()


# esc10


def test_the_labels_of_weak_and_unlabeled_clips_stand_in_no_table(made):
    _, manifests = made("esc10")
    for path in manifests.rglob("*.tsv"):
        if "onset" in path.read_text().splitlines()[0]:
            assert "weak_" not in path.read_text() and "unlabeled_" not in path.read_text()
    assert (manifests / "unlabeled.tsv").read_text().splitlines()[0] == "filename"


def test_folds_keep_to_their_sources(settings_of, tmp_path, mirror):
    folds = {"synthetic_strong": [4], "weak": [2], "unlabeled": [2, 3], "heldout": [1]}
    _, manifests = make(settings_of["esc10"] | {"folds": folds}, tmp_path, mirror)
    of_recording = {piece.recording: piece.fold for piece in read_pieces(manifests / "soundbank.tsv")}
    for clip in read_clips(manifests / "clips.tsv"):
        allowed = folds.get(clip.source, folds["heldout"])
        assert {int(of_recording[recording]) for recording in clip.recordings} <= set(allowed)


def test_each_half_of_the_heldout_fold_has_every_class_and_background():
    corpus = ESC10()
    rows = corpus._recordings()
    split = corpus._splits(rows)
    for row in rows:
        assert (split[row["freesound_id"]] == "train") == (row["fold"] != "4")
    for half in ("validation", "test"):
        assert len({row["path"].split("/")[0] for row in rows if split[row["freesound_id"]] == half}) == 10


def test_recordings_of_freesound_are_called_so_that_other_corpora_know_them(made):
    _, manifests = made("esc10")
    pieces = read_pieces(manifests / "soundbank.tsv")
    assert all(piece.recording.startswith(PUBLIC) and piece.recording[10:].isdigit() for piece in pieces)


def test_a_swapped_split_is_caught_by_the_leak_check(settings_of, tmp_path, mirror, monkeypatch):
    honest = ESC10._pool
    monkeypatch.setattr(ESC10, "_pool", lambda self, pieces, source: honest(self, pieces, "weak"))
    with pytest.raises(LeakError, match="appear in more than one split"):
        make(settings_of["esc10"], tmp_path, mirror)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"folds": {"heldout": [3]}}, r"folds \[3\] are both held out and trained on"),
        (
            {"folds": {"heldout": [5]}},
            r"folds \[5\] are not in data/esc10.tsv, which lists the checksums of folds 1 to 4",
        ),
        ({"folds": {"held_out": [4]}}, "folds has no entry 'held_out'"),
        ({"clips": {"weaks": 3}}, "clips has no entry 'weaks'"),
    ],
)
def test_esc10_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ESC10(**settings)


def test_attribution_travels_with_the_recordings(settings_of, tmp_path, mirror):
    corpus = plugins.build("corpora", settings_of["esc10"])
    corpus.download(tmp_path / "raw", mirror)
    header, first = (tmp_path / "raw" / "files.tsv").read_text().splitlines()[:2]
    assert {"author", "source_url", "licence"} <= set(header.split("\t"))
    assert "freesound.org" in first


def test_building_a_corpus_imports_nothing_heavy(settings_of):
    code = (
        "import json, sys; from sedflow import plugins\n"
        "for settings in json.loads(sys.argv[1]): plugins.build('corpora', settings)\n"
        "sys.exit(str([m for m in ('librosa', 'scaper', 'torch', 'scipy', 'soundfile', 'pandas') if m in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps([*settings_of.values()])], capture_output=True, text=True
    )
    assert done.stderr.strip() == "[]"


# folder: one's own recordings


@pytest.fixture
def own(tmp_path):
    return own_recordings(tmp_path / "own")


def build(own, **settings):
    return plugins.build("corpora", {"name": "folder", "path": str(own), "seconds": 4.0, **settings})


def check(own, tmp_path, **settings):
    corpus = build(own, **settings)
    corpus.download(tmp_path / "raw", None)
    return corpus


def add(own, table, *rows):
    path = own / table
    path.write_text(path.read_text() + "".join(row + "\n" for row in rows))


def test_the_classes_are_those_of_the_labels(own):
    assert build(own).classes.labels == ("cat", "dog")


def test_a_class_list_rules_order_and_aliases(own):
    (own / "classes.txt").write_text("dog\thound\ncat\n")
    add(own, "weak.tsv", "weak 9.flac\thound")
    corpus = build(own)
    assert corpus.classes.labels == ("dog", "cat")
    assert corpus.labels["weak"]["weak 9"] == ("dog",)


def test_the_class_file_that_was_read_is_watched_whatever_it_is_called(own):
    (own / "names.txt").write_text("dog\ncat\n")
    assert own / "names.txt" in build(own, classes="names.txt").label_files
    (own / "classes.txt").write_text("dog\ncat\n")
    assert own / "classes.txt" in build(own).label_files
    for given in ("names.txt", ["dog", "cat"]):
        assert own / "classes.txt" not in build(own, classes=given).label_files


def test_the_split_is_by_recording_and_steady(own):
    rows = (own / "strong.tsv").read_text().splitlines()
    names = [f"{row}\tfield {int(row.split()[1][0]) // 3}" for row in rows[1:]]
    (own / "strong.tsv").write_text("\n".join([rows[0] + "\trecording", *names]) + "\n")
    corpus = build(own)
    groups = [
        {int(clip.split()[1]) // 3 for clip in corpus.labels[source]}
        for source in ("real_strong", "validation", "test")
    ]
    assert sum(map(len, groups)) == 4 and set.union(*groups) == {0, 1, 2, 3}
    assert build(own).labels == corpus.labels
    assert any(build(own, seed=seed).labels != corpus.labels for seed in range(2, 6))


def test_one_more_recording_moves_at_most_one_out_of_a_split(own):
    rows = [f"more {k}.wav\t0\t1\tdog" for k in range(40)]
    add(own, "strong.tsv", *rows[:20])
    before = build(own).labels
    for row in rows[20:]:
        add(own, "strong.tsv", row)
        after = build(own).labels
        for source in ("validation", "test"):
            assert len(before[source].keys() - after[source].keys()) <= 1
        before = after
    assert len(before["validation"]) == round(0.15 * 50)


def test_what_is_split_off_shares_no_recording_with_other_tables(own):
    rows = (own / "strong.tsv").read_text().splitlines()
    names = [f"{row}\tfield {int(row.split()[1][0]) // 3}" for row in rows[1:]]
    (own / "strong.tsv").write_text("\n".join([rows[0] + "\trecording", *names]) + "\n")
    weak = ["filename\tevent_labels\trecording", "weak 0.flac\tdog\tfield 1", "weak 1.flac\tcat\tfield 2"]
    (own / "weak.tsv").write_text("\n".join(weak) + "\n")
    for seed in range(6):
        corpus = build(own, seed=seed)
        held = {int(clip.split()[1]) // 3 for source in ("validation", "test") for clip in corpus.labels[source]}
        assert not held & {1, 2}


def test_a_recording_that_tables_share_is_a_leak(own, tmp_path, mirror):
    rows = (own / "strong.tsv").read_text().splitlines()
    (own / "strong.tsv").write_text("\n".join([rows[0] + "\trecording", *(row + "\tnoon" for row in rows[3:])]) + "\n")
    (own / "test.tsv").write_text(f"{rows[0]}\trecording\n{rows[1]}\tnoon\n")
    (own / "validation.tsv").write_text(f"{rows[0]}\nweak 2.flac\t1\t2\tcat\n")
    (own / "weak.tsv").unlink()
    with pytest.raises(LeakError, match="recording noon: test"):
        make({"name": "folder", "path": str(own)}, tmp_path, mirror)


@pytest.mark.parametrize("name", ["dog .wav", " dog.wav", "a\tb.wav"])
def test_names_that_tables_cannot_hold_are_refused(own, tmp_path, name):
    write(own / "audio" / name, np.random.default_rng(1), 2, 16000, 1)
    with pytest.raises(LabelError, match="tab, line break or blank at an end"):
        check(own, tmp_path)


def test_given_tables_are_the_splits(own):
    for source, k in (("validation", 20), ("test", 21)):
        write(own / "audio" / f"clip {k}.wav", np.random.default_rng(1), 12, 16000, 1)
        (own / f"{source}.tsv").write_text(f"filename\tonset\toffset\tevent_label\nclip {k}.wav\t11\t11.9\tdog\n")
    corpus = build(own)
    assert set(corpus.labels["validation"]) == {"clip 20"}
    assert set(corpus.labels["test"]) == {"clip 21"}
    assert len(corpus.labels["real_strong"]) == 10


def test_recordings_are_cut_and_those_of_test_stay_whole(made):
    corpus, manifests = made("folder")
    clips = read_clips(manifests / "clips.tsv")
    whole = {k: 2 + k for k in range(10)}
    for clip in clips:
        if clip.source == "test":
            assert clip.seconds == pytest.approx(whole[int(clip.id.split()[1])], abs=1e-3)
        else:
            assert clip.seconds <= 4.0
    parts = sorted(clip.seconds for clip in clips if clip.source == "unlabeled" and clip.id.startswith("wild 0"))
    assert parts == [1.0, 4.0, 4.0]
    events = read_events(manifests / "real_strong.tsv")
    longest = max(int(clip.split()[1].split("-")[0]) for clip in corpus.labels["real_strong"])
    assert events[f"clip {longest}-001"] == [Event(0.0, 4.0, "dog")] or longest < 7


def test_labels_are_cut_along():
    events = [Event(0.5, 5.0, "dog"), Event(3.95, 4.5, "cat"), Event(4.0, 4.05, "click"), Event(7.0, 9.0, "dog")]
    assert cut_events(events, 0, 4) == [Event(0.5, 4.0, "dog")]
    assert cut_events(events, 4, 8) == [
        Event(0.0, 1.0, "dog"),
        Event(0.0, 0.5, "cat"),
        Event(0.0, pytest.approx(0.05), "click"),
        Event(3.0, 4.0, "dog"),
    ]


def test_a_recording_over_full_scale_is_lowered_as_a_whole(own, tmp_path):
    rng = np.random.default_rng(2)
    (own / "audio" / "weak 0.flac").unlink()
    loud = rng.standard_normal(16000 * 3).astype(np.float32)
    soundfile.write(own / "audio" / "weak 0.wav", loud, 16000, subtype="FLOAT")
    corpus = check(own, tmp_path, shards=1)
    corpus.prepare(tmp_path / "raw", tmp_path / "audio", 0)
    found = audio.read(tmp_path / "audio" / "weak" / "weak 0.flac")
    assert np.abs(found - loud / np.abs(loud).max()).max() < 1e-4


STRONG = "filename\tonset\toffset\tevent_label\n"


@pytest.mark.parametrize(
    ("table", "content", "message"),
    [
        ("strong.tsv", "", r"strong\.tsv: the file is empty; expected a header"),
        ("strong.tsv", STRONG, r"strong\.tsv: no rows below the header; fill or delete the file"),
        ("strong.tsv", STRONG.replace("\t", ","), r"strong\.tsv:1: .*comma-separated, save it with tabs"),
        ("strong.tsv", STRONG + "clip 0.wav\t1.5\t0.5\tdog\n", r"strong\.tsv:2: offset 0.5 s is not after onset 1.5 s"),
        ("strong.tsv", STRONG + "clip 0.wav\t-1\t0.5\tdog\n", r"strong\.tsv:2: onset -1.0 s is negative"),
        ("strong.tsv", STRONG + "clip 0.wav\tnan\t0.5\tdog\n", r"strong\.tsv:2: onset 'nan' .* must be finite"),
        ("strong.tsv", STRONG + "clip 0.wav\t0\tinf\tdog\n", r"strong\.tsv:2: .*offset 'inf' must be finite"),
        ("strong.tsv", STRONG + "clip 0.wav\t0\tsoon\tdog\n", r"strong\.tsv:2: .*must be numbers in seconds"),
        ("strong.tsv", STRONG + "clip 0.wav\t0\t1\t\n", r"strong\.tsv:2: the event at 0.0 s has no label"),
        ("weak.tsv", "filename\tevent_labels\nclip 0.wav\tdog\n", "'clip 0' appears in real_strong and in weak"),
        ("classes.txt", "dog\n", r"strong\.tsv:\d+: label 'cat' is not in the class list \['dog'\]"),
    ],
)
def test_bad_tables_are_named_with_row_and_value(own, table, content, message):
    if table == "weak.tsv":  # the file must end in training, whatever the split
        for source, k in (("validation", 1), ("test", 2)):
            (own / f"{source}.tsv").write_text(STRONG + f"other {k}.wav\t0\t1\tdog\n")
    (own / table).write_text(content)
    with pytest.raises(LabelError, match=message):
        build(own)


def test_crlf_and_byte_order_mark_are_read(own):
    plain = build(own).labels
    for table in ("strong.tsv", "weak.tsv"):
        (own / table).write_bytes(b"\xef\xbb\xbf" + (own / table).read_bytes().replace(b"\n", b"\r\n"))
    assert build(own).labels == plain


def test_a_quoted_cell_of_weak_labels_makes_no_new_classes(own):
    weak = (own / "weak.tsv").read_text().splitlines()[1].split("\t")[0]
    (own / "weak.tsv").write_bytes(f'filename\tevent_labels\r\n{weak}\t"cat,dog"\r\n'.encode())
    corpus = build(own)
    assert corpus.classes.labels == ("cat", "dog")
    assert [*corpus.labels["weak"].values()] == [("cat", "dog")]


def test_an_event_beyond_its_recording_is_named(own, tmp_path):
    add(own, "strong.tsv", "clip 3.wav\t4.0\t5.2\tdog")
    with pytest.raises(LabelError, match=r"strong\.tsv:22: offset 5.2 s is beyond the end of clip 3.wav \(5.000 s\)"):
        check(own, tmp_path)


def test_missing_recordings_are_listed_and_allowed_by_number_only(own, tmp_path):
    (own / "audio" / "weak 0.flac").unlink()
    (own / "audio" / "day 1" / "clip 3.wav").unlink()
    with pytest.raises(
        LabelError,
        match=r"(?s)2 recordings are listed in a table but missing from the folder.*clip 3 .*weak 0 \(weak\.tsv\)",
    ):
        check(own, tmp_path, allow_missing=1)
    assert not (tmp_path / "raw" / "files.tsv").exists()
    corpus = check(own, tmp_path, allow_missing=2, shards=1)
    prepared = corpus.prepare(tmp_path / "raw", tmp_path / "audio", 0)
    assert not {clip.id for clip in prepared.clips} & {"clip 3", "weak 0"}


def test_a_missing_recording_is_told_with_its_table_and_the_file_that_may_be_meant(own, tmp_path):
    (own / "audio" / "day 1" / "clip 3.wav").rename(own / "audio" / "Clip 03.wav")
    with pytest.raises(LabelError, match=r"clip 3 \(strong\.tsv\), but there is Clip 03\n"):
        check(own, tmp_path)


def test_recordings_that_no_table_names_are_told(own, tmp_path, caplog):
    check(own, tmp_path)
    assert "no table" not in caplog.text
    write(own / "audio" / "stray.wav", np.random.default_rng(1), 2, 16000, 1)
    check(own, tmp_path)
    assert "1 recordings are left out because no table lists them: ['stray']" in caplog.text


def test_a_file_is_found_however_its_letters_are_composed(own, tmp_path):
    write(own / "audio" / unicodedata.normalize("NFD", "Vögel.wav"), np.random.default_rng(1), 2, 16000, 1)
    add(own, "weak.tsv", unicodedata.normalize("NFC", "Vögel.wav") + "\tdog")
    assert "Vögel" in check(own, tmp_path).labels["weak"]


def test_hidden_files_that_macos_lays_beside_recordings_are_none(own, tmp_path):
    before = build(own).labels
    for folder, name in (("unlabeled", "._wild 0.ogg"), ("audio", "._clip 1.wav")):
        (own / folder / name).write_bytes(b"\0\5\x16\7")
    assert check(own, tmp_path).labels == before
    assert not any(path.name.startswith(".") for path in audio.recordings(own))


@pytest.mark.parametrize("label", ["Dog", "d_o g"])
def test_two_spellings_of_a_label_are_no_two_classes_unless_a_class_list_says_so(own, label):
    add(own, "weak.tsv", f"weak 9.flac\t{label}")
    with pytest.raises(LabelError, match=f"{label}.*use one spelling or.*classes.txt"):
        build(own)
    (own / "classes.txt").write_text(f"dog\n{label}\ncat\n")
    assert build(own).classes.labels == ("dog", label, "cat")


def test_two_files_of_one_name_are_refused(own, tmp_path):
    write(own / "audio" / "day 0" / "clip 1.wav", np.random.default_rng(0), 3, 8000, 1)
    with pytest.raises(
        LabelError, match=r"two files with the same name.*day 0/clip 1.wav and .*day 1/clip 1.wav; rename"
    ):
        check(own, tmp_path)


def held_out(own, table, source):
    """Take the recordings of a source of the own split into a table; returns their names."""
    header, *rows = (own / "strong.tsv").read_text().splitlines()
    names = [f"{clip}.wav" for clip in sorted(build(own).labels[source])]
    (own / table).write_text("\n".join([header, *(row for row in rows if row.split("\t")[0] in names)]) + "\n")
    (own / "strong.tsv").write_text(
        "\n".join([header, *(row for row in rows if row.split("\t")[0] not in names)]) + "\n"
    )
    return names


def copied(own, name, new):
    """Copy a recording to another name."""
    (source,) = own.rglob(name)
    shutil.copy(source, own / "audio" / new)


def test_a_copy_of_a_test_recording_under_another_name_is_not_trained_on(own, tmp_path):
    name = held_out(own, "test.tsv", "test")[0]
    copied(own, name, "copy.wav")
    (own / "unlabeled.tsv").write_text("filename\nwild 0.ogg\ncopy.wav\n")
    message = rf"(?s)1 pairs .*{name} \(test, test\.tsv\) and .*copy\.wav \(unlabeled, unlabeled\.tsv\)\nDelete one"
    with pytest.raises(LabelError, match=message):
        check(own, tmp_path)
    assert not (tmp_path / "raw").exists()


def test_digital_silence_in_two_splits_is_no_copy(own, tmp_path):
    (path,) = own.rglob(held_out(own, "test.tsv", "test")[0])
    soundfile.write(path, np.zeros(round(soundfile.info(path).duration * 16000)), 16000)
    copied(own, path.name, "copy.wav")
    (own / "unlabeled.tsv").write_text("filename\nwild 0.ogg\ncopy.wav\n")
    check(own, tmp_path)
    assert {path.name, "copy.wav"} <= listed(tmp_path)


def test_a_copy_that_a_split_tears_apart_is_refused_until_both_are_one_recording(own, tmp_path):
    name = f"{sorted(build(own).labels['test'])[0]}.wav"
    copied(own, name, "copy.wav")
    header, *rows = (own / "strong.tsv").read_text().splitlines()
    rows += [row.replace(name, "copy.wav") for row in rows if row.startswith(name)]
    (own / "strong.tsv").write_text("\n".join([header, *rows]) + "\n")
    torn = [seed for seed in range(1, 9) if len(splits_of(build(own, seed=seed), name, "copy.wav")) > 1]
    with pytest.raises(LabelError, match=r"strong\.tsv\).*strong\.tsv\)\n.*column `recording`"):
        check(own, tmp_path, seed=torn[0])
    rows = [f"{row}\t{'both' if row.startswith((name, 'copy.wav')) else ''}" for row in rows]
    (own / "strong.tsv").write_text("\n".join([f"{header}\trecording", *rows]) + "\n")
    check(own, tmp_path, seed=torn[0])


def splits_of(corpus, *names):
    """Sources that recordings stand in."""
    return {source for source, labels in corpus.labels.items() if {name[:-4] for name in names} & set(labels)}


def test_two_copies_may_train(own, tmp_path):
    copied(own, "weak 1.flac", "copy.flac")
    add(own, "weak.tsv", "copy.flac\tdog")
    check(own, tmp_path)
    assert {"weak 1.flac", "copy.flac"} <= listed(tmp_path)


def listed(folder):
    """File names in the list of raw files."""
    return {Path(row["path"]).name for row in read_sums(folder / "raw" / "files.tsv")}


@pytest.mark.parametrize(("content", "message"), [(b"", "zero bytes"), (b"RIFF", "not readable as audio")])
def test_bad_audio_is_found_before_anything_is_made(own, tmp_path, content, message):
    (own / "audio" / "day 0" / "clip 2.wav").write_bytes(content)
    with pytest.raises(audio.AudioError, match=rf"clip 2\.wav: .*{message}"):
        check(own, tmp_path)
    assert not (tmp_path / "raw").exists()


def test_bad_audio_is_named_file_by_file(own, tmp_path):
    bad = audio.recordings(own / "audio")[:12]
    for path in bad:
        path.write_bytes(b"")
    with pytest.raises(audio.AudioError) as told:
        check(own, tmp_path)
    assert str(told.value).startswith("12 recordings cannot be used:\n")
    assert sum(str(path) in str(told.value) for path in bad) == 10 and str(told.value).endswith("\n  …")


def test_long_recordings_with_weak_labels_are_refused(own, tmp_path):
    write(own / "audio" / "long.wav", np.random.default_rng(0), 9, 16000, 1)
    add(own, "weak.tsv", "long.wav\tdog")
    with pytest.raises(
        LabelError, match=r"long\.wav: 9\.0 s with weak labels, which would not hold for each part of 4 s"
    ):
        check(own, tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strong": "labels.tsv"}, r"labels\.tsv: the table given as `strong` does not exist"),
        ({"validation_share": 0.0}, "cannot split validation off 10 recordings"),
        ({"test_share": 0.99}, "cannot split test off"),
        ({"classes": ["dog", "cat", "dog"]}, "duplicates"),
        ({"seconds": 0.0}, "seconds of the folder corpus is 0.0, it must be above 0"),
        ({"shards": 0}, "shards of the folder corpus is 0"),
    ],
)
def test_folder_settings_that_make_no_sense_are_refused(own, settings, message):
    with pytest.raises(LabelError, match=message):
        build(own, **settings)


def test_a_folder_without_labels_or_absent_is_refused(tmp_path):
    with pytest.raises(LabelError, match="no such folder"):
        build(tmp_path / "nowhere")
    with pytest.raises(LabelError, match=r"neither strong\.tsv nor weak\.tsv"):
        build(tmp_path)
