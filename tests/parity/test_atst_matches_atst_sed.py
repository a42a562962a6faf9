"""ATST-Frame against Audio-WestlakeU/ATST-SED and fschmid56/PretrainedSED, from waveform to frames."""

import copy

import pytest
import torch
from torch import nn
from vectors import find_vectors

from sedflow.detector import Detector
from sedflow.encoders.atst import ATST
from sedflow.encoders.cnn import CNN
from sedflow.pooling import Pooling, match_frames
from sedflow.weights import CheckpointError

HOP = 160  # samples between mel frames


@pytest.fixture(scope="module")
def atst_sed(golden_dir):
    return find_vectors(golden_dir, lambda about: about.get("model") == "ATST-Frame")


@pytest.fixture(scope="module")
def pretrained_sed(golden_dir):
    return find_vectors(golden_dir, lambda about: about.get("model", "").startswith("ATST-F inside PretrainedSED"))


def built(vectors, **settings):
    config = vectors.config
    return ATST(
        dim=config["embed_dim"],
        depth=config["depth"],
        heads=config["num_heads"],
        mlp_ratio=config.get("mlp_ratio", 4.0),
        positions=config["spec_w"] // config["patch_w"],
        **settings,
    ).eval()


def file_of(vectors, folder):
    """The vectors' weights as the official loader wants them."""
    path = folder / f"{vectors.name}.pt"
    flat = vectors.about["checkpoint_format"].startswith("flat")
    torch.save(vectors.weights if flat else {"state_dict": vectors.weights}, path)
    return path


def loaded(vectors, folder, **settings):
    encoder = built(vectors, **settings)
    ignored = encoder.load_official(file_of(vectors, folder))
    assert all("head" in name for name in ignored)
    return encoder


def own_names(vectors):
    """The encoder's tensors by the names the official class gives them."""
    prefix = next(name for name in vectors.weights if name.endswith("pos_embed")).removesuffix("pos_embed")
    return {name.removeprefix(prefix): t for name, t in vectors.weights.items() if name.startswith(prefix)}


@torch.no_grad()
def test_front_end_over_the_batch_as_upstream(atst_sed, tmp_path):
    for vectors in atst_sed:
        encoder = loaded(vectors, tmp_path, top_db_over="batch")
        for case, waveform in vectors.inputs("/wave").items():
            if f"{case}/mel" in vectors.about["outputs"]:
                power = encoder.spectrogram(waveform)
                if f"{case}/mel_power" in vectors.about["outputs"]:
                    vectors.check(f"{case}/mel_power", power)
                vectors.check(f"{case}/mel", encoder.features(power))


@torch.no_grad()
def test_front_end_clip_by_clip_is_the_default(atst_sed, tmp_path):
    compared = 0
    for vectors in atst_sed:
        encoder = loaded(vectors, tmp_path)
        for name in [name for name in vectors.about["outputs"] if name.endswith("/mel_if_each_clip_alone")]:
            waveform = vectors.inputs("/wave")[name.partition("/")[0]]
            vectors.check(name, encoder.features(encoder.spectrogram(waveform)))
            compared += 1
    assert compared


@torch.no_grad()
def test_every_part_from_waveforms_and_from_the_recorded_mel(atst_sed, tmp_path):
    for vectors in atst_sed:
        encoder = loaded(vectors, tmp_path, top_db_over="batch")
        parts = {"patch_embed": encoder.embedding.patch_embed, "tokens_in": encoder.embedding}
        parts |= {f"block{number}": block for number, block in enumerate(encoder.blocks)}
        seen = {}
        for name, module in parts.items():
            module.register_forward_hook(lambda module, given, output, name=name: seen.update({name: output}))  # noqa: B023
        for case, waveform in vectors.inputs("/wave").items():
            if f"{case}/frames" in vectors.about["outputs"]:
                for tokens, given in (
                    (lambda waveform=waveform: encoder.tokens(waveform), ""),  # noqa: B023
                    (lambda case=case: encoder.encode(vectors.output(f"{case}/mel")), "_given_mel"),  # noqa: B023
                ):
                    vectors.check(f"{case}/frames", tokens(), given)
                    for name, output in seen.items():
                        if f"{case}/{name}" in vectors.about["outputs"]:
                            vectors.check(f"{case}/{name}", output, given)
                # the official tokens are the first frames of ours
                vectors.check(f"{case}/frames", encoder(waveform)[:, : vectors.output(f"{case}/frames").shape[1]])


@torch.no_grad()
def test_hard_chunks_of_long_clips_as_upstream(atst_sed, tmp_path):
    compared = 0
    for vectors in atst_sed:
        encoder = loaded(vectors, tmp_path, top_db_over="batch")
        samples = (vectors.config["spec_w"] - 1) * HOP  # how the official codes cut what is too long for them
        for name in [name for name in vectors.about["outputs"] if name.endswith("/frames_10s_chunks")]:
            waveform = vectors.inputs("/wave")[name.partition("/")[0]]
            chunks = nn.functional.pad(waveform, (0, -waveform.shape[1] % samples)).split(samples, dim=1)
            # no mel of the chunks is recorded, so that there is nothing to hold to the tight bounds
            vectors.check(name, torch.cat([encoder.tokens(chunk) for chunk in chunks], dim=1))
            with pytest.raises(ValueError, match="position table"):
                encoder.tokens(waveform)
            compared += 1
    assert compared


@torch.no_grad()
def test_frames_and_scores_of_pretrained_sed(pretrained_sed, tmp_path):
    for vectors in pretrained_sed:
        encoder = loaded(vectors, tmp_path, top_db_over="batch")
        heads = Pooling(encoder.dim, vectors.config["n_classes_strong"], "mean")
        for name, head in (("strong_head", heads.strong), ("weak_head", heads.weak)):
            head.load_state_dict({kind: vectors.weights[f"{name}.{kind}"] for kind in ("weight", "bias")})
        for case, waveform in vectors.inputs("/wave").items():
            mel = vectors.output(f"{case}/mel")
            vectors.check(f"{case}/mel", encoder.features(encoder.spectrogram(waveform)).unsqueeze(1))
            for frames, given in ((encoder.tokens(waveform), ""), (encoder.encode(mel.squeeze(1)), "_given_mel")):
                vectors.check(f"{case}/frames", frames, given)
                matched = match_frames(frames, vectors.config["seq_len"])
                if f"{case}/frames250" in vectors.about["outputs"]:
                    vectors.check(f"{case}/frames250", matched, given)
                prediction = heads(matched)
                vectors.check(f"{case}/strong_logits", prediction.strong_logits.transpose(1, 2), given)
                vectors.check(f"{case}/weak_logits", prediction.weak.double().logit(), given)
            # what ours adds is a last frame that the clip only partly fills
            official = vectors.output(f"{case}/frames")
            vectors.check(f"{case}/frames", encoder(waveform)[:, : official.shape[1]])


def test_every_spelling_loads(atst_sed, tmp_path):
    vectors = atst_sed[0]
    tensors = own_names(vectors)
    other = {name: torch.randn_like(tensor) for name, tensor in tensors.items()}
    norm = {name.replace("norm_frame.", "norm."): tensor for name, tensor in tensors.items()}
    norm["cls_token"] = torch.zeros(1, 1, vectors.config["embed_dim"])

    def under(prefix, tensors):
        return {prefix + name: tensor for name, tensor in tensors.items()}

    files = {
        "fine-tuned": {"state_dict": under("encoder.encoder.", tensors) | {"head.bias": torch.zeros(2)}},
        "self-supervised": {
            "state_dict": under("model.teacher.encoder.", norm)
            | under("model.student.encoder.", other)
            | {"model.teacher.projector.weight": torch.zeros(2)}
        },
        "distilled": {
            "state_dict": under("encoder.encoder.frame_encoder.", tensors)
            | under("encoder.encoder.teacher_module.", other)
        },
        "ATST-SED": {
            "sed_student": under("atst_frame.atst.", other),
            "sed_teacher": under("atst_frame.atst.", tensors) | {"total_ops": torch.zeros(1)},
            "state_dict": under("sed_student.atst_frame.atst.", other) | under("sed_teacher.atst_frame.atst.", tensors),
            "hyper_parameters": {"opt": {"tfm_lr": 1e-4}},
        },
        "PretrainedSED": under("model.atst.", tensors) | {"weak_head.bias": torch.zeros(2)},
    }
    reference = loaded(vectors, tmp_path).state_dict()
    for name, content in files.items():
        path = tmp_path / "spelling.pt"
        torch.save(content, path)
        encoder = built(vectors)
        ignored = encoder.load_official(path)
        assert all(torch.equal(reference[key], tensor) for key, tensor in encoder.state_dict().items()), name
        assert len(ignored) == len(list(_tensors(content))) - len(tensors), name


def _tensors(content):
    for value in content.values():
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, dict):
            yield from _tensors(value)


def test_the_student_of_a_stage_checkpoint_loads_when_asked_for(atst_sed, tmp_path):
    vectors = atst_sed[0]
    tensors = own_names(vectors)
    path = tmp_path / "stage.ckpt"
    content = {"sed_student": {f"atst_frame.atst.{name}": tensor for name, tensor in tensors.items()}}
    torch.save(content, path)
    encoder = built(vectors)
    encoder.load_official(path, network="student")
    assert torch.equal(encoder.embedding.pos_embed, tensors["pos_embed"])
    with pytest.raises(CheckpointError, match=r"no teacher in it, only sed_student\.atst_frame\.atst\."):
        encoder.load_official(path)


def test_two_different_teachers_in_a_file_are_refused(atst_sed, tmp_path):
    vectors = atst_sed[0]
    tensors = own_names(vectors)
    path = tmp_path / "two.pt"
    torch.save(
        {"a.teacher." + n: t for n, t in tensors.items()} | {"b.teacher." + n: t + 1 for n, t in tensors.items()}, path
    )
    with pytest.raises(CheckpointError, match="different weights"):
        built(vectors).load_official(path)


def test_a_file_without_a_block_is_refused(atst_sed, tmp_path):
    vectors = copy.deepcopy(atst_sed[0])
    last = vectors.config["depth"] - 1
    name = next(name for name in vectors.tensors if name.endswith(f"blocks.{last}.mlp.fc1.bias"))
    vectors.tensors.pop(name)
    with pytest.raises(CheckpointError, match=rf"missing: blocks\.{last}\.mlp\.fc1\.bias"):
        built(vectors).load_official(file_of(vectors, tmp_path))


def test_atst_base_has_as_many_parameters_as_published():
    # cpjku_efficient.md §3: alone, and with two heads of 447 classes
    with torch.device("meta"):
        encoder = ATST()
        heads = nn.ModuleList(nn.Linear(encoder.dim, 447) for _ in range(2))
    count = sum(parameter.numel() for parameter in encoder.parameters())
    assert count == 85_419_264
    assert count + sum(parameter.numel() for parameter in heads.parameters()) == 86_106_750


def test_atst_sed_has_as_many_parameters_as_published():
    # atst_desed.md §4.1
    with torch.device("meta"):
        sequence = {"name": "bigru", "width": 128}
        options = {"frame_rate": 15.625, "pooling": "attention", "merge_dim": 128}
        detector = Detector({"cnn": CNN(), "atst": ATST()}, sequence, 10, **options)
    assert sum(parameter.numel() for parameter in detector.parameters()) == 86_646_500


def test_layers_are_the_fourteen_groups_of_atst_sed():
    with torch.device("meta"):
        layers = ATST().layers()
    assert len(layers) == 14
    assert isinstance(layers[-1], nn.LayerNorm)


@torch.no_grad()
def test_golden_sine():
    # atst_desed.md, appendix C: 0.5 sin(2π 1000 n / 16000), 10 s
    samples = torch.arange(160_000, dtype=torch.float64)
    waveform = (0.5 * torch.sin(2 * torch.pi * 1000 * samples / 16_000)).float().unsqueeze(0)
    encoder = ATST(dim=32, depth=1, heads=2)
    power = encoder.spectrogram(waveform)
    assert power.shape == (1, 64, 1001)
    assert power[0, :, 500].argmax() == 21
    assert power[0, 21, 500] == pytest.approx(16436.0, abs=0.1)
    features = encoder.features(power)
    assert features[0, 21, 500] == pytest.approx(0.86916, abs=1e-5)
    assert features.mean() == pytest.approx(-0.317059, abs=1e-5)
    assert encoder(waveform).shape == (1, 250, 32)
