"""BEATs against microsoft/unilm and fschmid56/PretrainedSED, from waveform to tokens, frames and classes."""

import argparse
import copy

import pytest
import torch
from torch import nn
from vectors import find_vectors

from sedflow.beats_layers import relative_bucket
from sedflow.checkpoints import identify
from sedflow.convert import convert
from sedflow.encoders.beats import _BASE, _SIZES, BEATs, token_padding
from sedflow.pooling import Pooling, match_frames
from sedflow.weights import CONVERTED, CheckpointError, read_checkpoint


@pytest.fixture(scope="module")
def microsoft(golden_dir):
    return find_vectors(golden_dir, lambda about: about.get("model") == "BEATs")


@pytest.fixture(scope="module")
def pretrained_sed(golden_dir):
    return find_vectors(golden_dir, lambda about: about.get("model", "").startswith("BEATs inside PretrainedSED"))


def built(vectors, **settings):
    sizes = {ours: vectors.config[official] for official, ours in _SIZES.items()}
    return BEATs(**sizes, cfg={name: vectors.config[name] for name in _BASE}, **settings).eval()


def file_of(vectors, folder, **changes):
    """The vectors' weights as the official loader wants them."""
    path = folder / f"{vectors.name}.pt"
    flat = vectors.about["checkpoint_format"].startswith("flat")
    torch.save(vectors.weights if flat else {"cfg": vectors.config | changes, "model": vectors.weights}, path)
    return path


def loaded(vectors, folder):
    encoder = built(vectors)
    ignored = encoder.load_official(file_of(vectors, folder))
    assert all(name.endswith("_head.weight") or name.endswith("_head.bias") or "predictor" in name for name in ignored)
    return encoder


def observed(encoder):
    """Outputs of the parts that the vectors record, filled in by the next forward pass."""
    parts = {"patch_ln": "layer_norm", "patch_proj": "post_extract_proj", "pos_conv": "pos_conv"}
    modules = {name: getattr(encoder.embedding, part) for name, part in parts.items()}
    modules["layer_in"] = encoder.embedding.encoder_layer_norm
    modules |= {f"layer{number}": block for number, block in enumerate(encoder.blocks)}
    seen = {}
    for name, module in modules.items():
        module.register_forward_hook(lambda module, given, output, name=name: seen.update({name: output}))
    return seen


def check_all(vectors, case, seen, given=""):
    for name, output in seen.items():
        if f"{case}/{name}" in vectors.about["outputs"]:
            vectors.check(f"{case}/{name}", output, given)


@torch.no_grad()
def test_every_part_from_waveforms_and_from_the_recorded_mel(microsoft, tmp_path):
    for vectors in microsoft:
        encoder = loaded(vectors, tmp_path)
        seen = observed(encoder)
        padding = vectors.inputs("/wave_padding_mask")
        for case, waveform in vectors.inputs("/wave").items():
            fbank = vectors.output(f"{case}/fbank")
            vectors.check(f"{case}/fbank", encoder.features(waveform))
            tokens = encoder.tokens(waveform, padding.get(case))
            check_all(vectors, case, seen | {"features": tokens})
            hidden = token_padding(padding[case], fbank.shape[1]) if case in padding else None
            tokens = encoder.encode(fbank, hidden)
            check_all(vectors, case, seen | {"features": tokens}, given="_given_mel")
            if hidden is not None:
                assert torch.equal(hidden, vectors.output(f"{case}/token_padding_mask"))


@torch.no_grad()
def test_padding_counts_as_audio_without_a_mask(microsoft, tmp_path):
    # "q_<what>_nomask" is the case "p_<what>" again, without its mask
    compared = 0
    for vectors in microsoft:
        waveforms = {case.partition("_")[2]: case for case in vectors.inputs("/wave")}
        encoder = loaded(vectors, tmp_path)
        for unmasked in [name for name in vectors.about["outputs"] if name.endswith("_nomask/features")]:
            case = waveforms[unmasked.partition("_")[2].removesuffix("_nomask/features")]
            vectors.check(unmasked, encoder.tokens(vectors.inputs("/wave")[case]))
            fbank = vectors.output(f"{case}/fbank")
            vectors.check(unmasked, encoder.encode(fbank), given="_given_mel")
            compared += 1
    assert compared


@torch.no_grad()
def test_classes_of_a_finetuned_file(microsoft, tmp_path):
    finetuned = [vectors for vectors in microsoft if vectors.config["finetuned_model"]]
    assert finetuned
    for vectors in finetuned:
        encoder = loaded(vectors, tmp_path)
        for case, waveform in vectors.inputs("/wave").items():
            vectors.check(f"{case}/probs", encoder.class_probabilities(waveform))
            tokens = encoder.encode(vectors.output(f"{case}/fbank"))
            logits = nn.functional.linear(tokens, encoder.predictor_weight, encoder.predictor_bias)
            vectors.check(f"{case}/probs", logits.mean(dim=1).sigmoid(), given="_given_mel")


def test_relative_positions_fall_into_the_official_buckets(microsoft):
    for vectors in microsoft:
        expected = vectors.output("relpos_bucket")
        reach = len(expected) // 2
        buckets = relative_bucket(
            torch.arange(-reach, reach + 1), vectors.config["num_buckets"], vectors.config["max_distance"]
        )
        assert torch.equal(buckets, expected)


def test_training_computes_what_evaluation_computes(microsoft, tmp_path):
    # the two differ in how they hold the attention mask and the weights of the position convolution
    for vectors in microsoft:
        encoder = loaded(vectors, tmp_path)
        last = f"layer{len(encoder.blocks) - 1}"
        for case, waveform in vectors.inputs("/wave").items():
            name = f"{case}/{last}" if f"{case}/{last}" in vectors.about["outputs"] else f"{case}/features"
            if case not in vectors.inputs("/wave_padding_mask"):
                vectors.check(name, encoder.tokens(waveform).detach())


@torch.no_grad()
def test_frames_and_scores_of_pretrained_sed(pretrained_sed, tmp_path):
    for vectors in pretrained_sed:
        encoder = loaded(vectors, tmp_path)
        heads = Pooling(encoder.dim, vectors.config["n_classes_strong"], "mean")
        for name, head in (("strong_head", heads.strong), ("weak_head", heads.weak)):
            head.load_state_dict({kind: vectors.weights[f"{name}.{kind}"] for kind in ("weight", "bias")})
        for case, waveform in vectors.inputs("/wave").items():
            mel = vectors.output(f"{case}/mel")
            vectors.check(f"{case}/mel", encoder.features(waveform).transpose(1, 2).unsqueeze(1))
            for tokens, given in (
                (encoder.tokens(waveform), ""),
                (encoder.encode(mel.squeeze(1).transpose(1, 2)), "_given_mel"),
            ):
                vectors.check(f"{case}/frames", tokens, given)
                matched = match_frames(tokens, vectors.config["seq_len"])
                if f"{case}/frames250" in vectors.about["outputs"]:
                    vectors.check(f"{case}/frames250", matched, given)
                prediction = heads(matched)
                vectors.check(f"{case}/strong_logits", prediction.strong_logits.transpose(1, 2), given)
                vectors.check(f"{case}/weak_logits", prediction.weak.double().logit(), given)
            # upstream stretches shorter clips to that many frames, ours do not
            ours = encoder(waveform)
            if f"{case}/frames250" in vectors.about["outputs"] and ours.shape[1] == vectors.config["seq_len"]:
                vectors.check(f"{case}/frames250", ours)


@torch.no_grad()
def test_both_spellings_of_weight_norm_and_every_prefix_load(microsoft, pretrained_sed, tmp_path):
    new = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
    for vectors in (microsoft[0], pretrained_sed[0]):
        reference = loaded(vectors, tmp_path).state_dict()
        stripped = {name.removeprefix("model.model."): tensor for name, tensor in vectors.weights.items()}
        for renamed in (new, {theirs: ours for ours, theirs in new.items()}):
            for prefix in ("", "model.model.", "model.beats.", "student.as_model.model.beats."):
                tensors = {}
                for name, tensor in stripped.items():
                    for old_name, new_name in renamed.items():
                        name = name.replace(f"pos_conv.0.{old_name}", f"pos_conv.0.{new_name}")
                    tensors[name if "_head." in name else prefix + name] = tensor
                path = tmp_path / "renamed.pt"
                torch.save(tensors, path)
                encoder = built(vectors)
                encoder.load_official(path, network="student")
                assert all(torch.equal(reference[name], tensor) for name, tensor in encoder.state_dict().items())


def test_a_file_of_another_configuration_is_refused_by_field(microsoft, tmp_path):
    for vectors in microsoft:
        heads, reach = vectors.config["encoder_attention_heads"], vectors.config["max_distance"]
        for changes, complaint in (
            ({"encoder_attention_heads": 2 * heads}, f"heads {2 * heads}, the encoder {heads}"),
            ({"max_distance": 2 * reach}, f"max_distance {2 * reach}"),
            ({"layer_norm_first": True}, "layer_norm_first True, the encoder False"),
        ):
            with pytest.raises(CheckpointError, match=complaint):
                built(vectors).load_official(file_of(vectors, tmp_path, **changes))
        # how a file was trained does not matter
        built(vectors).load_official(file_of(vectors, tmp_path, dropout=0.3, encoder_layerdrop=0.5))


def test_a_configuration_may_be_a_namespace_but_nothing_else(microsoft, tmp_path):
    path = tmp_path / "told.pt"
    for vectors in microsoft:
        told = argparse.Namespace(**vectors.config)
        torch.save({"cfg": told, "model": vectors.weights}, path)
        built(vectors).load_official(path)
        assert identify(path).encoders[0]["cfg"]["max_distance"] == vectors.config["max_distance"]
        told.max_distance += 1
        torch.save({"cfg": told, "model": vectors.weights}, path)
        with pytest.raises(CheckpointError, match="the file has max_distance"):
            built(vectors).load_official(path)
        torch.save({"cfg": "base", "model": vectors.weights}, path)
        for refusing in (built(vectors).load_official, identify):
            with pytest.raises(CheckpointError, match=r"told\.pt: its cfg is a str, not a table"):
                refusing(path)


def test_a_file_whose_patches_are_as_wide_as_its_tokens_has_no_projection(microsoft, tmp_path):
    path, out = tmp_path / "unprojected.pt", tmp_path / "out.safetensors"
    for vectors in microsoft:
        dim, weights = vectors.config["encoder_embed_dim"], dict(vectors.weights)
        for kind in ("weight", "bias"):
            del weights[f"post_extract_proj.{kind}"]
            weights[f"layer_norm.{kind}"] = torch.rand(dim)
        weights["patch_embedding.weight"] = torch.rand(dim, 1, 16, 16)
        torch.save({"cfg": vectors.config | {"embed_dim": dim}, "model": weights}, path)
        settings = identify(path).encoders[0]
        assert (settings["dim"], settings["cfg"]["embed_dim"]) == (dim, dim)
        BEATs(**{name: value for name, value in settings.items() if name != "name"}).load_official(path)
        convert(path, out)
        assert torch.equal(
            read_checkpoint(out)[f"{CONVERTED}embedding.patch_embedding.weight"],
            weights["patch_embedding.weight"].flatten(1),
        )


@pytest.mark.parametrize(
    ("gone", "complaint"),
    [
        ("encoder.layers.{last}.self_attn.k_proj.weight", r"missing: blocks\.{last}\.self_attn\.qkv\.weight"),
        ("layer_norm.weight", r"missing: embedding\.layer_norm\.weight"),
        ("patch_embedding.weight", "no tensor patch_embedding.weight"),
    ],
)
def test_a_file_without_a_tensor_is_refused(microsoft, tmp_path, gone, complaint):
    vectors = copy.deepcopy(microsoft[0])
    last = str(vectors.config["encoder_layers"] - 1)
    vectors.tensors.pop(f"w/{gone}".replace("{last}", last))
    with pytest.raises(CheckpointError, match=complaint.replace("{last}", last)):
        built(vectors).load_official(file_of(vectors, tmp_path))


@pytest.mark.parametrize("rows", [(0.5, 1.5, 1.0), (0.5, 1.0, 1.0)])
def test_queries_keys_and_values_of_other_shapes_are_refused(microsoft, tmp_path, rows):
    vectors = copy.deepcopy(microsoft[0])
    for letter, share in zip("qkv", rows, strict=True):  # as many rows together as there should be, or fewer
        name = f"w/encoder.layers.0.self_attn.{letter}_proj.weight"
        dim = vectors.config["encoder_embed_dim"]
        vectors.tensors[name] = torch.zeros(int(share * dim), dim)
    with pytest.raises(
        CheckpointError, match=r"blocks\.0\.self_attn\.qkv\.weight is made of parts of different shapes"
    ):
        built(vectors).load_official(file_of(vectors, tmp_path))


@torch.no_grad()
def test_a_classifier_follows_the_encoder_and_is_checked(microsoft, tmp_path):
    finetuned = [vectors for vectors in microsoft if vectors.config["finetuned_model"]]
    assert finetuned
    for vectors in finetuned:
        encoder = built(vectors).double()
        encoder.load_official(file_of(vectors, tmp_path))
        assert encoder.predictor_weight.dtype == encoder.predictor_bias.dtype == torch.float64
        assert encoder.class_probabilities(torch.randn(1, 16_000)).dtype == torch.float64
        for broken in (vectors.tensors["w/predictor.weight"][:, :-1], None):
            changed = copy.deepcopy(vectors)
            changed.tensors.pop("w/predictor.weight")
            if broken is not None:
                changed.tensors["w/predictor.weight"] = broken
            with pytest.raises(CheckpointError, match="its classifier has"):
                built(vectors).load_official(file_of(changed, tmp_path))


@pytest.mark.parametrize("part", ["predictor.weight", "encoder.layers.0.self_attn.q_proj.weight"])
def test_a_file_with_a_quantised_layer_is_refused(microsoft, tmp_path, part):
    vectors = copy.deepcopy(next(vectors for vectors in microsoft if vectors.config["finetuned_model"]))
    vectors.tensors[f"w/{part}"] = (100 * vectors.tensors[f"w/{part}"]).to(torch.int8)
    with pytest.raises(CheckpointError, match=r"quantised"):
        built(vectors).load_official(file_of(vectors, tmp_path))


def test_blocks_with_tables_of_their_own_are_refused(microsoft, tmp_path):
    vectors = copy.deepcopy(microsoft[0])
    name = "w/encoder.layers.{}.self_attn.relative_attention_bias.weight"
    other = max(1, vectors.config["encoder_layers"] - 1)
    vectors.tensors[name.format(other)] = vectors.tensors[name.format(0)] + 1
    with pytest.raises(CheckpointError, match="published BEATs share one table"):
        built(vectors).load_official(file_of(vectors, tmp_path))


def test_beats_base_has_as_many_parameters_as_published():
    # cpjku_efficient.md §3: alone, and with two heads of 447 classes
    with torch.device("meta"):
        encoder = BEATs()
        heads = nn.ModuleList(nn.Linear(encoder.dim, 447) for _ in range(2))
    count = sum(parameter.numel() for parameter in encoder.parameters())
    assert count == 90_311_792
    assert count + sum(parameter.numel() for parameter in heads.parameters()) == 90_999_278


@torch.no_grad()
def test_golden_sine():
    # atst_desed.md, appendix C: 0.5 sin(2π 1000 n / 16000), 10 s
    samples = torch.arange(160_000, dtype=torch.float64)
    waveform = (0.5 * torch.sin(2 * torch.pi * 1000 * samples / 16_000)).float().unsqueeze(0)
    encoder = BEATs(dim=32, depth=1, heads=2)
    energies = encoder.filter_bank(waveform)
    assert energies.shape == (1, 998, 128)
    assert energies[0, 499].argmax() == 43
    assert energies[0, 499, 43] == pytest.approx(26.5168, abs=1e-4)
    features = encoder.features(waveform)
    assert features[0, 499, 43] == pytest.approx(0.8466, abs=1e-4)
    assert features.mean() == pytest.approx(-0.68725, abs=2e-4)  # hangs on rounding noise between the harmonics
    assert encoder.tokens(waveform).shape == (1, 496, 32)
