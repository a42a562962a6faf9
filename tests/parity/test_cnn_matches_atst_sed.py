"""The DCASE CNN and the CRNN around it against Audio-WestlakeU/ATST-SED, from waveform to clip probabilities."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from vectors import find_vectors

from sedflow.detector import Detector
from sedflow.encoders.cnn import CNN
from sedflow.weights import CheckpointError

KERNEL = 3  # of every published CRNN


@pytest.fixture(scope="module")
def all_vectors(golden_dir):
    return find_vectors(golden_dir, lambda about: about.get("model", "").startswith("CRNN head"))


def built(vectors):
    config = vectors.config
    assert set(config["kernel_size"]) == {KERNEL} and set(config["padding"]) == {KERNEL // 2}
    return CNN(
        gate=config["activation"],
        dropout=config["dropout"],
        channels=config["nb_filters"],
        pooling=config["pooling"],
    ).eval()


def loaded(vectors, folder):
    encoder = built(vectors)
    path = folder / f"{vectors.name}.pt"
    torch.save(vectors.weights, path)
    ignored = encoder.load_official(path)
    assert sorted(ignored) == sorted(name for name in vectors.weights if not name.startswith("cnn.cnn."))
    return encoder


@torch.no_grad()
def test_front_end_and_embeddings_from_waveforms(all_vectors, tmp_path):
    for vectors in all_vectors:
        encoder = loaded(vectors, tmp_path)
        for case, waveform in vectors.inputs("/wave").items():
            magnitude = encoder.spectrogram(waveform)
            if f"{case}/mel_amplitude" in vectors.about["outputs"]:
                vectors.check(f"{case}/mel_amplitude", magnitude)
            features = encoder.features(magnitude)
            vectors.check(f"{case}/x", features)
            vectors.check(f"{case}/cnn", encoder.encode(features))
            official = vectors.output(f"{case}/cnn").shape[1]
            vectors.check(f"{case}/cnn", encoder(waveform)[:, :official])


@torch.no_grad()
def test_embeddings_from_the_recorded_mel(all_vectors, tmp_path):
    for vectors in all_vectors:
        encoder = loaded(vectors, tmp_path)
        for case in vectors.inputs("/wave"):
            embeddings = encoder.encode(vectors.output(f"{case}/x"))
            vectors.check(f"{case}/cnn", embeddings, given="_given_mel")


def test_statistics_that_are_folded_give_what_separate_norms_give(all_vectors, tmp_path):
    for vectors in all_vectors:
        encoder = loaded(vectors, tmp_path)
        features = next(vectors.output(f"{case}/x") for case in vectors.inputs("/wave"))
        folded = encoder.encode(features)
        for block in encoder.blocks:
            block._normed = lambda maps, block=block: block.norm(block.conv(maps))
        torch.testing.assert_close(encoder.encode(features), folded, rtol=1e-4, atol=1e-5)


class Given(nn.Module):
    """Stands for the encoder whose embeddings the vectors give."""

    def __init__(self, dim):
        super().__init__()
        self.dim, self.frame_rate = dim, 15.625


def crnn(vectors, folder):
    """The detector that this CRNN is, with the official weights."""
    config, weights = vectors.config, vectors.weights
    sequence = {"name": "bigru", "width": config["n_RNN_cell"], "layers": config["n_layers_RNN"]}
    embedded = weights["cat_tf.weight"].shape[1] - config["nb_filters"][-1]
    detector = Detector(
        {"cnn": loaded(vectors, folder), "given": Given(embedded)},
        sequence,
        config["nclass"],
        frame_rate=15.625,
        pooling="attention",
        dropout=config["dropout"],
        merge_dim=config["nb_filters"][-1],
    ).eval()
    parts = {"cat_tf": detector.merge, "dense": detector.pooling.strong, "dense_softmax": detector.pooling.weak}
    for name, layer in parts.items():
        layer.load_state_dict({kind: weights[f"{name}.{kind}"] for kind in ("weight", "bias")})
    prefix = "rnn.rnn."
    detector.sequence.load_official({n.removeprefix(prefix): t for n, t in weights.items() if n.startswith(prefix)})
    return detector


def matched(vectors, embeddings, frames):
    """The embeddings as the CRNN joins them: (batch, frames, dim).

    ``pool1d`` is the detector's own way; the others are the baselines' of 2022, which no system of ours has.
    """
    kind = vectors.config["aggregation_type"]
    if kind == "global":
        shrunk = F.linear(embeddings, vectors.weights["shrink_emb.0.weight"], vectors.weights["shrink_emb.0.bias"])
        scale = (vectors.weights["shrink_emb.1.weight"], vectors.weights["shrink_emb.1.bias"])
        return F.layer_norm(shrunk, shrunk.shape[1:], *scale).unsqueeze(1).expand(-1, frames, -1)
    if kind == "interpolate":
        embeddings = F.interpolate(embeddings, size=frames, mode="nearest-exact")
    return embeddings.transpose(1, 2)


@torch.no_grad()
def test_the_detector_is_the_crnn(all_vectors, tmp_path):
    for vectors in all_vectors:
        detector = crnn(vectors, tmp_path)
        seen = {}
        detector.merge.register_forward_hook(lambda module, given, output: seen.update(cat_tf=output))  # noqa: B023
        detector.sequence.register_forward_hook(lambda module, given, output: seen.update(rnn=output))  # noqa: B023
        for case, embeddings in vectors.inputs("/embeddings").items():
            for features, given in (
                (
                    detector.encoders["cnn"].features(
                        detector.encoders["cnn"].spectrogram(vectors.inputs("/wave")[case])
                    ),
                    "",
                ),
                (vectors.output(f"{case}/x"), "_given_mel"),
            ):
                maps = detector.encoders["cnn"].encode(features)
                frames = maps.shape[1]
                both = {"cnn": maps, "given": matched(vectors, embeddings, frames)}
                prediction = detector(None, both, frames)
                vectors.check(f"{case}/cat_tf", seen["cat_tf"], given)
                vectors.check(f"{case}/rnn", seen["rnn"], given)
                vectors.check(f"{case}/strong", prediction.strong.transpose(1, 2), given)
                vectors.check(f"{case}/weak", prediction.weak, given)


@torch.no_grad()
def test_upstream_gives_padded_frames_an_even_vote_and_ours_none(all_vectors, tmp_path):
    for vectors in all_vectors:
        pooling = crnn(vectors, tmp_path).pooling
        for case, padding in vectors.inputs("/pad_mask").items():
            hidden, padding = vectors.output(f"{case}/rnn"), padding.transpose(1, 2)  # (batch, frames, 1)
            even = pooling.weak(hidden).masked_fill(padding, -1e30).softmax(-1).clamp(1e-7, 1)
            strong = pooling.strong(hidden).sigmoid()
            vectors.check(f"{case}/weak_with_pad_mask", (strong * even).sum(1) / even.sum(1))
            ours = pooling(hidden, ~padding.squeeze(2)).weak
            real = [pooling(clip[~mask.squeeze(1)][None]).weak for clip, mask in zip(hidden, padding, strict=True)]
            torch.testing.assert_close(ours, torch.cat(real))


@pytest.mark.parametrize("network", ["student", "teacher"])
def test_either_network_of_a_lightning_checkpoint_loads(all_vectors, tmp_path, network):
    vectors = all_vectors[0]
    other = {name: torch.randn_like(tensor.float()) for name, tensor in vectors.weights.items()}
    both = {network: vectors.weights, ({"student", "teacher"} - {network}).pop(): other}
    content = {f"sed_{name}": tensors for name, tensors in both.items()}
    content["state_dict"] = {f"sed_{n}.{name}": t for n, tensors in both.items() for name, t in tensors.items()}
    content |= {"epoch": 3, "hyper_parameters": {"net": {"activation": "cg"}, "opt": {"lr": 1e-3}}}
    path = tmp_path / "stage.ckpt"
    torch.save(content, path)
    encoder = built(vectors)
    encoder.load_official(path, network=network)
    official = vectors.weights["cnn.cnn.conv0.weight"]
    assert torch.equal(encoder.blocks[0].conv.weight, official)


def test_the_other_gate_and_other_sizes_are_refused(all_vectors, tmp_path):
    vectors = all_vectors[0]
    path = tmp_path / "crnn.pt"
    torch.save(vectors.weights, path)
    gate = {"cg": "glu", "glu": "cg"}[vectors.config["activation"]]
    channels, pooling = vectors.config["nb_filters"], vectors.config["pooling"]
    with pytest.raises(CheckpointError, match=r"unexpected: .*linear"):
        CNN(gate=gate, channels=channels, pooling=pooling).load_official(path)
    with pytest.raises(CheckpointError, match=r"of another shape: blocks\.0\.conv"):
        wider = [2 * count for count in channels]
        CNN(gate=vectors.config["activation"], channels=wider, pooling=pooling).load_official(path)


# Source: atst_desed.md §4.1, counted on the official modules
SYSTEMS = {"2021-2023": (10, None, 128, 1_112_420), "2023 BEATs": (10, 768, 128, 1_227_236)}
SYSTEMS["2024"] = (27, 768, 192, 1_785_094)
SYSTEMS |= {"cpjku 2024": (27, 768, 256, 2_842_246), "cpjku 2024, 527 classes": (27, 527, 256, 2_780_550)}


@pytest.mark.parametrize("system", SYSTEMS)
def test_crnn_has_as_many_parameters_as_published(system):
    classes, embedded, width, count = SYSTEMS[system]
    with torch.device("meta"):
        encoders = {"cnn": CNN(gate="glu")} | ({"given": Given(embedded)} if embedded else {})
        # CP-JKU joins into as many channels as its GRU has
        merge = None if embedded is None else 256 if system.startswith("cpjku") else 128
        sequence = {"name": "bigru", "width": width}
        detector = Detector(encoders, sequence, classes, frame_rate=15.625, pooling="attention", merge_dim=merge)
    assert sum(parameter.numel() for parameter in detector.parameters()) == count


def test_cnn_has_as_many_parameters_as_published():
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in CNN().parameters()) == 612_688


def test_published_norm_statistics_and_dropout_are_the_defaults():
    with torch.device("meta"):
        blocks = CNN().blocks
    assert {(block.norm.eps, block.norm.momentum, block.dropout.p) for block in blocks} == {(1e-3, 0.99, 0.5)}


@torch.no_grad()
def test_golden_sine():
    # atst_desed.md, appendix C: 0.5 sin(2π 1000 n / 16000), 10 s
    samples = torch.arange(160_000, dtype=torch.float64)
    waveform = (0.5 * torch.sin(2 * torch.pi * 1000 * samples / 16_000)).float().unsqueeze(0)
    encoder = CNN()
    magnitude = encoder.spectrogram(waveform)
    assert magnitude.shape == (1, 128, 626)
    assert magnitude[0, :, 313].argmax() == 44
    assert magnitude[0, 44, 313] == pytest.approx(297.428, abs=1e-3)
    assert encoder.features(magnitude).mean() == pytest.approx(0.025015, abs=1e-6)
    assert encoder(waveform).shape == (1, 157, 128)
