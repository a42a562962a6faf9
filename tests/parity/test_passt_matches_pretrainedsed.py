"""Frame-wise PaSST against fschmid56/PretrainedSED, from waveform to frames and scores."""

import pytest
import torch
from torch import nn
from vectors import find_vectors

from sedflow.encoders.passt import PaSST
from sedflow.pooling import Pooling, match_frames
from sedflow.weights import CheckpointError


@pytest.fixture(scope="module")
def all_vectors(golden_dir):
    return find_vectors(golden_dir, lambda about: about.get("model", "").startswith("frame-wise PaSST"))


def built(vectors):
    config = vectors.config
    return PaSST(
        dim=config["embed_dim"],
        depth=config["depth"],
        heads=config["num_heads"],
        mlp_ratio=config["mlp_ratio"],
        positions=config["pos_embed_length"],
    ).eval()


def loaded(vectors, folder):
    encoder = built(vectors)
    path = folder / f"{vectors.name}.pt"
    torch.save(vectors.weights, path)
    ignored = encoder.load_official(path)
    assert set(ignored) == {name for name in vectors.weights if not name.startswith("model.")}
    return encoder


def waveforms(vectors):
    """Stored inputs, and those that are several of them in a row."""
    found = vectors.inputs("/wave")
    for name, rule in vectors.about.get("derived_inputs", {}).items():
        parts = [word.removeprefix("in/").removesuffix("/wave") for word in rule.split() if word.startswith("in/")]
        assert rule.startswith("concatenation in time of ") and len(parts) > 1, rule
        found[name.removesuffix("/wave")] = torch.cat([found[part] for part in parts], dim=1)
    return found


@torch.no_grad()
def test_every_part_from_waveforms_and_from_the_recorded_mel(all_vectors, tmp_path):
    for vectors in all_vectors:
        encoder = loaded(vectors, tmp_path)
        parts = {"patch_embed": encoder.embedding.patches, "tokens_in": encoder.embedding}
        parts |= {f"block{number}": block for number, block in enumerate(encoder.blocks)}
        seen = {}
        encoder.embedding.patches.conv_in_3.register_forward_hook(
            # without the GELU that it is asked for
            lambda module, given, output: seen.update({"conv3_preact_first8ch": module.forward(*given)[:, :8]})  # noqa: B023
        )
        for name, module in parts.items():
            module.register_forward_hook(lambda module, given, output, name=name: seen.update({name: output}))  # noqa: B023
        for case, waveform in waveforms(vectors).items():
            mels = [(encoder.front_end(waveform), "")]
            if f"{case}/mel" in vectors.about["outputs"]:
                vectors.check(f"{case}/mel", mels[0][0].unsqueeze(1))
                mels.append((vectors.output(f"{case}/mel").squeeze(1), "_given_mel"))
            for mel, given in mels:
                vectors.check(f"{case}/frames", encoder.encode(mel), given)
                for name, output in seen.items():
                    if f"{case}/{name}" in vectors.about["outputs"]:
                        vectors.check(f"{case}/{name}", output, given)


@torch.no_grad()
def test_frames_are_the_official_tokens_up_to_the_table(all_vectors, tmp_path):
    for vectors in all_vectors:
        encoder = loaded(vectors, tmp_path)
        for case, waveform in waveforms(vectors).items():
            embeddings, official = encoder(waveform), vectors.output(f"{case}/frames")
            if embeddings.shape[1] <= encoder.positions:
                vectors.check(f"{case}/frames", embeddings)
            else:  # upstream cuts what lies behind the table
                assert official.shape[1] == encoder.positions


@torch.no_grad()
def test_scores(all_vectors, tmp_path):
    for vectors in all_vectors:
        encoder = loaded(vectors, tmp_path)
        heads = Pooling(encoder.dim, vectors.config["n_classes_strong"], "mean")
        for name, head in (("strong_head", heads.strong), ("weak_head", heads.weak)):
            head.load_state_dict({kind: vectors.weights[f"{name}.{kind}"] for kind in ("weight", "bias")})
        for case, waveform in waveforms(vectors).items():
            ways = [(encoder.tokens(waveform), "")]
            if f"{case}/mel" in vectors.about["outputs"]:
                ways.append((encoder.encode(vectors.output(f"{case}/mel").squeeze(1)), "_given_mel"))
            for tokens, given in ways:
                prediction = heads(match_frames(tokens, vectors.config["seq_len"]))
                vectors.check(f"{case}/strong_logits", prediction.strong_logits.transpose(1, 2), given)
                if f"{case}/weak_logits" in vectors.about["outputs"]:
                    vectors.check(f"{case}/weak_logits", prediction.weak.double().logit(), given)


@pytest.mark.parametrize("prefix", ["model.", "model.fpasst.", "", "student.as_model.model.fpasst."])
def test_every_prefix_loads(all_vectors, tmp_path, prefix):
    vectors = all_vectors[0]
    path = tmp_path / "renamed.pt"
    torch.save(
        {prefix + n.removeprefix("model.") if n.startswith("model.") else n: t for n, t in vectors.weights.items()},
        path,
    )
    encoder = built(vectors)
    encoder.load_official(path, network="student")
    reference = loaded(vectors, tmp_path).state_dict()
    assert all(torch.equal(reference[name], tensor) for name, tensor in encoder.state_dict().items())


def test_another_size_is_refused_by_name_and_shape(all_vectors, tmp_path):
    vectors = all_vectors[0]
    path = tmp_path / "passt.pt"
    torch.save(vectors.weights, path)
    with pytest.raises(CheckpointError, match=r"of another shape: .*time_new_pos_embed"):
        PaSST(
            dim=vectors.config["embed_dim"],
            depth=vectors.config["depth"],
            heads=vectors.config["num_heads"],
            positions=vectors.config["pos_embed_length"] + 1,
        ).load_official(path)


def test_passt_base_has_as_many_parameters_as_published():
    # cpjku_efficient.md §3: alone, and with two heads of 447 classes
    with torch.device("meta"):
        encoder = PaSST()
        heads = nn.ModuleList(nn.Linear(encoder.dim, 447) for _ in range(2))
    count = sum(parameter.numel() for parameter in encoder.parameters())
    assert count == 88_421_632
    assert count + sum(parameter.numel() for parameter in heads.parameters()) == 89_109_118
