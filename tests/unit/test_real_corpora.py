"""DESED, MAESTRO, AudioSet Strong and DCASE 2016 Task 2: on small folders laid out as theirs, and on DESED's tables."""

import collections
import functools
import hashlib
import http.server
import json
import re
import shutil
import tarfile
import threading
import time
from pathlib import Path

import corpus_folders
import pytest

from sedflow import desed_files, plugins, zenodo
from sedflow.audio import info
from sedflow.clips import windows
from sedflow.collect import LeakError
from sedflow.corpora import dcase2016_task2
from sedflow.corpora.audioset_strong import TABLES, AudioSetStrong
from sedflow.corpora.dcase2016_task2 import Dcase2016Task2
from sedflow.corpora.desed import DESED, share_of
from sedflow.corpora.maestro import Maestro, read_annotation
from sedflow.download import DownloadError
from sedflow.events import ClassSet, Event, LabelError, read_table, write_clips, write_events
from sedflow.holdings import read_holdings, sought_segment, told_segments, video
from sedflow.manifests import read_manifests
from sedflow.recordings import parse_window
from sedflow.synthesis import Recipe

UNWATCHED = ("files.tsv", "missing.tsv")  # of raw folders: what we say ourselves
FEW = {"soft": 28, "validation": 5, "test": 16}  # recordings that may be missing where only a city's are there
CITY = [recording for recording in Maestro().recordings if recording.startswith("city_center")]


def prepared(corpus, raw, audio):
    """All shards of a corpus in one."""
    made = [corpus.prepare(raw, audio, shard) for shard in range(corpus.shards)]
    for part in made[1:]:
        made[0].add(part)
    return made[0]


def by_source(made):
    names = collections.defaultdict(set)
    for clip in made.clips:
        names[clip.source].add(clip.id)
    return names


def missing(raw):
    return collections.Counter(row["set"] for _, row in read_table(raw / "missing.tsv", ("set", "clip")))


@pytest.mark.parametrize(
    ("corpus", "name", "settings"),
    [
        (DESED, "desed", {"weak_share": 1.0}),
        (Maestro, "maestro", {"allow_missing": FEW, "test_hop_seconds": 2.0}),
        (AudioSetStrong, "audioset", {"validation": 2}),
        (Dcase2016Task2, "dcase2016", {}),
    ],
)
def test_tables_of_a_user_are_watched_and_corrected_ones_are_taken(tmp_path, corpus, name, settings):
    make = functools.partial(getattr(corpus_folders, name), tmp_path / "own" / "inside")
    root = make(CITY) if name == "maestro" else make()
    if name == "desed":  # as the archive of the synthetic set unpacks
        (root / "metadata").rename(root / "dcase_synth")
    made = corpus(path=str(root), seconds=2.0, shards=1, **settings)
    tables = [path for suffix in ("tsv", "txt", "json") for path in root.rglob(f"*.{suffix}")]
    unused = {"audioset_strong_train.tsv", "audioset_strong_val.tsv", "public.tsv"}
    assert sorted(made.label_files) == sorted(path for path in tables if path.name not in unused)
    made.download(tmp_path / "raw")
    for table in made.label_files:
        table.write_text(table.read_text() + " \n")
    made.download(tmp_path / "raw")
    copies = [path.read_text() for path in (tmp_path / "raw").rglob("*.*") if path.name not in UNWATCHED]
    assert sorted(copies) == sorted(path.read_text() for path in made.label_files)


@pytest.mark.parametrize(
    ("corpus", "name", "settings"),
    [
        (DESED, "desed", {"weak_share": 1.0}),
        (Maestro, "maestro", {"allow_missing": FEW, "test_hop_seconds": 2.0}),
        (AudioSetStrong, "audioset", {}),
        (Dcase2016Task2, "dcase2016", {}),
    ],
)
def test_recordings_and_tables_behind_links_to_folders_are_found(tmp_path, corpus, name, settings):
    make = functools.partial(getattr(corpus_folders, name), tmp_path / "disk")
    root = make(CITY) if name == "maestro" else make()
    own = tmp_path / "own"
    own.mkdir()
    for part in root.iterdir():
        (own / part.name).symlink_to(part)
    made = corpus(path=str(own), seconds=2.0, **settings)
    made.download(tmp_path / "raw")
    assert read_holdings(tmp_path / "raw") and made.label_files


# DESED


def test_desed_counts_and_lists_what_is_missing_from_the_real_tables(mirror_dir, tmp_path):
    """The tables are DESED's own. 33 strong clips are tested on, 18 weak ones validate, 149 are strong too …"""
    corpus = DESED(synthetic="none", strong="atst_sed", validation=["strong"], weak_share=1.0)
    with pytest.raises(DownloadError) as told:
        corpus.download(tmp_path, mirror_dir)
    assert missing(tmp_path) == {
        "real_strong_atst": 3000 - 33,
        "real_validation": 373 - 2,
        "weak": 1578 - 149 - 18,
        "unlabeled": 14412 - 1191 - 134,
        "validation": 1168,
    }
    assert "the settings allow 0" in str(told.value) and "1168 of validation" in str(told.value)
    assert "unlabeled: 13087, validation: 1168, weak: 1411}`: a number is for training alone" in str(told.value)
    assert str(told.value).count("\n") < 30
    assert not (tmp_path / "files.tsv").exists()


def test_desed_public_leaves_out_other_parts_of_tested_videos(mirror_dir, tmp_path):
    (tmp_path / "own/audio/eval/public").mkdir(parents=True)
    settings = {"path": str(tmp_path / "own"), "synthetic": "none", "strong": "atst_sed", "validation": ["strong"]}
    with pytest.raises(DownloadError, match="692 of public"):
        DESED(**settings, test="public", weak_share=1.0).download(tmp_path, mirror_dir)
    assert missing(tmp_path)["real_strong_atst"] == 3000 - 2
    assert missing(tmp_path)["public"] == 692


def test_desed_trains_on_the_weak_clips_of_the_baselines(mirror_dir):
    table = mirror_dir / "desed_metadata" / "train" / "weak.tsv"
    clips = [row["filename"] for _, row in read_table(table, ("filename",))]
    train = share_of(clips, 0.9)
    rest = sorted(set(clips) - set(train))
    assert (len(train), len(rest)) == (1420, 158)
    assert [video(name.removesuffix(".wav")) for name in rest[:3]] == ["-2FVPRdbLdA", "-4oBn8qurR4", "-7v9JCLrISM"]


def test_desed_uses_each_clip_once_with_its_strongest_labels(tmp_path):
    root = corpus_folders.desed(tmp_path / "desed")
    corpus = DESED(path=str(root), seconds=2.0, weak_share=1.0, shards=3)
    corpus.download(tmp_path / "raw")
    made = prepared(corpus, tmp_path / "raw", tmp_path / "audio")
    names = by_source(made)
    assert names["real_strong"] == {"Yssssssssss0_0.000_10.000", "Yssssssssss1_0.000_10.000"}  # the third is tested on
    assert names["weak"] == {f"Ywwwwwwwwww{k}_0.000_10.000" for k in range(3)}  # the fourth is strong
    assert len(names["unlabeled"]) == len(names["test"]) == 3
    assert names["validation"] == {f"synthetic_validation_{k}" for k in range(3)}
    assert made.strong["Ytttttttttt2_0.000_10.000"] == []  # no event is known, not unknown
    assert made.strong["synthetic_0"][-1] == Event(0.5, 2.0, "Speech")  # labelled to 2.4 s, but the clip ends
    assert made.weak["Ywwwwwwwwww0_0.000_10.000"] == ("Dog", "Speech")
    assert {info(clip.path).sample_rate for clip in made.clips} == {16000}
    assert {clip.recordings for clip in made.clips if clip.source == "weak"} == {
        (f"youtube/{'w' * 10}{k}",) for k in range(3)
    }


def test_desed_trains_and_validates_on_the_external_list_without_what_is_tested(tmp_path):
    root = corpus_folders.desed_external(corpus_folders.desed(tmp_path / "desed"))
    settings = {"path": str(root), "seconds": 2.0, "weak_share": 1.0, "external": True}
    corpus = DESED(**settings, validation=["synthetic", "external"])
    corpus.download(tmp_path / "raw")
    made = prepared(corpus, tmp_path / "raw", tmp_path / "audio")
    names = by_source(made)
    clips = ("Yssssssssss0", "Yssssssssss1", "Yxxxxxxxxxx0", "Yxxxxxxxxxx1", "Ywwwwwwwwww0")  # one more is tested on
    assert names["real_strong"] == {f"{clip}_0.000_10.000" for clip in clips}
    assert names["weak"] == {f"Ywwwwwwwwww{k}_0.000_10.000" for k in (1, 2)}  # the list says when sounds the first
    assert {"Yvvvvvvvvvv0_0.000_10.000"} == {clip for clip in names["validation"] if clip.startswith("Y")}
    assert made.strong["Yxxxxxxxxxx0_0.000_10.000"] == [Event(0.5, 1.5, "Cat")]
    (root / "metadata/train/external_strong_train.tsv").unlink()
    with pytest.raises(DownloadError, match="release of cpjku_dcase24, or set `external: false`"):
        DESED(**settings).download(tmp_path / "again")
    DESED(**settings | {"external": False}).download(tmp_path / "without")
    assert not any(holding.set.startswith("external") for holding in read_holdings(tmp_path / "without"))


def test_desed_leaves_out_what_another_corpus_tests_on(tmp_path):
    root = corpus_folders.desed(tmp_path / "desed")
    rows = [(f"{letter * 10}1_30000.wav",) for letter in "swut"]  # the last is of its own test set, and stays
    corpus_folders.table(tmp_path / "tested.tsv", ("filename",), *rows)
    corpus = DESED(path=str(root), exclude=str(tmp_path / "tested.tsv"), weak_share=1.0, seconds=2.0)
    corpus.download(tmp_path / "raw")
    counts = collections.Counter(holding.set for holding in read_holdings(tmp_path / "raw"))
    assert [counts[name] for name in ("real_strong", "weak", "unlabeled", "validation")] == [1, 2, 2, 3]
    assert tmp_path / "tested.tsv" in corpus.label_files
    (tmp_path / "tested.tsv").unlink()
    with pytest.raises(DownloadError, match="no such table; correct `exclude` of desed or leave it out"):
        corpus.download(tmp_path / "raw")


@pytest.mark.parametrize(("source", "folder"), [("weak", "weak"), ("unlabeled", "unlabel_in_domain")])
def test_desed_does_without_weak_or_unlabeled_clips_and_their_tables(tmp_path, source, folder):
    root = corpus_folders.desed(tmp_path / "desed")
    shutil.rmtree(root / "audio/train" / folder)
    settings = {"path": str(root), "seconds": 2.0, "shards": 1}
    with pytest.raises(DownloadError, match=rf"(?s)3 of {source}.*do without a set .*`{source}: false`"):
        DESED(**settings, weak_share=1.0).download(tmp_path / "raw")
    (root / f"metadata/train/{folder}.tsv").unlink()
    corpus = DESED(**settings, **{source: False})
    corpus.download(tmp_path / "raw")
    names = by_source(prepared(corpus, tmp_path / "raw", tmp_path / "audio"))
    others = {"synthetic_strong", "real_strong", "weak", "unlabeled", "validation", "test"} - {source}
    assert set(corpus.sources) == set(names) == others


def test_desed_reads_resampled_copies_first(tmp_path):
    root = corpus_folders.desed(tmp_path / "desed")
    copy = corpus_folders.noise(root / "audio/train/weak_16k" / "Ywwwwwwwwww1_0.000_10.000.wav", 2.0)
    corpus = DESED(path=str(root), seconds=2.0, weak_share=1.0)
    corpus.download(tmp_path / "raw")
    weak = {holding.clip: holding.path for holding in read_holdings(tmp_path / "raw") if holding.set == "weak"}
    assert weak["Ywwwwwwwwww1_0.000_10.000"] == copy
    assert weak["Ywwwwwwwwww0_0.000_10.000"].parent.name == "weak"


def test_desed_goes_on_without_a_few_clips_where_the_settings_allow_it(tmp_path):
    root = corpus_folders.desed(tmp_path / "desed")
    (root / "audio/train/unlabel_in_domain" / "Yuuuuuuuuuu1_0.000_10.000.wav").unlink()
    with pytest.raises(DownloadError, match=r"(?s)1 of \d+ recordings are missing \(1 of unlabeled\).*Yuuuuuuuuuu1"):
        DESED(path=str(root), seconds=2.0).download(tmp_path / "raw")
    corpus = DESED(path=str(root), seconds=2.0, allow_missing=1)
    corpus.download(tmp_path / "raw")
    assert missing(tmp_path / "raw") == {"unlabeled": 1}
    assert len(by_source(prepared(corpus, tmp_path / "raw", tmp_path / "audio"))["unlabeled"]) == 2


def test_a_number_of_missing_clips_does_not_thin_what_is_judged(tmp_path):
    root = corpus_folders.desed(tmp_path / "desed")
    (root / "audio/train/weak" / "Ywwwwwwwwww1_0.000_10.000.wav").unlink()
    (root / "audio/validation/validation" / "Ytttttttttt1_0.000_10.000.wav").unlink()
    settings = {"path": str(root), "weak_share": 1.0, "seconds": 2.0}
    with pytest.raises(DownloadError, match=r"or allow that by set, `allow_missing: \{validation: 1, weak: 1\}`"):
        DESED(**settings, allow_missing=9).download(tmp_path / "raw")
    with pytest.raises(DownloadError, match="or raise allow_missing"):
        DESED(**settings, allow_missing={"validation": 1}).download(tmp_path / "raw")
    DESED(**settings, allow_missing={"validation": 1, "weak": 1}).download(tmp_path / "raw")
    assert missing(tmp_path / "raw") == {"validation": 1, "weak": 1}
    with pytest.raises(LabelError, match=r"allow_missing: no set 'test'; choose from \[.*'validation', 'weak'\]"):
        DESED(allow_missing={"test": 1})


def test_desed_makes_its_soundscapes_with_scaper(tmp_path):
    root = corpus_folders.desed_soundbank(corpus_folders.desed(tmp_path / "desed"))
    counts = {"synthetic_strong": 3, "validation": 2}
    corpus = DESED(path=str(root), seconds=2.0, synthetic="scaper", soundscapes=counts, shards=1)
    raw, manifest = tmp_path / "data/raw/home", tmp_path / "data/manifests/home/soundbank.tsv"
    corpus.download(raw)
    pieces = corpus.soundbank(raw, tmp_path / "audio")
    assert {piece.label for piece in pieces if piece.role == "foreground"} == {"Dog", "Speech"}
    recordings = collections.defaultdict(set)
    for piece in pieces:
        recordings[piece.recording].add(piece.split)
    assert all(len(splits) == 1 for splits in recordings.values())
    assert min(piece.seconds for piece in pieces if piece.role == "background") >= 2.0
    from sedflow.corpora import write_pieces

    write_pieces(manifest, [*pieces, *(p.__class__(**p.__dict__ | {"split": "validation"}) for p in pieces)])
    made = corpus.prepare(manifest, tmp_path / "audio", 0)
    names = by_source(made)
    assert names["synthetic_strong"] == {f"desed_synthetic_strong_{k:05d}" for k in range(3)}
    assert len(names["validation"]) == 2 and len(names["weak"]) == 3
    assert any(made.strong[clip] for clip in names["synthetic_strong"])


@pytest.fixture
def fetched_soundbank(tmp_path):
    """A raw folder where Zenodo's archive lies unpacked, which has foregrounds alone."""
    whole = corpus_folders.desed_soundbank(tmp_path / "whole")
    content = tmp_path / "raw/official/4307908/DESED_synth_soundbank"
    shutil.copytree(whole / "audio/train/soundbank/foreground", content / "audio/train/soundbank/foreground")
    (content.parent / f"{content.name}.complete").write_text("all\n")
    return tmp_path / "raw", whole / "audio/train/soundbank"


def test_backgrounds_of_a_user_join_the_foregrounds_of_the_archive(tmp_path, fetched_soundbank):
    raw, whole = fetched_soundbank
    own = tmp_path / "own"
    with pytest.raises(DownloadError) as told:
        desed_files.fetch_soundbank([own], raw)
    background = own / "audio/train/soundbank/background"
    assert f"put them into {background}/<scene>" in str(told.value)
    shutil.copytree(whole / "background", background)
    desed_files.fetch_soundbank([own], raw)
    pieces = desed_files.soundbank_pieces(raw, tmp_path / "cut", DESED().classes, Recipe(16000, 10.0))
    assert {(piece.role, piece.label) for piece in pieces} == {
        ("background", "home"), ("background", "short"), ("foreground", "Dog"), ("foreground", "Speech"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strong": "real"}, r"strong cannot be 'real'; choose from \['official', 'atst_sed', 'none'\]"),
        ({"validation": ["weak"]}, "validation cannot be 'weak'"),
        ({"synthetic": "none"}, "no clips for validation"),
        ({"test": "eval"}, "test cannot be 'eval'"),
        ({"synthetic": "scaper", "soundscapes": {"weak": 5}}, "soundscapes are made of .*, not of 'weak'"),
        ({"soundscapes": {"validation": 5}}, "soundscapes need `synthetic: scaper`"),
    ],
)
def test_desed_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(LabelError, match=message):
        DESED(**settings)


# Zenodo


@pytest.fixture
def record(tmp_path, monkeypatch):
    """A server with one record, and how often each file of it was asked for."""
    folder, asked = tmp_path / "served", collections.Counter()
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            asked[self.path] += 1
            super().do_GET()

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(zenodo, "RECORDS", address)

    def serve(number, **files):
        entries = []
        for key, path in files.items():
            content = path.read_bytes()
            (folder / path.name).write_bytes(content)
            checksum = f"md5:{hashlib.md5(content).hexdigest()}"
            entries.append({"key": key, "checksum": checksum, "links": {"self": f"{address}/{path.name}"}})
        (folder / str(number)).write_text(json.dumps({"files": entries}))

    yield serve, asked, folder
    server.shutdown()


def archive(path, folder):
    with tarfile.open(path, "w:gz") as file:
        file.add(folder, arcname=folder.name)
    return path


def test_official_archives_are_fetched_checked_and_unpacked_once(tmp_path, record):
    serve, asked, _ = record
    packed = archive(tmp_path / "pack.tar.gz", corpus_folders.desed(tmp_path / "DESED"))
    serve(1, **{"pack.tar.gz": packed})
    content = zenodo.unpacked(1, "pack.tar.gz", tmp_path / "raw")
    assert (content / "DESED/metadata/train/weak.tsv").is_file()
    assert zenodo.unpacked(1, "*pack*", tmp_path / "raw").is_dir()
    before = asked.total()
    assert zenodo.unpacked(1, "pack.tar.gz", tmp_path / "raw") == content
    assert asked.total() == before


@pytest.mark.parametrize("key", ["a.tsv", "*.tsv"])
def test_a_file_of_a_record_that_is_right_is_kept_without_asking_anybody(tmp_path, record, key):
    serve, asked, _ = record
    (tmp_path / "a.tsv").write_text("filename\n")
    serve(1, **{"a.tsv": tmp_path / "a.tsv"})
    file = zenodo.fetch_record(1, key, tmp_path / "raw")
    before = asked.total()
    assert zenodo.fetch_record(1, key, tmp_path / "raw") == file == tmp_path / "raw/1/a.tsv"
    assert asked.total() == before
    file.write_text("damaged\n")
    assert zenodo.fetch_record(1, key, tmp_path / "raw").read_text() == "filename\n"


def test_an_archive_that_was_fetched_before_a_kill_is_unpacked_without_asking_anybody(tmp_path, record):
    serve, asked, _ = record
    packed = archive(tmp_path / "pack.tar.gz", corpus_folders.desed(tmp_path / "DESED"))
    serve(1, **{"pack.tar.gz": packed})
    zenodo.fetch_record(1, "pack.tar.gz", tmp_path / "raw")
    before = asked.total()
    assert (zenodo.unpacked(1, "*pack*", tmp_path / "raw") / "DESED").is_dir()
    assert asked.total() == before
    assert sorted(path.name for path in (tmp_path / "raw/1").glob("*.complete")) == ["pack.complete"]


def test_a_file_that_is_not_the_record_s_is_refused(tmp_path, record):
    serve, _, folder = record
    (tmp_path / "a.tsv").write_text("filename\n")
    serve(1, **{"a.tsv": tmp_path / "a.tsv"})
    (folder / "a.tsv").write_text("filename\nforeign.wav\n")
    with pytest.raises(
        DownloadError, match=r"1/a\.tsv: its checksum is md5:.*the record says md5:.*damaged in transit"
    ):
        zenodo.fetch_record(1, "a.tsv", tmp_path / "raw")
    assert not (tmp_path / "raw/1/a.tsv").exists()
    with pytest.raises(DownloadError, match=r"0 files 'b\.tsv' in the record, it has \['a\.tsv'\]"):
        zenodo.fetch_record(1, "b.tsv", tmp_path / "raw")


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr(zenodo, "RECORDS", "http://127.0.0.1:9")
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


@pytest.mark.parametrize(
    ("corpus", "name", "archives", "settings"),
    [
        (DESED, "desed", {"dcase_synth.zip": ""}, {"weak_share": 1.0, "seconds": 2.0}),
        (
            Maestro,
            "maestro",
            {"development_audio.zip": "development_audio", "development_annotation.zip": "development_annotation"},
            {"allow_missing": FEW},
        ),
        (Dcase2016Task2, "dcase2016", {"hear2021-dcase2016_task2-full.tar.gz": ""}, {}),
    ],
)
def test_archives_in_the_mirror_are_taken_without_a_connection_and_kept(
    tmp_path, offline, corpus, name, archives, settings
):
    make = functools.partial(getattr(corpus_folders, name), tmp_path / "whole")
    whole = make(CITY) if name == "maestro" else make()
    mirror = tmp_path / "mirror" / {"dcase2016": "dcase2016_task2"}.get(name, name)
    mirror.mkdir(parents=True)
    if name == "desed":  # what YouTube has is the user's
        shutil.copytree(whole, mirror, dirs_exist_ok=True)
        for part in corpus_folders.SYNTHETIC.values():
            shutil.rmtree(mirror / "audio" / part)
            (mirror / "metadata" / f"{part}.tsv").unlink()
    with pytest.raises(DownloadError, match=rf"127\.0\.0\.1.*or put .* into {re.escape(str(mirror))}"):
        corpus(**settings).download(tmp_path / "raw", tmp_path / "mirror")
    for key, part in archives.items():
        archive(mirror / key, whole / part)
    corpus(**settings).download(tmp_path / "raw", tmp_path / "mirror")
    assert read_holdings(tmp_path / "raw") and all((mirror / key).is_file() for key in archives)


def test_desed_takes_from_zenodo_what_the_folder_lacks(tmp_path, record):
    serve, _, _ = record
    whole = corpus_folders.desed(tmp_path / "whole" / "dcase_synth")
    packed = archive(tmp_path / "dcase_synth.zip", whole)
    own = corpus_folders.desed(tmp_path / "own")
    for part in ("train", "validation"):
        folder = own / "audio" / corpus_folders.SYNTHETIC[part]
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
        (own / "metadata" / f"{corpus_folders.SYNTHETIC[part]}.tsv").unlink()
    serve(6026841, **{"dcase_synth.zip": packed})
    corpus = DESED(path=str(own), seconds=2.0)
    corpus.download(tmp_path / "raw")
    found = collections.Counter(holding.set for holding in read_holdings(tmp_path / "raw"))
    assert found["synthetic"] == found["synthetic_validation"] == 3
    folders = {h.path.parent.parent.name for h in read_holdings(tmp_path / "raw") if h.set == "synthetic"}
    assert folders == {"synthetic21_train"}


# MAESTRO


def test_maestro_splits_ninety_percent_of_each_scene():
    parts = collections.Counter(Maestro().recordings.values())
    assert parts == {"soft": 28, "validation": 5, "test": 16}
    scenes = {name[:-3] for name, part in Maestro().recordings.items() if part == "validation"}
    assert len(scenes) == 5
    assert list(Maestro().classes)[:3] == ["cutlery and dishes", "furniture dragging", "people talking"]
    assert len(Maestro().classes) == 17


def test_maestro_windows_of_test_leave_no_gap():
    with pytest.raises(LabelError, match="test_hop_seconds 12 is more than the 10 s of a window"):
        Maestro(test_hop_seconds=12.0)


def test_maestro_trains_on_confidences_and_is_judged_on_majorities(tmp_path):
    corpus = Maestro(path=str(corpus_folders.maestro(tmp_path / "maestro", CITY)), allow_missing=FEW, shards=2)
    corpus.download(tmp_path / "raw")
    made = prepared(corpus, tmp_path / "raw", tmp_path / "audio")
    names = by_source(made)
    soft = next(clip for clip in sorted(names["soft"]) if clip.endswith("-000100-001100"))
    cars = [event for event in made.strong[soft] if event.label == "car"]
    assert [event.confidence for event in cars] == [round(k / 12, 3) for k in range(1, 11)]
    assert [(event.onset, event.offset) for event in cars] == [(float(k), k + 1.0) for k in range(10)]
    assert Event(1.0, 2.0, "birds_singing", 0.25) in made.strong[soft]
    test = next(clip for clip in sorted(names["test"]) if clip.endswith("-000000-001000"))
    assert made.strong[test] == [Event(7.0, 10.0, "car")]  # above one half from 7/12 on; few hear birds
    assert parse_window(test) == (test[:-14], 0.0, 10.0)
    assert sorted(clip[-13:] for clip in names["test"])[-1] == "000500-001200"


def test_maestro_says_which_recordings_lack_their_annotation_alone(tmp_path):
    root = corpus_folders.maestro(tmp_path / "maestro", CITY)
    (root / "development_annotation" / CITY[0][:-3] / f"{CITY[0]}.txt").unlink()
    with pytest.raises(DownloadError) as told:
        Maestro(path=str(root), allow_missing=FEW | {"soft": 0}).download(tmp_path / "raw")
    assert f"{CITY[0]} (soft): it is there, its annotation {CITY[0]}.txt is not" in str(told.value)
    assert "No annotation <recording>.txt for 1 recordings that are there: development_annotation.zip" in str(
        told.value
    )


def test_maestro_is_judged_on_the_classes_of_the_challenge(tmp_path):
    root = corpus_folders.maestro(tmp_path / "maestro", CITY)
    for table in root.rglob("*.txt"):
        table.write_text(table.read_text() + "0.0\t10.0\tannouncement\t1.0\n")
    for judged, classes in ((None, {"car"}), (["announcement", "car"], {"announcement", "car"})):
        corpus = Maestro(path=str(root), allow_missing=FEW, judged=judged, shards=1)
        corpus.download(tmp_path / "raw")
        made = corpus.prepare(tmp_path / "raw", tmp_path / "audio", 0)
        labels = collections.defaultdict(set)
        for clip in made.clips:
            labels[clip.source] |= {event.label for event in made.strong[clip.id]}
        assert labels["validation"] == labels["test"] == classes and "announcement" in labels["soft"]
    assert len(Maestro().labelled["test"]) == 11
    with pytest.raises(LabelError, match="label 'dog' is not in the class list"):
        Maestro(judged=["dog"])


def test_maestro_reads_other_spellings_and_names_bad_rows(tmp_path):
    classes = Maestro().classes
    path = tmp_path / "a.txt"
    path.write_text("0.0\t1.0\tpeople_talking\t0.4\n1\t2\tbirds singing\t1.0\n2\t3\tdoor_opens_closes\t1.0\n")
    told = [event.label for event in read_annotation(path, classes)]
    assert told == ["people talking", "birds_singing", "door opens/closes"]
    path.write_text("0.0\t1.0\tcar\t0.4\n1\t2\tdog_bark\t1.0\n")
    with pytest.raises(LabelError, match=r"a\.txt:2: label 'dog_bark' is not in the class list .*correct the spelling"):
        read_annotation(path, classes)
    path.write_text("0.0\t1.0\tcar\t0.4\n1\t2\tcar\t40\n")
    with pytest.raises(LabelError, match=r"a\.txt:2: confidence '40' must be a number from 0 to 1; divide percentages"):
        read_annotation(path, classes)
    path.write_text("0.0\t1.0\tcar\n")
    with pytest.raises(LabelError, match=r"a\.txt:1: confidence '' must be"):
        read_annotation(path, classes)


def test_windows_end_where_the_recording_ends():
    assert list(windows(12.0, 10.0, 1.0)) == [(0.0, 10.0), (1.0, 11.0), (2.0, 12.0)]
    assert list(windows(12.6, 10.0, 1.0))[-1] == (3.0, 12.6)
    assert list(windows(120.0, 10.0, 10.0))[-1] == (110.0, 120.0)
    assert list(windows(3.0, 10.0, 10.0)) == [(0.0, 3.0)]
    assert list(windows(20.02, 10.0, 10.0)) == [(0.0, 10.0), (10.0, 20.0)]


# AudioSet Strong


@pytest.mark.parametrize(("classes", "count"), [("train", 447), ("eval", 416), ("common", 407), ("union", 456)])
def test_audioset_class_lists_have_their_published_lengths(classes, count):
    labels = list(AudioSetStrong(path="anywhere", classes=classes).classes)
    assert len(labels) == count and labels == sorted(labels)
    if classes == "train":
        assert labels[:3] == ["Accelerating, revving, vroom", "Air brake", "Air conditioning"]
        assert labels[-1] == "Zipper (clothing)"


def test_audioset_merges_touching_events_and_holds_some_clips_out(tmp_path):
    root = corpus_folders.audioset(tmp_path / "audioset")
    corpus = AudioSetStrong(path=str(root), validation=2, seconds=2.0, shards=2)
    corpus.download(tmp_path / "raw")
    made = prepared(corpus, tmp_path / "raw", tmp_path / "audio")
    names = by_source(made)
    assert {source: len(clips) for source, clips in names.items()} == {"real_strong": 4, "validation": 2, "test": 2}
    events = made.strong[sorted(names["real_strong"])[0]]
    assert events == [Event(0.0, 1.0, "Speech"), Event(1.0, 2.0, "Dog")]
    assert {clip.recordings[0][:8] for clip in made.clips} == {"youtube/"}


def test_an_audioset_table_that_a_kill_cut_off_is_copied_again(tmp_path, monkeypatch):
    corpus = AudioSetStrong(path=str(corpus_folders.audioset(tmp_path / "audioset")))
    whole = shutil.copyfile

    def cut_off(source, target):
        Path(target).write_bytes(Path(source).read_bytes()[:100])
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "copyfile", cut_off)
    with pytest.raises(KeyboardInterrupt):
        corpus.download(tmp_path / "raw")
    monkeypatch.setattr(shutil, "copyfile", whole)
    corpus.download(tmp_path / "raw")
    for table in TABLES.values():
        assert (tmp_path / "raw" / table).read_bytes() == next(tmp_path.glob(f"audioset/**/{table}")).read_bytes()


def test_audioset_counts_missing_clips_and_leaves_out_what_others_test_on(tmp_path):
    root = corpus_folders.audioset(tmp_path / "audioset")
    (root / "audio/unbalanced/Yaaaaaaaaaa0.wav").unlink()
    with pytest.raises(DownloadError, match=r"(?s)1 of 9 recordings are missing \(1 of train\).*aaaaaaaaaa0_30000"):
        AudioSetStrong(path=str(root)).download(tmp_path / "raw")
    corpus_folders.table(tmp_path / "tested.tsv", ("filename",), ("Yaaaaaaaaaa0_30.000_40.000.wav",))
    corpus = AudioSetStrong(path=[str(root / "audio"), str(root)], exclude=str(tmp_path / "tested.tsv"))
    corpus.download(tmp_path / "raw")
    assert missing(tmp_path / "raw") == {}
    with pytest.raises(DownloadError, match="nowhere: no such folder"):
        AudioSetStrong(path=[str(tmp_path / "nowhere")]).download(tmp_path / "raw")


@pytest.mark.parametrize("times", ["_30000", "_30000_40000", "_30", "_30_40", "_30.000_40.000", "_30.0-40.0", ""])
def test_audioset_finds_a_segment_by_the_start_that_a_name_gives(times):
    assert set(sought_segment("b0RFKhbpFJA_30000")) & set(told_segments(f"Yb0RFKhbpFJA{times}"))
    other = set(sought_segment("b0RFKhbpFJA_0")) & set(told_segments(f"Yb0RFKhbpFJA{times}"))
    assert bool(other) == (times == "")


def test_audioset_takes_no_other_segment_of_a_video(tmp_path):
    root = corpus_folders.audioset(tmp_path / "audioset")
    wav = root / "audio/unbalanced/Yaaaaaaaaaa0.wav"
    wav.rename(wav.with_name("aaaaaaaaaa0_0.000_10.000.wav"))
    with pytest.raises(DownloadError, match=r"(?s)1 of 9 recordings are missing.*aaaaaaaaaa0_30000"):
        AudioSetStrong(path=str(root)).download(tmp_path / "raw")


def test_audioset_gives_two_segments_of_a_video_their_own_files(tmp_path):
    root = corpus_folders.audioset(tmp_path / "audioset")
    with (root / "audioset_train_strong.tsv").open("a") as table:
        table.write("aaaaaaaaaa0_90000\t0.0\t1.0\t/m/09x0r\n")
    with pytest.raises(DownloadError, match=r"2 of 10 recordings are missing"):  # a file without a start is of neither
        AudioSetStrong(path=str(root)).download(tmp_path / "raw")
    own = [corpus_folders.noise(root / "audio" / f"aaaaaaaaaa0_{start}_{start + 10}.wav", 2.0) for start in (30, 90)]
    AudioSetStrong(path=str(root)).download(tmp_path / "raw")
    found = {holding.clip: holding.path for holding in read_holdings(tmp_path / "raw")}
    assert [found["aaaaaaaaaa0_30000"], found["aaaaaaaaaa0_90000"]] == own


def test_audioset_refuses_whole_videos(tmp_path):
    root = corpus_folders.audioset(tmp_path / "audioset")
    corpus_folders.noise(root / "audio/unbalanced/Yaaaaaaaaaa0.wav", 12.0)
    with pytest.raises(DownloadError, match=r"(?s)1 recordings are longer than 11 s, .*Yaaaaaaaaaa0\.wav\nCut them"):
        AudioSetStrong(path=str(root)).download(tmp_path / "raw")


def test_hidden_files_and_other_names_are_no_recordings_of_audioset(tmp_path):
    root = corpus_folders.audioset(tmp_path / "audioset")
    audio = root / "audio/unbalanced"
    for hidden in ("._Yaaaaaaaaaa0.wav", ".aaaaaaaaaa1.flac"):
        (audio / hidden).write_bytes(b"resource")
    (audio / "Yaaaaaaaaaa0.m4a").write_bytes(b"libsndfile cannot read this")
    for name in ("Ywwwwwwwwww0.wav", "music for a pause.wav"):
        corpus_folders.noise(audio / name, 2.0)
    AudioSetStrong(path=str(root), validation=2, unlabeled=True).download(tmp_path / "raw")
    found = {holding.path.name: holding.set for holding in read_holdings(tmp_path / "raw")}
    assert [name for name, of in found.items() if of == "unlabeled"] == ["Ywwwwwwwwww0.wav"]
    assert "Yaaaaaaaaaa0.wav" in found and not any(name.startswith(".") or name.endswith("m4a") for name in found)


def test_audioset_takes_the_other_clips_of_the_folders_without_labels_if_asked(tmp_path):
    root = corpus_folders.audioset(tmp_path / "audioset")
    settings = {"path": str(root), "validation": 2, "seconds": 2.0, "unlabeled": True}
    with pytest.raises(DownloadError, match=r"unlabeled: .* hold no clips other than those of AudioSet Strong"):
        AudioSetStrong(**settings).download(tmp_path / "none")
    for name in ("Ywwwwwwwwww0_10000.wav", "wwwwwwwwww1.wav", f"Y{'t' * 10}0.wav", f"{'e' * 10}0_99000.wav"):
        corpus_folders.noise(root / "audio/weak" / name, 2.0)  # the fourth is of an evaluated video
    corpus_folders.table(tmp_path / "tested.tsv", ("filename",), (f"Y{'t' * 10}0_30.000_40.000.wav",))
    corpus = AudioSetStrong(**settings, exclude=str(tmp_path / "tested.tsv"))
    corpus.download(tmp_path / "raw")
    made = prepared(corpus, tmp_path / "raw", tmp_path / "audio")
    names = by_source(made)
    assert names["unlabeled"] == {"Ywwwwwwwwww0", "Ywwwwwwwwww1"}
    assert len(names["real_strong"]) == 4 and not names["unlabeled"] & set(made.strong)
    assert corpus.sources["unlabeled"] == "none" and "unlabeled" not in AudioSetStrong(path="x").sources


# DCASE 2016 Task 2


@pytest.mark.parametrize("row", ['{"label": "cough", "start": 0}', '{"label": "cough", "start": "q", "end": 1}', "3"])
def test_dcase2016_names_a_label_that_it_cannot_read(tmp_path, row):
    (tmp_path / "train.json").write_text(f'{{"scene.wav": [{row}]}}')
    with pytest.raises(LabelError, match=r"train\.json: scene\.wav: .*is not a label with start and end"):
        dcase2016_task2.read_annotation(tmp_path / "train.json", ClassSet(("cough",)))


@pytest.mark.parametrize("table", ["[]", "3", '{"scene.wav": 3}', '{"scene.wav": {"label": "cough"}}'])
def test_dcase2016_refuses_labels_that_are_no_table_of_scenes(tmp_path, table):
    (tmp_path / "train.json").write_text(table)
    with pytest.raises(LabelError, match=r"train\.json: not a table of scenes .* copy HEAR's file again"):
        dcase2016_task2.read_annotation(tmp_path / "train.json", ClassSet(("cough",)))


def test_dcase2016_cuts_scenes_and_reads_milliseconds(tmp_path):
    root = corpus_folders.dcase2016(tmp_path / "hear")
    corpus = Dcase2016Task2(path=str(root), seconds=2.0, hop_seconds=1.0, sample_rate=32000)
    corpus.download(tmp_path / "raw")
    assert {holding.path.parts[-3] for holding in read_holdings(tmp_path / "raw")} == {"48000"}
    made = prepared(corpus, tmp_path / "raw", tmp_path / "audio")
    assert made.strong["train_0_001"] == [Event(0.5, 1.5, "keysDrop")]
    assert made.strong["valid_0_000"] == [Event(1.5, 2.0, "keysDrop")]
    assert made.strong["test_1"] == [Event(1.5, 2.5, "keysDrop")]
    assert next(clip.seconds for clip in made.clips if clip.id == "test_1") == 5.0
    whole = prepared(Dcase2016Task2(path=str(root), seconds=2.0, whole_scenes=True), tmp_path / "raw", tmp_path / "b")
    assert {source: len(names) for source, names in by_source(whole).items()} == {
        "real_strong": 2, "validation": 6, "test": 2,
    }  # fmt: skip
    assert whole.strong["train_0"] == [Event(1.5, 2.5, "keysDrop")]
    low = Dcase2016Task2(path=str(root))
    low.download(tmp_path / "raw")
    assert {holding.path.parts[-3] for holding in read_holdings(tmp_path / "raw")} == {"16000"}


def test_dcase2016_names_an_event_that_cannot_be(tmp_path):
    root = corpus_folders.dcase2016(tmp_path / "hear")
    table = root / "tasks/task2/valid.json"
    table.write_text(json.dumps({"valid_0.wav": [{"label": "keysDrop", "start": 900, "end": 800}]}))
    with pytest.raises(LabelError, match=r"valid\.json: valid_0\.wav: .*'end': 800.* is not an event of"):
        Dcase2016Task2(path=str(root)).download(tmp_path / "raw")


# together


def test_a_video_that_one_corpus_trains_on_and_another_tests_on_is_found(tmp_path):
    root = corpus_folders.audioset(tmp_path / "audioset")
    audioset = AudioSetStrong(path=str(root), validation=2, seconds=2.0, shards=1)
    audioset.download(tmp_path / "raw")
    made = audioset.prepare(tmp_path / "raw", tmp_path / "audio", 0)
    trained = next(clip for clip in made.clips if clip.source == "real_strong")
    tested = type(trained)("Y_elsewhere", trained.path, 2.0, "another file", "test", trained.recordings)
    desed = DESED(synthetic="none", strong="atst_sed", validation=["strong"])
    desed.sources = {"test": "strong"}
    audioset.sources = {"real_strong": "strong"}
    for name, clips in (("audioset", [trained]), ("desed", [tested])):
        write_clips(tmp_path / name / "clips.tsv", clips)
        write_events(tmp_path / name / f"{clips[0].source}.tsv", {clip.id: [] for clip in clips})
    folders = [tmp_path / "audioset", tmp_path / "desed"]
    with pytest.raises(LeakError, match=r"(?s)1 sounds appear in more than one split.*`exclude`.*youtube/aaaaaaaaaa"):
        read_manifests(folders, [audioset, desed])


def test_broken_audio_of_a_user_is_named_at_once_and_counts_as_missing(tmp_path):
    root = corpus_folders.desed(tmp_path / "desed")
    (root / "audio/validation/validation" / "Ytttttttttt1_0.000_10.000.wav").write_bytes(b"RIFF")
    (root / "audio/train/weak" / "Ywwwwwwwwww1_0.000_10.000.wav").write_bytes(b"")
    settings = {"path": str(root), "seconds": 2.0, "weak_share": 1.0, "shards": 1}
    with pytest.raises(DownloadError) as told:
        DESED(**settings).download(tmp_path / "raw")
    assert re.search(
        r"2 of \d+ recordings are missing or cannot be used \(1 of validation, 1 of weak\)", str(told.value)
    )
    assert re.search(r"Ytttttttttt1.*\(validation\): .*wav: not readable as audio", str(told.value))
    assert re.search(r"Ywwwwwwwwww1.*\(weak\): .*wav: the file has zero bytes", str(told.value))
    corpus = DESED(**settings, allow_missing={"validation": 1, "weak": 1})
    corpus.download(tmp_path / "raw")
    assert missing(tmp_path / "raw") == {"validation": 1, "weak": 1}
    names = by_source(prepared(corpus, tmp_path / "raw", tmp_path / "audio"))
    assert len(names["test"]) == len(names["weak"]) == 2


def test_broken_audio_of_audioset_is_counted_unlabeled_too(tmp_path):
    root = corpus_folders.audioset(tmp_path / "audioset")
    for name in ("aaaaaaaaaa0", "wwwwwwwwww0"):
        (root / "audio/unbalanced" / f"Y{name}.wav").write_bytes(b"")
    corpus_folders.noise(root / "audio/unbalanced/Ywwwwwwwwww1.wav", 2.0)
    settings = {"path": str(root), "unlabeled": True}
    with pytest.raises(DownloadError, match=r"2 of 11 recordings are .*\(1 of train, 1 of unlabeled\)"):
        AudioSetStrong(**settings, allow_missing=1).download(tmp_path / "raw")
    AudioSetStrong(**settings, allow_missing=2).download(tmp_path / "raw")
    AudioSetStrong(**settings, allow_missing={"train": 1, "unlabeled": 1}).download(tmp_path / "raw")
    assert missing(tmp_path / "raw") == {"train": 1, "unlabeled": 1}


CUT_SHORT = [
    (DESED, "desed", "audio/validation/validation/Ytttttttttt1_0.000_10.000.wav", "validation", {"weak_share": 1.0}),
    (AudioSetStrong, "audioset", "audio/eval/eeeeeeeeee1_0_10000.wav", "eval", {"validation": 2}),
    (Dcase2016Task2, "dcase2016", "tasks/task2/16000/test/test_1.wav", "test", {}),
]


@pytest.mark.parametrize(("corpus", "name", "recording", "set_", "settings"), CUT_SHORT)
def test_recordings_of_test_that_end_before_their_labels_are_refused(tmp_path, corpus, name, recording, set_, settings):
    root = getattr(corpus_folders, name)(tmp_path / "own")
    settings = {"path": str(root), "seconds": 2.0, "shards": 1, **settings}
    made = corpus(**settings)
    made.download(tmp_path / "raw")
    tested = by_source(prepared(made, tmp_path / "raw", tmp_path / "whole"))["test"]
    corpus_folders.noise(root / recording, 0.8)
    with pytest.raises(DownloadError, match=rf"\({set_}\): .*ends at 0\.80 s, its labels at [12]\.\d0 s"):
        corpus(**settings).download(tmp_path / "raw")
    made = corpus(**settings, allow_missing={set_: 1})
    made.download(tmp_path / "raw")
    assert len(tested) - len(by_source(prepared(made, tmp_path / "raw", tmp_path / "rest"))["test"]) == 1


def test_recordings_of_maestro_that_end_before_their_annotation_are_refused(tmp_path):
    root = corpus_folders.maestro(tmp_path / "own", CITY)
    settings = {"path": str(root), "test_hop_seconds": 2.0}
    tested = next(recording for recording in CITY if Maestro().recordings[recording] == "test")
    path = root / "development_audio" / tested[:-3] / f"{tested}.wav"
    corpus_folders.noise(path, 11.2, 44100)  # annotated to 12 s: the last second is begun
    Maestro(**settings, allow_missing=FEW).download(tmp_path / "raw")
    corpus_folders.noise(path, 5.0, 44100)
    allowed = {"soft": 28, "validation": 5, "test": missing(tmp_path / "raw")["test"]}
    with pytest.raises(DownloadError, match=rf"{tested} \(test\): .*ends at 5\.00 s, its labels at 11\.00 s"):
        Maestro(**settings, allow_missing=allowed).download(tmp_path / "raw")


def test_recordings_of_training_that_end_before_their_labels_are_told_and_do_not_validate(tmp_path, caplog):
    root = corpus_folders.audioset(tmp_path / "audioset")
    whole = ("aaaaaaaaaa1", "aaaaaaaaaa4")
    for path in (root / "audio/unbalanced").iterdir():
        if path.stem[1:] not in whole:
            corpus_folders.noise(path, 1.1, 32000)
    corpus = AudioSetStrong(path=str(root), validation=2, seconds=2.0, shards=1)
    corpus.download(tmp_path / "raw")
    assert "train: 4 recordings end before their labels, which are cut: ['aaaaaaaaaa0_30000'" in caplog.text
    made = prepared(corpus, tmp_path / "raw", tmp_path / "audio")
    names = by_source(made)
    assert names["validation"] == {f"Y{name}_30000" for name in whole} and len(names["real_strong"]) == 4


def test_labels_behind_the_longest_clip_are_no_fault_of_the_recording(tmp_path):
    root = corpus_folders.desed(tmp_path / "desed")
    DESED(path=str(root), seconds=1.5).download(tmp_path / "raw")
    assert not any(missing(tmp_path / "raw").values())


def test_settings_on_a_page_reach_the_corpora():
    spec = {"name": "maestro", "copies": {"people talking": ["Speech"]}, "hop_seconds": 5}
    corpus = plugins.build("corpora", spec)
    assert corpus.copies == {"people talking": ["Speech"]} and corpus.hops["soft"] == 5.0
