"""Shards are merged into one table per source, and leaks are found."""

import dataclasses
import json

import numpy as np
import pytest

from sedflow import events
from sedflow.audio import write
from sedflow.collect import LeakError, collect, write_shard
from sedflow.corpora import Piece, Prepared, write_pieces
from sedflow.events import ClassSet, Clip, Event, LabelError
from sedflow.source_checks import warn_of_sources

CLASSES = ClassSet(("dog", "cat"))
SOURCES = {
    "synthetic_strong": "strong",
    "soft": "soft",
    "weak": "weak",
    "unlabeled": "none",
    "validation": "strong",
    "test": "strong",
}


@pytest.fixture
def corpus(tmp_path):
    """Two shards with one clip of every source each; returns (folder, list of clips per shard)."""
    shards = []
    for shard in range(2):
        prepared = Prepared()
        for source, kind in SOURCES.items():
            path = tmp_path / f"{source}_{shard}.flac"
            path.write_bytes(b"audio")
            clip = Clip(path.stem, str(path), 10.0, f"sum of {path.stem}", source, (f"dog/{path.stem}",))
            prepared.clips.append(clip)
            if kind == "strong":
                prepared.strong[clip.id] = [Event(1.0, 2.5, "dog")] if shard else []
            elif kind == "soft":
                prepared.strong[clip.id] = [Event(1.0, 2.0, "dog", 0.25 + 0.75 * shard)]
            elif kind == "weak":
                prepared.weak[clip.id] = ("cat",)
        shards.append(prepared)
    return tmp_path / "manifests", shards


def run(corpus):
    manifests, shards = corpus
    for shard, prepared in enumerate(shards):
        write_shard(manifests / "shards", shard, prepared)
    return collect(manifests, len(shards), SOURCES, CLASSES)


def change(corpus, source, **fields):
    prepared = corpus[1][0]
    place = next(k for k, clip in enumerate(prepared.clips) if clip.source == source)
    prepared.clips[place] = dataclasses.replace(prepared.clips[place], **fields)


def test_each_source_gets_the_table_of_its_kind(corpus):
    counts = run(corpus)
    manifests = corpus[0]
    assert events.read_events(manifests / "validation.tsv") == {
        "validation_0": [],
        "validation_1": [Event(1.0, 2.5, "dog")],
    }
    assert events.read_weak(manifests / "weak.tsv") == {"weak_0": ("cat",), "weak_1": ("cat",)}
    assert (manifests / "unlabeled.tsv").read_text() == "filename\nunlabeled_0.flac\nunlabeled_1.flac\n"
    assert events.read_durations(manifests / "test_durations.tsv") == {"test_0": 10.0, "test_1": 10.0}
    assert not (manifests / "weak_durations.tsv").exists()
    assert len(events.read_clips(manifests / "clips.tsv")) == 12
    assert counts == json.loads((manifests / "leaks.json").read_text())
    assert counts["clips"] == {"test": 2, "train": 8, "validation": 2}


def test_tables_of_sources_that_are_no_more_go(corpus):
    run(corpus)
    manifests, shards = corpus
    (manifests / "soundbank.tsv").write_text("path\trole\tlabel\tseconds\tsha256\trecording\tfold\tsplit\n")
    fewer = {source: kind for source, kind in SOURCES.items() if source not in ("test", "weak")}
    for shard, prepared in enumerate(shards):
        prepared.clips = [clip for clip in prepared.clips if clip.source in fewer]
        for clip in (f"test_{shard}", f"weak_{shard}"):
            prepared.strong.pop(clip, None), prepared.weak.pop(clip, None)
        write_shard(manifests / "shards", shard, prepared)
    collect(manifests, len(shards), fewer, CLASSES)
    assert {path.stem for path in manifests.glob("*.tsv")} == {*fewer, "validation_durations", "clips", "soundbank"}


def test_events_of_one_class_that_overlap_are_judged_as_one(corpus):
    twice = [Event(1.0, 3.0, "dog"), Event(2.0, 4.0, "dog"), Event(2.0, 4.0, "cat")]
    for clip in ("test_1", "synthetic_strong_1"):
        corpus[1][1].strong[clip] = twice
    run(corpus)
    assert events.read_events(corpus[0] / "test.tsv")["test_1"] == [Event(1.0, 4.0, "dog"), Event(2.0, 4.0, "cat")]
    assert events.read_events(corpus[0] / "synthetic_strong.tsv")["synthetic_strong_1"] == sorted(twice)


def test_soft_labels_keep_their_confidences_and_others_have_none(corpus):
    run(corpus)
    soft = events.read_events(corpus[0] / "soft.tsv", CLASSES, needs_confidence=True)
    assert soft == {"soft_0": [Event(1.0, 2.0, "dog", 0.25)], "soft_1": [Event(1.0, 2.0, "dog", 1.0)]}
    assert "confidence" not in (corpus[0] / "synthetic_strong.tsv").read_text()


def test_a_weak_label_with_a_comma_would_be_two(tmp_path):
    with pytest.raises(LabelError, match="'Beep, bleep' contains a comma, which separates labels"):
        events.write_weak(tmp_path / "weak.tsv", {"a": ["Beep, bleep"]})


@pytest.mark.parametrize("source", ["validation", "test"])
def test_audio_shared_with_training_fails_the_run(corpus, source):
    change(corpus, source, sha256="sum of weak_1")
    with pytest.raises(LeakError, match=rf"1 sounds appear in more than one split.*\n.*{source} \({source}_0\)"):
        run(corpus)
    assert not (corpus[0] / "clips.tsv").exists()


@pytest.mark.parametrize("other", ["synthetic_strong_1", "weak_1", "unlabeled_1", "test_1"])
def test_a_recording_shared_with_validation_fails_the_run(corpus, other):
    change(corpus, "validation", recordings=("dog/own", f"dog/{other}"))
    with pytest.raises(LeakError, match=f"recording dog/{other}"):
        run(corpus)


def test_a_piece_that_two_splits_hold_fails_the_run(corpus):
    piece = Piece("a.flac", "foreground", "dog", 1.0, "same", "dog/1", "1", "train")
    other = dataclasses.replace(piece, path="b.flac", recording="dog/2", split="test")
    write_pieces(corpus[0] / "soundbank.tsv", [piece, other])
    with pytest.raises(LeakError, match=r"audio same: test \(b.flac\), train \(a.flac\)"):
        run(corpus)


def test_digital_silence_in_two_splits_is_no_leak(corpus, tmp_path):
    write(tmp_path / "silence.flac", np.zeros(1600, np.float32), 16000)
    for source in ("weak", "validation", "test"):
        change(corpus, source, sha256="silence", path=str(tmp_path / "silence.flac"))
    assert run(corpus)["shared"] == 0
    write(tmp_path / "silence.flac", np.full(1600, 1e-3, np.float32), 16000)
    with pytest.raises(LeakError, match=r"audio silence: test \(test_0\), train \(weak_0\), validation"):
        run(corpus)


def test_equal_clips_within_training_are_counted(corpus):
    change(corpus, "weak", sha256="sum of weak_1")
    assert run(corpus)["equal_clips"] == 1


def test_two_files_with_one_name_are_refused(corpus):
    change(corpus, "weak", id="weak_1")
    with pytest.raises(LabelError, match=r"1 clip names refer to two files each, e.g. 'weak_1'"):
        run(corpus)


def test_clips_that_are_not_on_disk_are_listed(corpus):
    change(corpus, "test", path="nowhere.flac")
    with pytest.raises(LabelError, match=r"1 clips of the manifests are not on disk, e.g. \['nowhere.flac'\]"):
        run(corpus)


@pytest.mark.parametrize(("source", "kind"), [("test", "strong"), ("weak", "weak")])
def test_clips_without_labels_are_listed(corpus, source, kind):
    del getattr(corpus[1][0], kind)[f"{source}_0"]
    with pytest.raises(LabelError, match=rf"{source}: 1 clips have no {kind} labels, e.g. \['{source}_0'\]"):
        run(corpus)


def test_a_label_outside_the_class_list_is_refused(corpus):
    corpus[1][0].strong["test_0"] = [Event(0, 1, "bird")]
    with pytest.raises(LabelError, match="'bird' is not in the class list"):
        run(corpus)


def test_an_event_beyond_its_clip_is_refused(corpus):
    corpus[1][0].strong["test_0"] = [Event(9, 11, "dog")]
    with pytest.raises(LabelError, match="is beyond the end of test_0"):
        run(corpus)


def test_a_missing_shard_is_named(corpus):
    write_shard(corpus[0] / "shards", 0, corpus[1][0])
    with pytest.raises(LabelError, match=r"1\.clips\.tsv: this shard is missing; run `prepare` for shard 1 of 2"):
        collect(corpus[0], 2, SOURCES, CLASSES)


def test_a_source_without_clips_is_refused(corpus):
    for prepared in corpus[1]:
        prepared.clips = [clip for clip in prepared.clips if clip.source != "weak"]
    with pytest.raises(LabelError, match=r"weak: no clips at all; .*`weak: false`"):
        run(corpus)


def test_collecting_twice_gives_the_same_bytes(corpus):
    run(corpus)
    first = {path.name: path.read_bytes() for path in corpus[0].iterdir() if path.is_file()}
    run(corpus)
    assert first == {path.name: path.read_bytes() for path in corpus[0].iterdir() if path.is_file()}


def doubts_about(tmp_path, source, kind, labels, loudness=0.1):
    """Warnings for clips with these labels; a strong event is (label, onset, offset)."""
    clips, strong, weak = [], {}, {}
    for number, of_clip in enumerate(labels):
        path = tmp_path / f"{number}.flac"
        write(path, loudness * np.random.default_rng(number).uniform(-1, 1, 8000).astype(np.float32), 16000)
        clips.append(Clip(path.stem, str(path), 0.5, f"sum {number}", source))
        if kind == "weak":
            weak[path.stem] = of_clip
        else:
            strong[path.stem] = [Event(onset, offset, label) for label, onset, offset in of_clip]
    return warn_of_sources(clips, {source: kind}, strong, weak, CLASSES)


def test_silent_negatives_are_warned_of_with_their_number(tmp_path, caplog):
    labels = [("dog",), ("cat",), (), ()]
    assert doubts_about(tmp_path, "weak", "weak", labels) == []
    (doubt,) = doubts_about(tmp_path, "weak", "weak", labels, loudness=1e-4)
    assert "2 of its 2 clips without events are silent" in doubt and "2.flac, 3.flac" in doubt
    assert caplog.messages == [f"{doubt}"] and doubt.startswith("weak: ")


def test_rare_absent_and_ubiquitous_classes_are_warned_of(tmp_path):
    assert doubts_about(tmp_path, "weak", "weak", [("dog",)] * 10 + [("cat",)]) == [
        "weak: 'dog' is in 10 of its 11 clips; add clips without it"
    ]
    found = doubts_about(tmp_path, "real_strong", "strong", [[("dog", 0, 0.1)]] * 11 + [[("cat", 0, 0.2)]])
    assert len(found) == 1 and "11 of its 12 clips have 'dog', but 1 'cat'" in found[0]
    assert doubts_about(tmp_path, "real_strong", "strong", [[("dog", 0, 0.1)]]) == [
        "real_strong: none of its 1 clips has cat"
    ]
    assert doubts_about(tmp_path, "validation", "strong", [[("dog", 0, 0.1)]] * 11 + [[("cat", 0, 0.2)]]) == []
    assert doubts_about(tmp_path, "validation", "strong", [[("dog", 0, 0.1)]] * 6) == [
        "validation: none of its 6 clips has cat: metrics on it will not cover that"
    ]


def test_heldout_sets_of_too_few_recordings_for_an_interval_are_warned_of(tmp_path):
    both = [("dog", 0, 0.1), ("cat", 0, 0.1)]
    for source in ("validation", "test"):
        assert doubts_about(tmp_path, source, "strong", [both] * 5) == [
            f"{source}: 5 independent recordings are too few for confidence intervals; 6 or more are needed"
        ]
        assert doubts_about(tmp_path, source, "strong", [both] * 6) == []


def test_mixtures_in_which_nothing_overlaps_are_warned_of(tmp_path):
    apart, at_once = [("dog", 0.0, 0.2), ("cat", 0.2, 0.4)], [("dog", 0.0, 0.3), ("cat", 0.2, 0.4)]
    (doubt,) = doubts_about(tmp_path, "synthetic_strong", "strong", [apart, apart, []])
    assert "none of its 2 clips with several events" in doubt
    assert doubts_about(tmp_path, "synthetic_strong", "strong", [apart, at_once]) == []
    assert doubts_about(tmp_path, "real_strong", "strong", [apart]) == []


def test_sources_outside_the_recommended_mix_are_warned_of_by_their_seconds():
    seconds = {"real_strong": 12.0, "synthetic_strong": 34.0, "weak": 5.0, "unlabeled": 49.0, "test": 500.0}
    clips = [Clip(name, f"{name}.flac", amount, name, name) for name, amount in seconds.items()]
    kinds = dict.fromkeys(seconds, "strong") | {"weak": "weak", "unlabeled": "none"}
    events = {name: [Event(0.0, 1.0, label) for label in CLASSES.labels] for name in seconds}
    found = warn_of_sources(clips, kinds, events, {"weak": CLASSES.labels}, CLASSES)
    mix = [warning for warning in found if "of the training audio" in warning]
    assert [warning.split(":")[0] for warning in mix] == ["real_strong", "weak", "synthetic_strong"]
    assert mix[1] == "weak: 5.0% of the training audio, 20% to 40% are recommended"
    del kinds["unlabeled"]  # each source is optional
    found = warn_of_sources(clips, kinds, events, {"weak": CLASSES.labels}, CLASSES)
    assert not any("training audio" in warning for warning in found)
