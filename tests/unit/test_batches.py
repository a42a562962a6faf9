"""What a batch holds: sources of every kind, several corpora at once, pseudo-labels, balanced draws."""

import json
import types

import numpy as np
import pytest
import torch

from sedflow import audio
from sedflow.audio import AudioError
from sedflow.corpora.demo import soften
from sedflow.dataset import ClipSet
from sedflow.evaluation import evaluate
from sedflow.events import ClassSet, Clip, Event, LabelError, read_events, write_clips, write_events, write_weak
from sedflow.features import CacheError, write_shard
from sedflow.frames import FrameGrid, frame_targets
from sedflow.loading import Share, TrainingBatches, loader
from sedflow.manifests import read_manifests
from sedflow.plugins import SettingsError
from sedflow.pseudo import PseudoLabels
from sedflow.sampling import Draws, active_frames, balanced_weights
from sedflow.scores import Scores
from sedflow.systems import check_system

GRID = FrameGrid(10)


def corpus(classes, sources, **more):
    return types.SimpleNamespace(classes=ClassSet(tuple(classes)), sources=sources, **more)


def clip_of(source, number, seconds=2.0):
    return Clip(f"{source}-{number}", f"{source}-{number}.flac", seconds, f"sha-{source}-{number}", source)


def clip_set(root, tables, sources, **more):
    for clip in tables.of(sources):
        audio.write(root / clip.path, np.zeros(round(clip.seconds * 8000), np.float32), 8000)
    options = {"grid": GRID, "clip_seconds": 2.0, "sample_rate": 8000, "caches": {}, "root": root, **more}
    return ClipSet(
        tables.of(sources), tables.kinds, tables.strong, tables.weak, tables.classes, known=tables.known, **options
    )


@pytest.fixture
def two_corpora(tmp_path):
    """Streets with soft labels beside homes with strong and weak ones; a street's "people" also speak."""
    homes = corpus(["dog", "speech"], {"real_strong": "strong", "weak": "weak", "validation": "strong"})
    streets = corpus(["people", "car"], {"soft": "soft", "test": "strong"}, copies={"people": ["speech"]})
    for name, of_corpus in (("homes", homes), ("streets", streets)):
        write_clips(tmp_path / name / "clips.tsv", [clip_of(source, k) for source in of_corpus.sources for k in (0, 1)])
    dog = {"real_strong-0": [Event(0.2, 0.7, "dog")], "real_strong-1": []}
    write_events(tmp_path / "homes" / "real_strong.tsv", dog)
    write_events(tmp_path / "homes" / "validation.tsv", {"validation-0": [Event(0, 1, "speech")], "validation-1": []})
    write_weak(tmp_path / "homes" / "weak.tsv", {"weak-0": ["dog"], "weak-1": []})
    soft = {"soft-0": [Event(0, 1, "people", 0.25), Event(1, 2, "people", 0.75), Event(1, 2, "car", 1.0)], "soft-1": []}
    write_events(tmp_path / "streets" / "soft.tsv", soft, confidences=True)
    write_events(tmp_path / "streets" / "test.tsv", {"test-0": [Event(0, 1, "people")], "test-1": []})
    return [tmp_path / "homes", tmp_path / "streets"], [homes, streets]


def test_classes_of_several_corpora_are_joined_in_order(two_corpora):
    tables = read_manifests(*two_corpora)
    assert list(tables.classes) == ["dog", "speech", "people", "car"]
    assert tables.kinds["soft"] == "soft"


def test_a_clip_knows_the_classes_its_labels_speak_of(two_corpora, tmp_path):
    tables = read_manifests(*two_corpora)
    clips = clip_set(tmp_path, tables, ["real_strong", "weak", "soft", "test"])
    batch = clips.batch(["real_strong-0", "soft-0", "weak-0", "test-0"])
    assert batch.known.tolist() == [
        [True, True, False, False],
        [False, True, True, True],  # speech is copied from people
        [True, True, False, False],
        [False, False, True, True],  # what is judged keeps to the corpus' own labels
    ]
    assert batch.known.dtype == torch.bool


def test_copied_labels_train_and_do_not_judge(two_corpora):
    tables = read_manifests(*two_corpora)
    assert sorted({event.label for event in tables.strong["soft-0"]}) == ["car", "people", "speech"]
    assert [event.label for event in tables.strong["test-0"]] == ["people"]


def test_labels_may_speak_of_some_classes_only(two_corpora):
    folders, (homes, streets) = two_corpora
    homes.labelled = {"weak": ["dog"]}
    known = read_manifests(folders, [homes, streets]).known
    assert known["weak-0"].tolist() == [True, False, False, False]
    assert known["real_strong-0"].tolist() == [True, True, False, False]


def test_soft_targets_are_confidences(two_corpora, tmp_path):
    tables = read_manifests(*two_corpora)
    batch = clip_set(tmp_path, tables, ["soft"]).batch(["soft-0", "soft-1"])
    assert batch.kinds == ("soft", "soft")
    assert batch.strong[0, :10, 2].eq(0.25).all() and batch.strong[0, 10:, 2].eq(0.75).all()
    assert torch.equal(batch.strong[0, :, 1], batch.strong[0, :, 2])
    assert batch.weak[0].tolist() == [0, 0.75, 0.75, 1]
    assert batch.strong[1].sum() == 0


def test_of_overlapping_confidences_the_surest_counts_in_any_order():
    events = [Event(0, 2, "a", 0.3), Event(1, 2, "a", 0.9), Event(1, 2, "a", 0.1)]
    targets = [frame_targets(order, ClassSet(("a",)), GRID, 20)[:, 0] for order in (events, events[::-1])]
    assert (targets[0] == targets[1]).all()
    assert targets[0][5] == np.float32(0.3) and targets[0][15] == np.float32(0.9)


@pytest.mark.parametrize("cell", ["1.5", "-0.1", "nan", "inf", "sure", ""])
def test_a_confidence_outside_its_range_is_named(tmp_path, cell):
    table = tmp_path / "soft.tsv"
    table.write_text(f"filename\tonset\toffset\tevent_label\tconfidence\na.wav\t0\t1\tdog\t{cell}\n")
    with pytest.raises(LabelError, match=rf"soft\.tsv:2: confidence '{cell}' must be a number from 0 to 1; divide"):
        read_events(table)


def test_soft_labels_need_their_column(two_corpora):
    folders, corpora = two_corpora
    (folders[1] / "soft.tsv").write_text("filename\tonset\toffset\tevent_label\nsoft-0.wav\t0\t1\tcar\n")
    with pytest.raises(LabelError, match=r"soft\.tsv:1: no column 'confidence'"):
        read_manifests(folders, corpora)


def test_corpora_that_do_not_fit_together_are_refused(two_corpora):
    folders, (homes, streets) = two_corpora
    with pytest.raises(LabelError, match="6 clips have the name of another corpus' clip"):
        read_manifests([folders[0], folders[0]], [homes, homes])
    homes.copies = {"dog": ["hound"]}
    with pytest.raises(LabelError, match="copies: 'hound' is not a class of this system"):
        read_manifests(folders, [homes, streets])
    streets.sources = {"weak": "soft"}
    homes.copies = {}
    with pytest.raises(LabelError, match="'weak' has soft labels here and weak labels in an earlier corpus"):
        read_manifests(folders, [homes, streets])


def test_masked_classes_do_not_depend_on_the_order_of_corpora(two_corpora):
    folders, corpora = two_corpora
    there, back = read_manifests(folders, corpora), read_manifests(folders[::-1], corpora[::-1])
    for clip, mask in there.known.items():
        named = {label for label, known in zip(there.classes, mask, strict=True) if known}
        assert named == {label for label, known in zip(back.classes, back.known[clip], strict=True) if known}


def test_validation_does_not_count_classes_that_a_corpus_does_not_label(two_corpora, tmp_path):
    from sedflow.scores import Scores
    from sedflow.train import validation_judge

    folders, (homes, streets) = two_corpora
    streets.sources = {"validation": "strong"}
    write_clips(folders[1] / "clips.tsv", [Clip("street", "street.flac", 2.0, "sha", "validation")])
    write_events(folders[1] / "validation.tsv", {"street": [Event(0, 1, "car")]})
    tables = read_manifests(folders, [homes, streets])
    clips = clip_set(tmp_path, tables, ["validation"])
    values = np.full((20, 4), 0.5, np.float32)  # every class is heard in every clip at once …
    values[:10, 1] = values[:10, 3] = 1.0  # … and speech and cars where homes and streets say so
    heard = {clip: Scores(values, np.arange(21) / 10, list(tables.classes)) for clip in clips.of_source("validation")}
    heard["validation-1"] = Scores(np.full((20, 4), 0.5, np.float32), np.arange(21) / 10, list(tables.classes))
    metrics = validation_judge(clips, ["segment_mpauc"])(heard)
    assert metrics == {"psds1": 1.0, "psds2": 1.0, "segment_mpauc": 1.0}
    clips.known = {}  # if homes knew of cars, those there would be false alarms
    assert validation_judge(clips)(heard)["psds1"] < 0.6


def test_validation_clips_without_events_hide_no_metric(two_corpora, tmp_path):
    from sedflow.train import validation_judge

    folders, (homes, streets) = two_corpora
    streets.sources = {"validation": "strong"}
    write_clips(folders[1] / "clips.tsv", [Clip("street", "street.flac", 2.0, "sha", "validation")])
    write_events(folders[1] / "validation.tsv", {"street": []})
    tables = read_manifests(folders, [homes, streets])
    clips = clip_set(tmp_path, tables, ["validation"])
    values = np.zeros((20, 4), np.float32)
    heard = {clip: Scores(values, np.arange(21) / 10, list(tables.classes)) for clip in clips.of_source("validation")}
    assert validation_judge(clips)(heard) == {"psds1": 0.0, "psds2": 0.0}  # was NaN, and the first weights were kept
    clips.strong = {}
    with pytest.raises(SettingsError, match=r"\['psds1'\] need events, and no validation clip has one"):
        validation_judge(clips, ["psds1", "bce"])
    assert validation_judge(clips, ["bce"])(heard) == {}


@pytest.mark.parametrize(("sources", "processes"), [(["validation"], 3), (["real_strong"], 1)])
def test_too_few_validation_clips_for_the_processes_stop_a_run_before_it_begins(
    two_corpora, tmp_path, monkeypatch, sources, processes
):
    from sedflow import train

    clips = clip_set(tmp_path, read_manifests(*two_corpora), sources)
    monkeypatch.setattr(train, "read_clip_set", lambda *_: clips)
    monkeypatch.setattr(train.lightning, "seed_everything", lambda *_, **__: None)
    settings = {"stage": {"losses": [], "processes": processes}, "sample_rate": 16_000}
    message = f"{2 if processes == 3 else 0} validation clips are too few for {processes}"
    with pytest.raises(SettingsError, match=message):
        train.train(settings, 1, [], {}, {}, None, tmp_path / "work", tmp_path / "out")


def test_recordings_of_augmentations_are_read_before_anything_else(tmp_path):
    from sedflow import train

    folder = tmp_path / "impulses"
    stage = {"losses": [], "augment": [{"name": "mixup"}, {"name": "device_impulse", "folder": str(folder)}]}
    with pytest.raises(SettingsError, match=r"impulses' holds no \.wav or \.flac files"):
        train.train({"stage": stage, "sample_rate": 16_000}, 1, [], {}, {}, None, tmp_path / "work", tmp_path / "out")
    folder.mkdir()
    (folder / "phone.wav").write_bytes(b"no audio")
    with pytest.raises(SettingsError, match=r"augment: .*phone\.wav"):
        train.train({"stage": stage, "sample_rate": 16_000}, 1, [], {}, {}, None, tmp_path / "work", tmp_path / "out")
    assert not (tmp_path / "work").exists()


def test_a_learning_curve_counts_steps_to_the_last_digit():
    from sedflow.train import curve_table

    rows = [{"step": 1_234_567, "train/loss": 1 / 3}, {"step": 1_234_570, "validation/monitor": 1e-12}]
    assert curve_table(rows).splitlines() == [
        "step,train/loss,validation/monitor", "1234567,0.333333,", "1234570,,1e-12",
    ]  # fmt: skip


def test_masking_classes_when_scores_are_judged_would_change_no_metric():
    """Upstream masks them there too; a class without a true event in a corpus is left out anyway."""
    rng, labels = np.random.default_rng(0), ClassSet(("own", "other", "foreign"))
    truth = {"one": [Event(0.5, 2.0, "own")], "two": [Event(1.0, 3.5, "other")]}
    values = {
        clip: 0.4 * frame_targets(events, labels, GRID, 50) + 0.6 * rng.random((50, 3))
        for clip, events in truth.items()
    }
    masked = {clip: np.where([True, True, False], of_clip, 0.0) for clip, of_clip in values.items()}
    judged = [
        evaluate(
            {clip: Scores(s, np.arange(51) / 10, labels.labels) for clip, s in scores.items()},
            truth,
            dict.fromkeys(truth, 5.0),
        )
        for scores in (values, masked)
    ]
    assert judged[0]["classes_without_truth"] == ["foreign"] and judged[0]["psds2"] > 0
    assert judged[0] == judged[1]


def test_soft_validation_labels_are_judged_where_they_are_surer_than_not(two_corpora, tmp_path):
    from sedflow.scores import Scores
    from sedflow.train import validation_judge

    folders, (_, streets) = two_corpora
    streets.sources = {"validation": "soft"}
    write_clips(folders[1] / "clips.tsv", [Clip("street", "street.flac", 2.0, "sha", "validation")])
    segments = [Event(0, 0.5, "car", 0.9), Event(0.5, 1, "car", 0.6), Event(1, 2, "car", 0.2)]  # they touch
    write_events(folders[1] / "validation.tsv", {"street": segments}, confidences=True)
    tables = read_manifests(folders[1:], [streets])
    values = np.zeros((20, 2), np.float32)
    values[:10, 1] = 1.0
    heard = {"street": Scores(values, np.arange(21) / 10, list(tables.classes))}
    assert validation_judge(clip_set(tmp_path, tables, ["validation"]))(heard)["psds1"] == 1.0


# pseudo-labels


def stored(path, clips, logits, classes, frame_rate=10.0):
    write_shard(path, clips, logits.astype(np.float16), frame_rate)
    index = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(index | {"classes": list(classes)}))
    return path


@pytest.fixture
def logits():
    return np.random.default_rng(0).normal(0, 4, (2, 20, 4)).astype(np.float16)


def test_pseudo_labels_are_probabilities_in_the_order_of_the_classes(two_corpora, tmp_path, logits):
    tables = read_manifests(*two_corpora)
    weak = tables.of(["weak"])
    path = stored(tmp_path / "weak.npy", weak, logits, ["car", "people", "speech", "dog"])
    pseudo = PseudoLabels([path], tables.classes, GRID)
    clips = clip_set(tmp_path, tables, ["weak", "real_strong"], pseudo=pseudo)
    batch = clips.batch(["weak-1", "real_strong-0", "weak-0"])
    assert batch.has_pseudo.tolist() == [True, False, True]
    expected = torch.from_numpy(logits[1].astype(np.float32)).sigmoid().flip(1)
    torch.testing.assert_close(batch.pseudo[0], expected, rtol=1e-5, atol=1e-7)
    assert batch.pseudo[1].abs().max() == 0


def test_the_source_pseudo_draws_the_clips_of_the_ensemble_without_their_labels(two_corpora, tmp_path, logits):
    tables = read_manifests(*two_corpora)
    path = stored(tmp_path / "weak.npy", tables.of(["weak"]), logits, tables.classes)
    clips = clip_set(tmp_path, tables, ["weak", "real_strong"], pseudo=PseudoLabels([path], tables.classes, GRID))
    batch = TrainingBatches(clips, {"real_strong": 1, "pseudo": 2}, seed=1)[0]
    assert batch.sources == ("real_strong", "pseudo", "pseudo")
    assert batch.kinds == ("strong", "pseudo", "pseudo")
    assert sorted(batch.clips[1:]) == ["weak-0", "weak-1"]
    assert batch.has_pseudo.tolist() == [False, True, True]
    assert batch.weak[1:].sum() == 0 and batch.strong[1:].sum() == 0
    assert batch.rows("pseudo").tolist() == [1, 2]


def test_without_an_ensemble_there_are_no_pseudo_labels(two_corpora, tmp_path):
    clips = clip_set(tmp_path, read_manifests(*two_corpora), ["weak"])
    batch = clips.batch(["weak-0"])
    assert batch.pseudo is None and not batch.has_pseudo.any()
    with pytest.raises(LabelError, match=r"no clips in \['pseudo'\]"):
        TrainingBatches(clips, {"pseudo": 1}, seed=1)


def test_pseudo_labels_of_other_classes_grids_or_audio_are_refused(two_corpora, tmp_path, logits):
    tables = read_manifests(*two_corpora)
    weak = tables.of(["weak"])
    strangers = stored(tmp_path / "a.npy", weak, logits, ["car", "people", "speech", "cat"])
    with pytest.raises(CacheError, match=r"a\.npy: no logits of \['dog'\]"):
        PseudoLabels([strangers], tables.classes, GRID)
    coarse = stored(tmp_path / "b.npy", weak, logits, tables.classes, frame_rate=5.0)
    with pytest.raises(CacheError, match=r"b\.npy: 5 frames per second, the detector has 10"):
        PseudoLabels([coarse], tables.classes, GRID)
    changed = [Clip(c.id, c.path, c.seconds, "other", c.source) for c in weak]
    old = PseudoLabels([stored(tmp_path / "c.npy", changed, logits, tables.classes)], tables.classes, GRID)
    with pytest.raises(CacheError, match="weak-0: the audio changed after the rule `score_source`"):
        clip_set(tmp_path, tables, ["weak"], pseudo=old)


# which clips


def test_a_share_of_zero_costs_nothing_and_breaks_nothing(two_corpora, tmp_path):
    clips = clip_set(tmp_path, read_manifests(*two_corpora), ["weak"])
    batches = TrainingBatches(clips, {"weak": 1, "soft": 0, "real_strong": 0, "pseudo": 0}, 1, {"soft": "balanced"})
    assert batches[3].sources == ("weak",)


def test_balanced_weights_are_those_of_the_paper():
    # two clips with 70 and 30 frames of a common class, one with 20 of a rare one: w = Σ f·1000/(30 + Σf)
    weights = balanced_weights([{"common": 70}, {"common": 30, "rare": 20}, {}], offset=30)
    assert weights == pytest.approx([70 * 1000 / 130, 30 * 1000 / 130 + 20 * 1000 / 50, 0])


def test_active_frames_count_once_however_events_overlap():
    events = [Event(0.0, 1.0, "a"), Event(0.5, 1.5, "a"), Event(0.0, 0.05, "b"), Event(0, 1, "c", 0.5)]
    assert active_frames(events, GRID) == {"a": 15, "b": 1}
    targets = frame_targets(events[:3], ClassSet(("a", "b")), GRID, 20)
    assert targets.sum(0).tolist() == [15, 1]


def test_balanced_draws_prefer_the_rare_and_never_repeat_within_a_round():
    weights = np.array([1.0] * 90 + [20.0] * 10)
    draws = Draws([f"{k}" for k in range(100)], 3, "strong", weights, round_clips=10)
    rounds = [[draws[position] for position in range(k * 10, k * 10 + 10)] for k in range(300)]
    assert all(len(set(drawn)) == 10 for drawn in rounds)
    heavy = np.mean([sum(int(clip) >= 90 for clip in drawn) for drawn in rounds])
    rng = np.random.default_rng(0)
    told = [np.sum(rng.choice(100, 10, replace=False, p=weights / weights.sum()) >= 90) for _ in range(3000)]
    assert heavy == pytest.approx(np.mean(told), abs=0.3)  # 1 of 10 without balancing


def test_the_clips_of_an_epoch_are_a_setting_however_often_there_is_validation(two_corpora, tmp_path):
    clips = clip_set(tmp_path, read_manifests(*two_corpora), ["weak", "real_strong"])
    clips.of_source = lambda source: [f"{source}-{k}" for k in range(50)]
    clips.balanced_weights, clips.starts = lambda source: np.array([1e6] * 4 + [1.0] * 46), lambda clip: 1
    shares, sampling = {"weak": 2, "real_strong": 2}, {"real_strong": "balanced"}
    for between, epoch in ((500, {"weak": 10, "real_strong": 4}), (2, {"weak": 10})):
        batches = TrainingBatches(clips, shares, 1, sampling, between, epoch_clips=epoch)
        drawn = [row.clip for step in range(200) for row in batches.rows(step)]
        rare = [clip for clip in drawn if clip.startswith("real")]
        assert {int(clip.split("-")[1]) for clip in rare} == {0, 1, 2, 3}
        weak = [clip for clip in drawn if clip.startswith("weak")]
        rounds = [weak[start : start + 10] for start in range(0, 400, 10)]
        assert all(len(set(drawn)) == 10 for drawn in rounds) and len(set(map(frozenset, rounds))) > 30


def test_draws_are_a_function_of_seed_source_and_position():
    weights = np.linspace(1, 5, 50)
    pool = [f"{k}" for k in range(50)]
    first, second = (Draws(pool, 3, "strong", weights, 8) for _ in range(2))
    forward = [first[position] for position in range(40)]
    assert [second[position] for position in reversed(range(40))] == forward[::-1]
    assert [Draws(pool, 4, "strong", weights, 8)[position] for position in range(40)] != forward
    assert [Draws(pool, 3, "weak", weights, 8)[position] for position in range(40)] != forward


def test_clips_without_labels_come_last_and_sources_without_any_cannot_be_balanced(two_corpora, tmp_path):
    draws = Draws(["a", "b", "c"], 1, "s", np.array([0.0, 1.0, 0.0]), 2)
    rounds = [(draws[position], draws[position + 1]) for position in range(0, 40, 2)]
    assert set(rounds) == {("b", "a"), ("b", "c")}
    clips = clip_set(tmp_path, read_manifests(*two_corpora), ["weak", "real_strong"])
    assert clips.balanced_weights("weak") == pytest.approx([1000 / 101, 0])
    assert clips.balanced_weights("real_strong")[0] > 0
    clips.kinds["weak"] = "none"
    with pytest.raises(LabelError, match="'weak' has none labels, which cannot be balanced; set it to uniform"):
        TrainingBatches(clips, {"weak": 1}, 1, {"weak": "balanced"})


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        ({"weeks": "uniform"}, r"stages\.only\.sampling: 'weeks' is not a source here; did you mean 'weak'\?"),
        ({"unlabeled": "balanced"}, r"sampling: 'unlabeled' has no labels to balance; set it to uniform"),
        ({"pseudo": "balanced"}, r"sampling: 'pseudo' has no labels to balance; set it to uniform"),
        ({"weak": "evenly"}, r"stages\.only\.sampling\.weak: Input should be 'uniform' or 'balanced'"),
    ],
)
def test_a_page_that_cannot_be_sampled_is_refused(sampling, message):
    stage = {"sources": {"weak": 1, "unlabeled": 1, "pseudo": 0}, "sampling": sampling}
    stage |= {
        "losses": [{"name": "supervised"}],
        "optimizer": {"lr": {"head": 1e-3, "cnn": 1e-3}},
        "steps": 2,
        "validate_every": 1,
    }
    detector = {"encoders": [{"name": "cnn"}], "sequence": {"name": "bigru"}, "frame_rate": 15.625}
    page = {"title": "a page", "corpora": [{"name": "demo"}], "detector": detector, "stages": {"only": stage}}
    with pytest.raises(SettingsError, match=message):
        check_system(page | {"postprocess": {"name": "median_filter"}})


def test_clips_for_wavmix_come_from_the_whole_source_and_stay_with_their_rows(two_corpora, tmp_path):
    clips = clip_set(tmp_path, read_manifests(*two_corpora), ["weak", "real_strong"])
    shares = {"real_strong": 2, "weak": 2}
    batches = TrainingBatches(clips, shares, 1, beneath={"real_strong"})
    rows = [row for step in range(200) for row in batches.rows(step)]
    assert all((row.beneath is not None) == (row.source == "real_strong") for row in rows)
    beneath = [row.beneath.clip for row in rows if row.beneath]
    pool = clips.of_source("real_strong")
    assert set(beneath) == set(pool)
    assert max(abs(beneath.count(clip) - 400 / len(pool)) for clip in pool) < 60  # each as likely
    assert batches.rows(7) == TrainingBatches(clips, shares, 1, beneath={"real_strong"}).rows(7)
    assert batches.rows(7) != TrainingBatches(clips, shares, 2, beneath={"real_strong"}).rows(7)
    batch = batches[3]
    assert batch.sources.count("real_strong") == 2 == len(batch.beneath) and len(batch) == 4
    parts = [Share(batches, process, 2)[3] for process in range(2)]
    assert sorted(clip for part in parts for clip in part.beneath.clips) == sorted(batch.beneath.clips)
    assert TrainingBatches(clips, shares, 1)[3].beneath is None


def test_a_long_clip_gives_a_part_with_the_labels_of_that_part(tmp_path):
    seconds, rate = 9.0, 8000
    ramp = np.linspace(-0.5, 0.5, round(seconds * rate), dtype=np.float32)
    audio.write(tmp_path / "long.flac", ramp, rate)
    clips = [Clip("long", "long.flac", seconds, "sha", "real_strong")]
    events = [Event(0.0, 2.5, "a"), Event(4.0, 5.0, "b"), Event(4.55, 9.0, "a")]
    options = {"grid": GRID, "clip_seconds": 2.0, "sample_rate": rate, "caches": {}, "root": tmp_path}
    told = ({"real_strong": "strong"}, {"long": events}, {}, ClassSet(("a", "b")))
    with pytest.raises(LabelError, match=r"9\.00 s is longer than clip_seconds .*`random_crops`"):
        ClipSet(clips, *told, **options)
    parts = ClipSet(clips, *told, **options, random_crops=True)
    batches, whole = TrainingBatches(parts, {"real_strong": 4}, 1), frame_targets(events, told[3], GRID, 90)
    begins = []
    for step in range(30):
        batch = batches[step]
        for row, waveform, strong, weak in zip(
            batches.rows(step), batch.inputs.waveform, batch.strong, batch.weak, strict=True
        ):
            first = round(row.begin * 10)
            begins.append(first)
            np.testing.assert_allclose(waveform, ramp[first * 800 : first * 800 + 2 * rate], atol=1e-4)
            np.testing.assert_array_equal(strong, whole[first : first + 20])
            assert weak.equal(strong.amax(0))
        assert bool(batch.valid.all())
    assert min(begins) < 4 and max(begins) > 66 and max(begins) <= 70 and len(set(begins)) > 40
    held_out = [Clip("long", "long.flac", seconds, "sha", "validation")]
    with pytest.raises(LabelError, match="longer than clip_seconds"):
        ClipSet(held_out, {"validation": "strong"}, *told[1:], **options, random_crops=True)
    weak = [Clip("long", "long.flac", seconds, "sha", "weak")]
    with pytest.raises(LabelError, match="not for weak labels"):
        ClipSet(weak, {"weak": "weak"}, {}, {"long": ("a",)}, told[3], **options, random_crops=True)


def test_the_smallest_source_does_not_end_an_epoch(two_corpora, tmp_path):
    clips = clip_set(tmp_path, read_manifests(*two_corpora), ["weak", "real_strong"])
    batches = TrainingBatches(clips, {"weak": 2, "real_strong": 1}, 1, round_batches=500)
    drawn = [clip for step in range(500) for clip in batches.ids(step)]
    assert drawn.count("weak-0") == drawn.count("weak-1") == 500
    assert drawn.count("real_strong-0") == 250


def test_a_crowd_is_as_sure_as_the_second_is_full():
    softened = soften([Event(0.5, 2.25, "a"), Event(2.5, 3.0, "a"), Event(0.0, 0.5, "b")], 3.5)
    assert softened == sorted(
        [Event(0, 1, "a", 0.5), Event(1, 2, "a", 1.0), Event(2, 3, "a", 0.75), Event(0, 1, "b", 0.5)]
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_what_is_wrong_with_a_clip_is_one_message_whoever_reads_it(workers):
    class Broken(torch.utils.data.Dataset):
        def __getitem__(self, number):
            if number == 1:
                raise AudioError("b.flac: the file is truncated, copy it again")
            return number

    items = iter(loader(Broken(), [0, 1], workers))
    assert next(items) == 0
    with pytest.raises(AudioError, match=r"^b\.flac: the file is truncated, copy it again$"):
        next(items)
