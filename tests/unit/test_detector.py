"""The network between waveform and scores, and the file it travels in."""

import copy
import dataclasses
from typing import get_args

import pytest
import torch
from safetensors.torch import save_file

from sedflow.convert import convert
from sedflow.detector import Detector, build_detector
from sedflow.params import Detector as DetectorSettings
from sedflow.plugins import SettingsError
from sedflow.pooling import Pooling, match_frames
from sedflow.specification import Specification, load_detector, read_specification, save_detectors
from sedflow.weights import CheckpointError, load_weights

SETTINGS = {
    "encoders": [{"name": "mobilenet", "width": 0.4}],
    "sequence": {"name": "bigru", "width": 8},
    "frame_rate": 25.0,
    "pooling": "attention",
    "dropout": 0.1,
    "merge_dim": 16,
    "merge_norm": True,
}


@pytest.fixture(scope="module")
def detector() -> Detector:
    torch.manual_seed(1)
    return build_detector(SETTINGS, 3).eval()


def specification(**changes) -> Specification:
    facts = {
        "system": "demo", "stage": "frozen", "classes": ["a", "b", "c"], "sample_rate": 16000, "frame_rate": 25.0,
        "clip_seconds": 10.0, "detector": SETTINGS,
        "inference": {"window_seconds": 10.0, "hop_seconds": 5.0, "batch": 8}, "networks": ["student"],
        "seed": 1, "step": 10,
    }  # fmt: skip
    return Specification(**facts | changes)


def test_cached_embeddings_give_the_scores_of_the_waveform(detector):
    waveform = torch.randn(2, 32000) * 0.1
    direct = detector(waveform, {}, 50)
    cached = detector(None, detector.embed(waveform), 50)
    torch.testing.assert_close(direct.strong_logits, cached.strong_logits)
    torch.testing.assert_close(direct.weak, cached.weak)
    assert direct.strong_logits.shape == (2, 50, 3)
    assert direct.weak.shape == (2, 3)


def test_a_frozen_encoder_stays_frozen_when_training_begins():
    detector = build_detector(SETTINGS, 3)
    detector.freeze(["mobilenet"])
    detector.train()
    assert not any(part.training for part in detector.encoders["mobilenet"].modules())
    detector(torch.randn(2, 16000) * 0.1, {}, 25).strong_logits.sum().backward()
    assert all(p.grad is None for p in detector.encoders["mobilenet"].parameters())
    assert all(p.grad is not None for p in detector.sequence.parameters())


@pytest.mark.parametrize("kind", ["attention", "attention_over_time", "mean", "max"])
def test_padding_changes_no_clip_score(kind):
    torch.manual_seed(0)
    pooling = Pooling(6, 3, kind)
    hidden = torch.randn(1, 10, 6)
    padded = torch.cat([hidden, torch.randn(1, 5, 6)], dim=1)
    valid = torch.arange(15)[None] < 10
    torch.testing.assert_close(pooling(padded, valid).weak, pooling(hidden).weak)


@pytest.mark.parametrize("kind", ["attention", "attention_over_time", "mean", "max"])
def test_clip_scores_are_probabilities(kind):
    weak = Pooling(6, 3, kind)(torch.randn(4, 10, 6) * 20).weak
    assert weak.min() >= 0
    assert weak.max() <= 1


def test_unknown_poolings_are_refused():
    for kind in get_args(DetectorSettings.model_fields["pooling"].annotation):
        Pooling(6, 3, kind)  # all that a page may ask for
    with pytest.raises(SettingsError, match=r"'atention' is none of attention, attention_over_time, mean, max"):
        Pooling(6, 3, "atention")


def test_attention_pooling_is_the_dcase_formula():
    torch.manual_seed(3)
    pooling = Pooling(6, 3, "attention")
    hidden = torch.randn(2, 7, 6)
    strong = pooling.strong(hidden).sigmoid()
    attention = pooling.weak(hidden).softmax(-1).clamp(1e-7, 1)
    expected = (strong * attention).sum(1) / attention.sum(1)
    torch.testing.assert_close(pooling(hidden).weak, expected)


def test_classes_left_out_draw_no_attention_and_score_nothing():
    torch.manual_seed(4)
    pooling, few = Pooling(6, 4, "attention"), Pooling(6, 2, "attention")
    for ours, whole in ((few.strong, pooling.strong), (few.weak, pooling.weak)):
        ours.weight.data, ours.bias.data = whole.weight[[0, 2]], whole.bias[[0, 2]]
    hidden, known = torch.randn(3, 7, 6), torch.tensor([[True, False, True, False]] * 2 + [[True] * 4])
    found, alone, whole = pooling(hidden, known=known), few(hidden), pooling(hidden)
    torch.testing.assert_close(found.weak[:2, [0, 2]], alone.weak[:2])
    torch.testing.assert_close(found.strong[:2, :, [0, 2]], alone.strong[:2])
    assert found.weak[:2, [1, 3]].eq(0).all() and found.strong[:2, :, [1, 3]].eq(0).all()
    torch.testing.assert_close(found.weak[2], whole.weak[2])
    torch.testing.assert_close(found.of_all_classes().weak, whole.weak)
    torch.testing.assert_close(found.of_all_classes().strong, whole.strong)


@pytest.mark.parametrize("kind", ["attention", "attention_over_time", "mean", "max"])
def test_a_clip_of_which_nothing_is_known_scores_nothing_and_has_a_gradient_of_zero(kind):
    pooling, hidden = Pooling(6, 3, kind), torch.randn(2, 5, 6, requires_grad=True)
    prediction = pooling(hidden, known=torch.zeros(2, 3, dtype=torch.bool))
    assert prediction.weak.eq(0).all() and prediction.strong.eq(0).all()
    (prediction.weak.sum() + prediction.strong.sum()).backward()
    assert hidden.grad.eq(0).all()


def test_a_mask_that_leaves_nothing_out_changes_nothing(detector):
    waveform = torch.randn(2, 16000) * 0.1
    free, masked = (detector(waveform, {}, 25, known=known) for known in (None, torch.ones(2, 3, dtype=torch.bool)))
    assert torch.equal(free.weak, masked.weak) and masked.known is None


def test_the_nearest_frame_is_that_at_the_middle():
    tokens = torch.arange(250.0).reshape(1, 250, 1)
    expected = [int((frame + 0.5) * 250 / 156) for frame in range(156)]
    assert match_frames(tokens, 156, "nearest")[0, :, 0].tolist() == expected
    detector = build_detector(SETTINGS | {"frame_rate": 10.0, "match": "nearest", "merge_dim": None}, 3).eval()
    embeddings = detector.embed(torch.randn(1, 32000) * 0.1)
    picked = embeddings["mobilenet"][:, [1, 3, 6, 8, 11, 13, 16, 18, 21, 23, 26, 28, 31, 33, 36, 38, 41, 43, 46, 48]]
    torch.testing.assert_close(
        detector(None, embeddings, 20).strong_logits, detector(None, {"mobilenet": picked}, 20).strong_logits
    )


@torch.no_grad()
@pytest.mark.parametrize("match", ["average", "nearest"])
def test_embeddings_keep_their_time_on_a_grid_whose_last_frame_the_clip_fills_in_part(match):
    # 10 s: 250 embeddings, 156.25 frames of 64 ms; published systems spread the embeddings over 156
    detector = build_detector(
        SETTINGS | {"frame_rate": 15.625, "match": match, "merge_dim": None, "merge_norm": False}, 3
    ).eval()
    embeddings = torch.randn(1, 250, detector.encoders["mobilenet"].dim)
    official = match_frames(embeddings, 156, match)
    expected = torch.cat([official, official[:, -1:]], dim=1)
    read = []
    detector.sequence.register_forward_hook(lambda module, given, output: read.append(given[0]))
    prediction = detector(None, {"mobilenet": embeddings}, 157)
    assert prediction.strong_logits.shape[1] == 157
    torch.testing.assert_close(read[0], expected)


def test_tokens_are_pooled_in_the_windows_the_official_codes_use():
    # specs: 250 → 156 pools tokens (0,2), (1,4), (3,5), (4,7) …
    tokens = torch.arange(250.0).reshape(1, 250, 1)
    pooled = match_frames(tokens, 156)[0, :4, 0]
    assert pooled.tolist() == [0.5, 2.0, 3.5, 5.0]
    assert match_frames(tokens[:, :62], 250).shape == (1, 250, 1)


def test_a_detector_file_gives_the_same_scores(detector, tmp_path):
    path = tmp_path / "best.safetensors"
    save_detectors(path, {"student": detector}, specification())
    loaded, facts = load_detector(path, "student")
    waveform = torch.randn(1, 16000) * 0.1
    torch.testing.assert_close(loaded(waveform, {}, 25).strong_logits, detector(waveform, {}, 25).strong_logits)
    assert facts == specification()
    assert not loaded.training


def test_a_detector_of_ours_is_no_weights_and_nothing_to_convert(tmp_path, detector):
    path = tmp_path / "detector.safetensors"
    save_detectors(path, {"student": detector}, specification())
    with pytest.raises(CheckpointError, match="a detector of sedflow, not weights of an encoder"):
        load_weights(next(iter(detector.encoders.values())), path)
    with pytest.raises(CheckpointError, match="already a sedflow file"):
        convert(path, tmp_path / "again.safetensors")


def test_a_detector_file_of_another_page_is_refused_by_name(detector, tmp_path):
    path = tmp_path / "best.safetensors"
    wider = SETTINGS | {"sequence": {"name": "bigru", "width": 9}}
    save_detectors(path, {"student": detector}, specification(detector=wider))
    with pytest.raises(
        CheckpointError, match=r"(?s)best\.safetensors: .* do not fit Detector.*another shape.*sequence"
    ):
        load_detector(path, "student")
    with pytest.raises(CheckpointError, match="no network 'teacher'"):
        load_detector(path, "teacher")


def test_files_that_are_no_detector_are_refused(tmp_path, detector):
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        read_specification(tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("hello, this is no checkpoint")
    with pytest.raises(CheckpointError, match="not a detector of sedflow"):
        read_specification(tmp_path / "text.safetensors")
    whole = tmp_path / "whole.safetensors"
    save_detectors(whole, {"student": detector}, specification())
    (tmp_path / "cut.safetensors").write_bytes(whole.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="not a detector of sedflow"):
        read_specification(tmp_path / "cut.safetensors")
    for told, said in (("{no", "is not JSON"), ("[1]", "is a list")):
        save_file({"a": torch.zeros(1)}, tmp_path / "odd.safetensors", metadata={"specification": told})
        with pytest.raises(CheckpointError, match=f"odd.safetensors: its specification {said}"):
            read_specification(tmp_path / "odd.safetensors")


def test_equal_detectors_make_equal_bytes(detector, tmp_path):
    for name in ("one", "two"):
        save_detectors(tmp_path / name, {"student": detector}, dataclasses.replace(specification()))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_frozen_encoders_are_kept_once_only_where_both_networks_have_the_same(detector):
    student, same, averaged = (copy.deepcopy(detector) for _ in range(3))
    student.freeze(["mobilenet"])
    with torch.no_grad():
        next(averaged.encoders["mobilenet"].parameters()).add_(0.1)  # a mean teacher of a stage that trained it
    own = averaged.encoders["mobilenet"]
    for other in (same, averaged):
        student.share_frozen(other)
    assert same.encoders["mobilenet"] is student.encoders["mobilenet"]
    assert averaged.encoders["mobilenet"] is own
    averaged.train()
    assert not own.training and not any(parameter.requires_grad for parameter in own.parameters())


def test_dropout_before_and_behind_the_head_and_in_an_encoder_can_be_set_apart():
    cnn = {"name": "cnn", "channels": [4, 4], "pooling": [[4, 16], [1, 8]], "dropout": 0.3}
    detector = build_detector({**SETTINGS, "encoders": [cnn], "dropout": 0.5, "merge_dropout": 0.0}, 3)
    assert (detector.merge_dropout.p, detector.dropout.p) == (0.0, 0.5)
    detector.set_dropout({"cnn": 0.6, "head": 0.2})
    assert (detector.merge_dropout.p, detector.dropout.p) == (0.0, 0.2)
    rates = {part.p for part in detector.encoders["cnn"].modules() if isinstance(part, torch.nn.Dropout)}
    assert rates == {0.6}


def test_dropout_is_set_by_part_and_refused_where_there_is_none():
    vision = {"dim": 16, "depth": 1, "heads": 2}
    encoders = [{"name": "atst", **vision}, {"name": "mobilenet", "width": 0.1}]
    detector = build_detector(SETTINGS | {"encoders": encoders}, 3)
    detector.set_dropout({"atst": 0.3, "head": 0.4})
    assert {part.p for part in detector.encoders["atst"].modules() if isinstance(part, torch.nn.Dropout)} == {0.3}
    assert (detector.merge_dropout.p, detector.dropout.p) == (0.4, 0.4)
    with pytest.raises(SettingsError, match="mobilenet has no dropout"):
        detector.set_dropout({"mobilenet": 0.1})
