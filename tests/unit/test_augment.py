"""Augmentations: what each changes and leaves, that mixing is the same everywhere, and what a cache forbids."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from sedflow import audio, plugins
from sedflow.dataset import Batch, Inputs
from sedflow.detector import Detector, build_encoder
from sedflow.plugins import SettingsError
from sedflow.systems import check_system

SOURCES = ("real_strong", "soft", "real_strong", "weak", "weak", "unlabeled", "unlabeled", "soft")
KINDS = {"real_strong": "strong", "soft": "soft", "weak": "weak", "unlabeled": "none"}
FRAMES, CLASSES, SAMPLES = 20, 3, 16000


def augment(name, batch, seed=0, **settings):
    return plugins.load("augment", name)(batch, np.random.default_rng(seed), **settings)


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    rows = len(SOURCES)
    spectra = {name: torch.rand(rows, bands, 41, generator=generator) for name, bands in (("cnn", 32), ("atst", 16))}
    inputs = Inputs(
        torch.rand(rows, SAMPLES, generator=generator) - 0.3,
        {"cached": torch.rand(rows, 10, 4, generator=generator)},
        spectra,
        {name: part.log() for name, part in spectra.items()},
    )
    kinds = tuple(KINDS[source] for source in SOURCES)
    say_when = torch.tensor([kind in ("strong", "soft") for kind in kinds])
    strong = (torch.rand(rows, FRAMES, CLASSES, generator=generator) > 0.8).float() * say_when.view(-1, 1, 1)
    weak = strong.amax(1)
    weak[3:5] = torch.tensor([[1.0, 0, 0], [0, 1.0, 1.0]])
    known = torch.ones(rows, CLASSES, dtype=torch.bool)
    known[1] = torch.tensor([True, False, False])
    return Batch(
        inputs, inputs, strong, weak, torch.ones(rows, FRAMES, dtype=torch.bool), SOURCES, kinds,
        tuple(f"{source}-{row}" for row, source in enumerate(SOURCES)), known=known,
        pseudo=torch.rand(strong.shape, generator=generator), has_pseudo=torch.tensor([True] * 4 + [False] * 4),
    )  # fmt: skip


@pytest.fixture
def settings_of(tmp_path):
    audio.write(tmp_path / "responses/phone.flac", np.eye(1, 64, dtype=np.float32)[0] * 0.9, 16000)
    return {"device_impulse": {"folder": str(tmp_path / "responses"), "sample_rate": 16000}}


def tensors(value, at=""):
    if isinstance(value, torch.Tensor):
        yield at, value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from tensors(part, f"{at}.{key}")
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from tensors(getattr(value, field.name), f"{at}.{field.name}")


@pytest.mark.parametrize("name", plugins.names("augment"))
def test_every_augmentation_is_repeatable_leaves_its_batch_alone_and_keeps_shapes(name, batch, settings_of):
    settings = {"probability": 1.0} if "probability" in plugins.settings_of("augment", name) else {}
    before = copy.deepcopy(batch)
    one, again = (augment(name, batch, 3, **settings, **settings_of.get(name, {})) for _ in range(2))
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(tensors(batch), tensors(before), strict=True))
    changed = [at for (at, a), (_, b) in zip(tensors(one.inputs), tensors(batch.inputs), strict=True) if not a.equal(b)]
    assert changed
    for (at, a), (_, b) in zip(tensors(one), tensors(again), strict=True):
        assert torch.equal(a, b), at
        assert a.isfinite().all(), at
    shapes = {at: value.shape for at, value in tensors(batch)}
    assert {at: value.shape for at, value in tensors(one) if at in shapes} == shapes
    other = augment(name, batch, 4, **settings, **settings_of.get(name, {}))
    assert name == "device_impulse" or any(
        not a.equal(b) for (_, a), (_, b) in zip(tensors(one.inputs), tensors(other.inputs), strict=True)
    )


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("device_impulse", {"probability": 1.0}),
        ("frame_shift", {}),
        ("mixup", {"probability": 1.0, "teacher": "mixed"}),
        ("time_mask", {"labels": True}),
        ("wavmix", {"probability": 1.0}),
    ],
)
def test_student_and_teacher_go_on_sharing_what_is_changed_for_both(name, settings, batch, settings_of):
    result = augment(name, batch, 3, **settings, **settings_of.get(name, {}))
    assert result.clean is result.inputs and not result.inputs.waveform.equal(batch.inputs.waveform)
    apart = batch.replace(clean=dataclasses.replace(batch.inputs, waveform=batch.inputs.waveform.flip(0)))
    other = augment(name, apart, 3, **settings, **settings_of.get(name, {}))
    assert other.clean is not other.inputs and not other.clean.waveform.equal(other.inputs.waveform)
    assert other.inputs.waveform.equal(result.inputs.waveform)


@pytest.mark.parametrize(
    ("on", "mixed"), [("waveform", {"waveform"}), ("spectrum", {"spectra"}), ("features", {"features"})]
)
def test_one_mixing_for_inputs_cached_features_labels_and_pseudo_labels(batch, on, mixed):
    result = augment("mixup", batch, on=on, probability=1.0, alpha=0.5, per_clip=True)
    for at, value in tensors(result.inputs):
        before = dict(tensors(batch.inputs))[at]
        moves = at.split(".")[1] in mixed | {"embeddings"}
        torch.testing.assert_close(value, result.mixing.apply(before) if moves else before)
    for name in ("strong", "weak", "pseudo"):
        torch.testing.assert_close(getattr(result, name), result.mixing.apply(getattr(batch, name)))
    assert result.clean is batch.clean
    assert len(set(result.mixing.weight.tolist())) > 4  # one λ per clip


def test_mixup_stays_in_its_groups_and_can_cross_sources(batch):
    for seed in range(5):
        mixing = augment("mixup", batch, seed, probability=1.0).mixing
        assert all(batch.kinds[row] == batch.kinds[other] for row, other in enumerate(mixing.partner.tolist()))
        across = augment("mixup", batch, seed, probability=1.0, groups=[["real_strong", "soft"], ["weak"]]).mixing
        assert across.partner[5:7].tolist() == [5, 6] and across.weight[5:7].eq(1).all()  # in no group
        assert across.group.tolist() == [0, 0, 0, 1, 1, -1, -1, 0]
    crossed = [augment("mixup", batch, s, probability=1.0, groups=[["real_strong", "soft"]]) for s in range(5)]
    assert any(
        batch.sources[row] != batch.sources[other]
        for result in crossed
        for row, other in enumerate(result.mixing.partner.tolist())
    )
    with pytest.raises(ValueError, match=r"\['real_strong', 'weak'\] cannot be mixed"):
        augment("mixup", batch, probability=1.0, groups=[["real_strong", "weak"]])


def test_groups_may_be_mixed_each_in_its_own_way_and_are_recorded_together(batch):
    settings = {"probability": 1.0, "on": "features", "per_clip": True}
    once = augment("mixup", batch, 1, **settings, groups=[["weak"]])
    both = augment("mixup", once, 7, **settings, groups=[["real_strong", "soft"], ["unlabeled"]], stronger_first=True)
    for name in ("cnn", "atst"):
        torch.testing.assert_close(both.inputs.features[name], both.mixing.apply(batch.inputs.features[name]))
    torch.testing.assert_close(both.strong, both.mixing.apply(batch.strong))
    torch.testing.assert_close(both.weak, both.mixing.apply(batch.weak))
    groups = [{batch.sources[row] for row in (both.mixing.group == k).nonzero()} for k in both.mixing.group.unique()]
    assert sorted(map(sorted, groups)) == [["real_strong", "soft"], ["unlabeled"], ["weak"]]
    assert both.mixing.weight[[0, 1, 2, 5, 6, 7]].min() >= 0.5
    with pytest.raises(ValueError, match="that share no source"):
        augment("mixup", both, 3, **settings, groups=[["weak"]])


def test_frame_shift_of_some_sources_leaves_the_others(batch):
    shifted = augment("frame_shift", batch, 2, max_seconds=4.0, sources=["soft"])
    moved = [row for row in range(len(batch)) if not shifted.inputs.waveform[row].equal(batch.inputs.waveform[row])]
    assert moved and {batch.sources[row] for row in moved} == {"soft"}


def test_mixup_says_what_the_labels_still_speak_of(batch):
    both = augment("mixup", batch, 2, probability=1.0, groups=[["real_strong", "soft"]])
    either = augment("mixup", batch, 2, probability=1.0, groups=[["real_strong", "soft"]], known="either")
    partner = both.mixing.partner
    assert both.known.equal(batch.known & batch.known[partner])
    assert either.known.equal(batch.known | batch.known[partner])
    assert both.has_pseudo.equal(batch.has_pseudo & batch.has_pseudo[partner])


def test_mixup_as_each_system_has_it(batch):
    stronger = augment("mixup", batch, probability=1.0, stronger_first=True, per_clip=True).mixing.weight
    assert stronger.min() >= 0.5
    skewed = np.concatenate([
        augment("mixup", batch, seed, probability=1.0, alpha=0.3, beta=5.0, per_clip=True).mixing.weight
        for seed in range(40)
    ])  # fmt: skip
    assert skewed.mean() < 0.12  # Beta(0.3, 5): 0.057
    same = augment("mixup", batch, probability=1.0, teacher="mixed", on="spectrum", encoders=["cnn"])
    torch.testing.assert_close(same.clean.spectra["cnn"], same.inputs.spectra["cnn"])
    assert same.inputs.spectra["atst"].equal(batch.inputs.spectra["atst"])
    assert same.inputs.embeddings["cached"].equal(batch.inputs.embeddings["cached"])
    assert not same.inputs.spectra["cnn"].equal(batch.inputs.spectra["cnn"])
    union = augment("mixup", batch, probability=1.0, labels="union")
    assert set(union.strong.unique().tolist()) == {0.0, 1.0}


def test_wavmix_has_no_mean_keeps_most_of_a_clip_and_teacher_hears_it(batch):
    mixed = augment("wavmix", batch, 1, probability=1.0)
    moved = [row for row in range(len(batch)) if not mixed.inputs.waveform[row].equal(batch.inputs.waveform[row])]
    assert moved and all(batch.kinds[row] in ("strong", "soft") for row in moved)
    assert mixed.inputs.waveform[moved].mean(1).abs().max() < 1e-6
    assert mixed.clean.waveform.equal(mixed.inputs.waveform) and mixed.mixing is None
    row = moved[0]
    level = batch.inputs.waveform - batch.inputs.waveform.mean(1, keepdim=True)
    basis = level[[0, 1, 2, 7]].T.double()
    shares = torch.linalg.lstsq(basis, mixed.inputs.waveform[row].double().unsqueeze(1)).solution.flatten()
    assert shares.sum().item() == pytest.approx(1.0, abs=1e-4)
    assert shares.max() >= 0.5
    expected = (shares.view(-1, 1, 1) * batch.strong[[0, 1, 2, 7]]).sum(0)
    torch.testing.assert_close(mixed.strong[row].double(), expected.double(), atol=1e-4, rtol=0)


def test_wavmix_with_any_clip_of_the_source_mixes_each_row_with_its_own(batch):
    rows = [row for row, kind in enumerate(batch.kinds) if kind in ("strong", "soft")]
    rolled = [rows[-1], *rows[:-1]]
    others = dataclasses.replace(
        batch, inputs=Inputs(batch.inputs.waveform.flip(1)[rolled]), clean=Inputs(batch.clean.waveform.flip(1)[rolled]),
        sources=tuple(batch.sources[k] for k in rolled), kinds=tuple(batch.kinds[k] for k in rolled),
        clips=tuple(f"other-{k}" for k in rolled),
        **{name: getattr(batch, name)[rolled] for name in ("strong", "weak", "valid", "known", "has_pseudo", "pseudo")},
    )  # fmt: skip
    waveforms_only = dataclasses.replace(
        batch, inputs=Inputs(batch.inputs.waveform), clean=Inputs(batch.clean.waveform), beneath=others
    )
    mixed = augment("wavmix", waveforms_only, 3, probability=1.0, partner="source")
    assert mixed.clips == batch.clips and mixed.beneath is None
    for row, other in zip(rows, range(len(rows)), strict=True):
        own, under = (part - part.mean() for part in (batch.inputs.waveform[row], others.inputs.waveform[other]))
        basis = torch.stack([own, under], 1).double()
        shares = torch.linalg.lstsq(basis, mixed.inputs.waveform[row].double().unsqueeze(1)).solution.flatten()
        assert shares.sum().item() == pytest.approx(1.0, abs=1e-4) and shares[0] >= 0.5
        torch.testing.assert_close(basis @ shares, mixed.clean.waveform[row].double(), atol=1e-4, rtol=0)
        expected = shares[0] * batch.strong[row] + shares[1] * others.strong[other]
        torch.testing.assert_close(mixed.strong[row].double(), expected.double(), atol=1e-4, rtol=0)
        assert mixed.known[row].equal(batch.known[row] & others.known[other])
    shared = waveforms_only.replace(clean=waveforms_only.inputs, beneath=others.replace(clean=others.inputs))
    one = augment("wavmix", shared, 3, probability=1.0, partner="source")
    assert one.clean is one.inputs and one.inputs.waveform.equal(mixed.inputs.waveform)
    left = [row for row in range(len(batch)) if row not in rows]
    assert mixed.inputs.waveform[left].equal(batch.inputs.waveform[left])
    assert mixed.weak[left].equal(batch.weak[left])
    kept = augment("wavmix", waveforms_only, 3, probability=0.0, partner="source")
    assert kept.inputs.waveform.equal(batch.inputs.waveform) and kept.strong.equal(batch.strong)
    of_mixed = augment("wavmix", augment("mixup", waveforms_only, 1, probability=1.0), 3, partner="source")
    assert of_mixed.clean_known.equal(batch.known) and of_mixed.clean_valid.equal(batch.valid)


def test_the_teacher_of_unmixed_clips_keeps_what_their_own_labels_speak_of(batch):
    mixed = augment("mixup", batch, 5, probability=1.0, groups=[["real_strong", "soft"]])
    assert mixed.clean_known.equal(batch.known) and not mixed.known.equal(batch.known)
    assert augment("mixup", batch, 2, probability=1.0, teacher="mixed").clean_known is None
    assert augment("wavmix", batch, 2, probability=1.0).clean_known is None


def test_frame_shift_moves_sound_labels_and_pseudo_labels_by_a_normal_draw(batch):
    shifts = []
    for seed in range(60):
        shifted = augment("frame_shift", batch, seed, sigma_seconds=1.0, clip_seconds=10.0)
        for row in (0, 2):
            shift = next(s for s in range(FRAMES) if batch.pseudo[row].roll(s, 0).equal(shifted.pseudo[row]))
            assert shifted.strong[row].equal(batch.strong[row].roll(shift, 0))
            by = shift * SAMPLES // FRAMES
            assert shifted.inputs.waveform[row].equal(batch.inputs.waveform[row].roll(by, 0))
            assert shifted.clean.waveform[row].equal(batch.clean.waveform[row].roll(by, 0))
            shifts.append((shift + FRAMES // 2) % FRAMES - FRAMES // 2)
    assert 1.5 < np.std(shifts) < 2.6  # a second is two frames


def test_time_mask_blanks_labels_and_pseudo_labels_alike_if_asked(batch):
    settings = {"labels": True, "min_seconds": 3.0, "max_seconds": 5.0, "clip_seconds": 10.0}
    masked = augment("time_mask", batch, 1, **settings, sources=["real_strong"])
    for row in range(len(batch)):
        gone = (masked.pseudo[row] == 0).all(1)
        if batch.sources[row] != "real_strong":
            assert not gone.any() and masked.strong[row].equal(batch.strong[row])
            continue
        assert 6 <= gone.sum() <= 10
        assert masked.strong[row, gone].eq(0).all() and masked.strong[row, ~gone].equal(batch.strong[row, ~gone])
        assert masked.weak[row].equal(masked.strong[row].amax(0))
        assert masked.inputs.waveform[row].eq(0).sum() >= 0.29 * SAMPLES
    assert masked.clean.waveform.equal(masked.inputs.waveform)
    bridged = augment("time_mask", batch, 1)
    assert bridged.strong is batch.strong and bridged.clean is batch.clean


def test_frequency_warp_draws_for_student_and_teacher_apart(batch):
    warped = augment("freq_warp", batch, 1, probability=1.0, encoders=["atst"])
    assert not warped.inputs.features["atst"].equal(warped.clean.features["atst"])
    assert not warped.clean.features["atst"].equal(batch.clean.features["atst"])
    assert warped.inputs.features["cnn"].equal(batch.inputs.features["cnn"])
    still = augment("freq_warp", batch, 1, probability=1.0, min_share=1.0)
    torch.testing.assert_close(still.inputs.features["atst"], batch.inputs.features["atst"], atol=1e-5, rtol=1e-5)
    spared = augment("freq_warp", batch, 1, probability=1.0, teacher=False)
    assert spared.clean is batch.clean


def test_frequency_warp_keeps_a_band_at_least(batch):
    for seed in range(40):
        warped = augment("freq_warp", batch, seed, probability=1.0, min_share=0.0)
        features = warped.inputs.features["cnn"]
        assert features.shape == batch.inputs.features["cnn"].shape
        assert features.abs().sum() > 0  # something of the clips is left


def test_filter_augment_stays_within_its_gain_and_is_piecewise_straight(batch):
    filtered = augment("filter_augment", batch, 1, probability=1.0, max_db=6.0)
    decibels = 20 * (filtered.inputs.features["cnn"] / batch.inputs.features["cnn"])[:, :, 0].log10()
    assert decibels.abs().max() <= 6.0 + 1e-3
    bends = decibels.diff(n=2).abs().gt(1e-3).sum(1)
    assert bends.max() <= 2 * 5 and bends.min() >= 1
    assert filtered.clean is batch.clean
    own = augment("filter_augment", batch, 1, probability=1.0, teacher=True)
    assert not own.clean.features["cnn"].equal(own.inputs.features["cnn"])


def test_mixstyle_blends_the_statistics_over_time_and_nothing_else(batch):
    styled = augment("mixstyle", batch, 1, probability=1.0, groups="batch")
    before, after = batch.inputs.features["atst"], styled.inputs.features["atst"]
    normed = [(part - part.mean(2, keepdim=True)) / part.std(2, keepdim=True) for part in (before, after)]
    torch.testing.assert_close(*normed, atol=1e-3, rtol=1e-3)
    assert not torch.allclose(before.mean(2), after.mean(2), atol=1e-3)
    torch.testing.assert_close(styled.strong, batch.strong)


def test_device_impulse_is_a_convolution_and_a_missing_folder_is_named(batch, tmp_path):
    rng = np.random.default_rng(0)
    response = (rng.normal(size=50) * np.exp(-np.arange(50) / 10)).astype(np.float32) * 0.1
    audio.write(tmp_path / "one.wav", response, 16000)
    settings = {"folder": str(tmp_path), "sample_rate": 16000, "probability": 1.0}
    played = augment("device_impulse", batch, 0, **settings)
    kernel = audio.read(tmp_path / "one.wav", 16000)
    kernel = kernel / np.linalg.norm(kernel)
    for row in (0, 5):
        expected = np.convolve(batch.inputs.waveform[row].numpy(), kernel)[:SAMPLES]
        np.testing.assert_allclose(played.inputs.waveform[row].numpy(), expected, atol=1e-5)
    assert played.clean.waveform.equal(played.inputs.waveform)
    with pytest.raises(FileNotFoundError, match=r"holds no \.wav or \.flac"):
        augment("device_impulse", batch, folder=str(tmp_path / "nowhere"), sample_rate=16000)


ENCODERS = {
    "cnn": {"channels": [4] * 7},
    "atst": {"dim": 16, "depth": 1, "heads": 2},
    "passt": {"dim": 16, "depth": 1, "heads": 2},
    "mobilenet": {"width": 0.1},
    "beats": {"depth": 1, "dim": 16, "heads": 2},
}


@pytest.mark.parametrize("name", ENCODERS)
@torch.no_grad()
def test_what_is_read_from_opened_features_is_what_is_read_from_the_waveform(name):
    encoder = build_encoder({"name": name, **ENCODERS[name]}).eval()
    rate, sequence = encoder.sample_rate, {"name": "bigru", "width": 4, "layers": 1}
    detector = Detector({name: encoder}, sequence, 2, frame_rate=15.625, pooling="attention").eval()
    inputs = Inputs(torch.rand(2, round(2.5 * rate)) - 0.5)
    frames = detector.grid.frames(2.5)
    plain = detector.read(inputs, frames)
    torch.testing.assert_close(detector.read(detector.opened(inputs, "features"), frames).strong, plain.strong)
    if hasattr(encoder, "spectrogram"):
        opened = detector.opened(inputs, "spectrum")
        assert set(opened.spectra) == {name} and not opened.features
        torch.testing.assert_close(detector.read(opened, frames).strong, plain.strong)
    else:
        with pytest.raises(SettingsError, match="no linear mel"):
            detector.opened(inputs, "spectrum")


def page(augmentations, freeze=(), encoders=("cnn", "atst"), **stage):
    rates = {"head": 1e-3} | {name: 1e-4 for name in encoders if name not in freeze}
    return {
        "title": "a page",
        "corpora": [{"name": "demo"}],
        "detector": {"encoders": [{"name": name} for name in encoders], "sequence": {"name": "bigru"}},
        "stages": {
            "only": {
                "freeze": list(freeze), "sources": {"synthetic_strong": 4, "weak": 2}, "augment": augmentations,
                "losses": [{"name": "supervised"}], "optimizer": {"lr": rates}, "steps": 4, "validate_every": 2,
            } | stage
        },
        "postprocess": {"name": "median_filter"},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (page([{"name": "gain"}], freeze=["cnn", "atst"]), "only its cached features"),
        (page([{"name": "wavmix"}], freeze=["atst"]), "'atst' is frozen"),
        (page([{"name": "freq_warp"}], freeze=["atst"]), "'atst' is frozen"),
        (page([{"name": "mixup", "on": "spectrum"}], encoders=["mobilenet"]), "no linear mel"),
        (page([{"name": "freq_warp"}, {"name": "gain"}]), "move it up"),
        (page([{"name": "mixup", "on": "mel"}]), "mixup cannot take 'mel': .*'spectrum' or 'features'"),
        (page([{"name": "freq_warp", "encoders": ["cmm"]}]), "no encoder 'cmm'"),
        (page([{"name": "feature_noise"}]), "cached features, but"),
        (page([{"name": "device_impulse", "folder": "x", "sample_rate": 8000}]), "leave `sample_rate` out"),
        (page([], losses=[{"name": "consistency"}]), "needs a teacher"),
        (page([], losses=[{"name": "distillation"}]), "needs a source of pseudo-labels"),
        (page([], losses=[{"name": "supervised", "ramp": "square"}]), "ramp: Input should be 'exponential', 'linear'"),
        (page([], losses=[{"name": "supervised", "weight": "much"}]), "supervised: weight: .* number, got 'much'"),
        (
            page([{"name": "filter_augment"}], losses=[{"name": "distillation", "checkpoint": "x"}]),
            "read a different clip",
        ),
        (page([], processes=4), "cannot be shared by 4 processes"),
        (page([{"name": "mixup"}, {"name": "mixup"}]), "2 mixups need `groups"),
        (page([{"name": "mixup", "groups": [["weak"]]}, {"name": "mixup", "groups": [["weak"]]}]), "2 mixups need"),
        (page([{"name": "wavmix", "partner": "set"}]), "partner: wavmix cannot take 'set'"),
        (
            page([{"name": "wavmix", "partner": "source"}] * 2),
            "one partner of its source, which serves a single wavmix",
        ),
        (page([{"probability": 0.5}]), r"augment: expected \{name: …\}"),
        (page([], freeze=["cnn"], random_crops=True), "cached features are of whole clips"),
    ],
)
def test_what_cannot_work_is_refused_when_the_page_is_checked(wrong, message):
    with pytest.raises(SettingsError, match=message):
        check_system(wrong)


def test_what_a_cache_allows_passes():
    allowed = [{"name": "frame_shift"}, {"name": "mixup"}, {"name": "time_mask"}, {"name": "feature_noise"}]
    for steps, freeze in (
        (allowed, ["cnn", "atst"]),
        ([{"name": "mixup", "on": "spectrum"}, {"name": "freq_warp", "encoders": ["atst"]}], []),
        ([{"name": "filter_augment", "encoders": ["cnn"]}], ["atst"]),
    ):
        (stage,) = check_system(page(steps, freeze=freeze)).stages.values()
        assert [step["name"] for step in stage.augment] == [step["name"] for step in steps]


def test_clips_with_pseudo_labels_alone_are_mixed_with_their_like(batch):
    """Their hard labels are unknown, not silent: beneath a labelled clip they would teach silence."""
    kinds = tuple({"soft": "pseudo"}.get(kind, kind) for kind in batch.kinds)
    strong = batch.strong.clone()
    strong[[1, 7]] = 1.0  # of these rows, so that it would show
    batch = Batch(
        Inputs(batch.inputs.waveform), Inputs(batch.inputs.waveform), strong, batch.weak, batch.valid, batch.sources,
        kinds, batch.clips, pseudo=batch.pseudo, has_pseudo=batch.has_pseudo,
    )  # fmt: skip
    silent = strong[[0, 2]].amax(0) == 0
    for seed in range(8):
        mixed = augment("wavmix", batch, seed, probability=1.0)
        assert mixed.strong[[0, 2]][:, silent].eq(0).all() and mixed.strong[[1, 7]].eq(1).all()
        mixing = augment("mixup", batch, seed, probability=1.0).mixing
        assert all(kinds[row] == kinds[other] for row, other in enumerate(mixing.partner.tolist()))
    for groups in ("batch", [["real_strong", "soft"]]):
        with pytest.raises(ValueError, match="cannot be mixed, their labels differ in kind"):
            augment("mixup", batch, probability=1.0, groups=groups)
