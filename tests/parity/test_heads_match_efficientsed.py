"""Sequence heads against theMoro/EfficientSED: the sequence, frame logits and clip scores of whole checkpoints."""

import pytest
import torch
from torch import nn
from vectors import find_vectors

from sedflow.encoders.mobilenet import MobileNet
from sedflow.official import part_of
from sedflow.pooling import Pooling, match_frames
from sedflow.sequence.attention import Attention
from sedflow.sequence.bigru import BiGRU
from sedflow.sequence.hybrid import Hybrid
from sedflow.sequence.mamba import Mamba
from sedflow.sequence.tcn import TCN
from sedflow.sequence.transformer import Transformer

# upstream's own limit for 4 instead of 8 heads; ours is a setting
NARROW = 128


def bigru(dim, config):
    return BiGRU(dim, width=config["seq_model_dim"], layers=config["seq_model_layers"])


def transformer(dim, config):
    heads = config.get("tf_heads", 4 if config["seq_model_dim"] < NARROW else 8)
    return Transformer(dim, width=config["seq_model_dim"], layers=config["seq_model_layers"], heads=heads)


def attention(dim, config):
    heads = config.get("attn_heads", 8)
    return Attention(dim, width=config["seq_model_dim"], layers=config["seq_model_layers"], heads=heads)


def tcn(dim, config):
    sizes = {"blocks": config.get("tcn_blocks", 5), "kernel": config.get("tcn_kernel_size", 3)}
    return TCN(dim, width=config["seq_model_dim"], layers=config["seq_model_layers"], **sizes)


def mamba(dim, config):
    names = {"state": "mamba_d_state", "kernel": "d_conv", "expand": "expand", "head_dim": "headdim"}
    sizes = {ours: config[theirs] for ours, theirs in names.items() if theirs in config}
    return Mamba(dim, width=config["seq_model_dim"], layers=config["seq_model_layers"], **sizes)


def hybrid(dim, config):
    sizes = {"heads": config.get("hybrid_heads", 8), "expand": config.get("hybrid_ff_mult", 4)}
    return Hybrid(dim, width=config["seq_model_dim"], layers=config["seq_model_layers"], **sizes)


def no_head(dim, config):
    head = nn.Identity()
    head.dim, head.load_official = dim, lambda tensors: None
    return head


HEADS = {
    "gru": bigru,
    "tf": transformer,
    "attn": attention,
    "tcn": tcn,
    "mamba": mamba,
    "hybrid": hybrid,
    None: no_head,
}


@pytest.fixture(scope="module", params=HEADS)
def all_vectors(request, golden_dir):
    def wanted(about):
        config = about.get("config", {})
        return "width_mult" in config and config["seq_model_type"] == request.param

    return find_vectors(golden_dir, wanted)


def loaded(vectors):
    """Head and readings with the weights of the vectors."""
    config = vectors.config
    head = HEADS[config["seq_model_type"]](config["embed_dim"], config)
    head.load_official(part_of(vectors.weights, "seq_model"))
    kind = {"linear": "mean", "attention": "attention"}[config["head_type"]]
    pooling = Pooling(head.dim, config["n_classes_strong"], kind)
    pooling.strong.load_state_dict(part_of(vectors.weights, "strong_head"))
    pooling.weak.load_state_dict(part_of(vectors.weights, "weak_head"))
    return head.eval(), pooling.eval()


def check(vectors, case, frames, given=""):
    head, pooling = loaded(vectors)
    sequence = head(match_frames(frames, vectors.config["seq_len"]))
    if f"{case}/seq_out" in vectors.about["outputs"]:
        vectors.check(f"{case}/seq_out", sequence, given)
    prediction = pooling(sequence)
    strong, weak = prediction.strong, prediction.weak
    if vectors.config["head_type"] == "linear":  # recorded before the sigmoid
        strong, weak = prediction.strong_logits, pooling.weak(sequence.mean(dim=1))
        torch.testing.assert_close(prediction.weak, weak.sigmoid())
    vectors.check(f"{case}/strong_logits", strong.transpose(1, 2), given)
    vectors.check(f"{case}/weak_logits", weak, given)


@torch.no_grad()
def test_from_recorded_embeddings(all_vectors):
    assert all(vectors.inputs("/wave") | vectors.inputs("_in_frames") for vectors in all_vectors)
    for vectors in all_vectors:
        for case in vectors.inputs("/wave"):
            check(vectors, case, vectors.output(f"{case}/frames"), "_given_mel")
        for case, frames in vectors.inputs("_in_frames").items():
            check(vectors, case, frames, "_given_mel")
            check(vectors, case, frames)


@torch.no_grad()
def test_from_waveforms(all_vectors, tmp_path):
    assert all(vectors.inputs("/wave") for vectors in all_vectors)
    for vectors in all_vectors:
        encoder = MobileNet(width=vectors.config["width_mult"]).eval()
        encoder.load_official(vectors.save_weights(tmp_path))
        for case, waveform in vectors.inputs("/wave").items():
            check(vectors, case, encoder(waveform))
            check(vectors, case, encoder.embed(vectors.output(f"{case}/mel").squeeze(1)), "_given_mel")


# head → width of the embeddings, width of the head → parameters; Source: cpjku_efficient.md §2.1
PARAMETERS = {
    "tf": {
        (960, 128): 520_224,
        (960, 256): 1_826_864,
        (960, 512): 6_799_440,
        (960, 1024): 26_181_776,
        (384, 104): 302_050,
        (576, 160): 711_716,
        (1920, 512): 7_290_960,
        (2880, 768): 16_392_304,
    },
    "gru": {
        (960, 128): 1_133_568,
        (960, 256): 3_053_568,
        (960, 512): 9_252_864,
        (960, 1024): 31_088_640,
        (384, 104): 501_696,
        (576, 160): 1_171_200,
        (1920, 512): 12_201_984,
        (2880, 768): 27_445_248,
    },
    "hybrid": {
        (960, 128): 714_816,
        (960, 256): 2_609_280,
        (960, 512): 9_937_152,
        (960, 1024): 38_748_672,
        (384, 104): 431_028,
        (576, 160): 1_016_400,
        (1920, 512): 10_428_672,
        (2880, 768): 23_458_176,
    },
    "attn": {(960, 128): 256_416, (960, 256): 774_960, (960, 512): 2_598_480, (960, 1024): 9_391_248},
    "tcn": {(960, 128): 1_111_168, (960, 256): 4_188_416, (960, 512): 16_241_152, (960, 1024): 63_939_584},
    "mamba": {(960, 128): 358_320, (960, 256): 1_108_784, (960, 512): 3_797_600, (960, 1024): 13_918_400},
}


@pytest.mark.parametrize(("kind", "sizes"), [(kind, sizes) for kind, counts in PARAMETERS.items() for sizes in counts])
def test_parameter_counts_are_the_published_ones(kind, sizes):
    dim, width = sizes
    with torch.device("meta"):
        head = HEADS[kind](dim, {"seq_model_dim": width, "seq_model_layers": 2})
    assert sum(parameter.numel() for parameter in head.parameters()) == PARAMETERS[kind][sizes]
    assert head.dim == (2 * width if kind == "gru" else width)
