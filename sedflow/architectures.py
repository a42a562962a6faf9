"""Settings of encoders and sequence heads, read off the names and shapes of official tensors."""

from __future__ import annotations

import re

from sedflow.official import part_of

# heads of the published vision transformers by width: the tensors do not tell
_HEADS = {384: 6, 768: 12}
_WIDTHS = [tenth / 10 for tenth in range(1, 61)]  # of MobileNets


class MisfitError(ValueError):
    """A tensor that tells a size is missing or has another shape than it should."""


def _shape(tensors: dict, name: str, axes: int) -> tuple:
    """Shape of the tensor whose name ends so; of several the one of the shortest name, then the first by letter."""
    matches = [full for full in tensors if full == name or full.endswith("." + name)]
    if not matches:
        raise MisfitError(f"it has no tensor {name}")
    found = tensors[min(matches, key=lambda full: (len(full), full))]
    if found.ndim != axes or 0 in found.shape:
        raise MisfitError(f"its {name} is {tuple(found.shape)}, which should have {axes} axes")
    return tuple(found.shape)


def _count(tensors: dict, pattern: str) -> int:
    """One more than the highest number that ``pattern`` finds in the tensors' names."""
    numbers = [int(found[1]) for name in tensors if (found := re.search(pattern, name))]
    if not numbers:
        raise MisfitError(f"it has no tensor named like {pattern}")
    return 1 + max(numbers)


def beats(tensors: dict, cfg: dict) -> dict:
    """Settings of BEATs: all but the largest distance are in the shapes, and that is in Microsoft's files."""
    inner, dim = _shape(tensors, "encoder.layers.0.fc1.weight", 2)
    embedded = _shape(tensors, "patch_embedding.weight", 4)[0]
    if embedded != dim:
        _shape(tensors, "post_extract_proj.weight", 2)
    buckets, heads = _shape(tensors, "relative_attention_bias.weight", 2)
    new = any(name.endswith("weight.original1") for name in tensors)
    taps = _shape(tensors, "weight.original1" if new else "pos_conv.0.weight_v", 3)
    shapes = {
        "embed_dim": embedded,
        "encoder_ffn_embed_dim": inner,
        "conv_pos": taps[2],
        "conv_pos_groups": dim // taps[1],
        "num_buckets": buckets,
    }
    distance = {name: value for name, value in cfg.items() if name == "max_distance"}
    return {"dim": dim, "depth": _count(tensors, r"^encoder\.layers\.(\d+)"), "heads": heads, "cfg": shapes | distance}


def atst(tensors: dict, cfg: dict) -> dict:
    """Settings of ATST-Frame; heads None where they cannot be known."""
    dim, _ = _shape(tensors, "patch_embed.patch_embed.weight", 2)
    return _vision_transformer(tensors, dim) | {"positions": _shape(tensors, "pos_embed", 3)[1] - 1}


def passt(tensors: dict, cfg: dict) -> dict:
    """Settings of frame-wise PaSST; heads None where they cannot be known."""
    (dim,) = _shape(tensors, "blocks.0.norm1.weight", 1)
    return _vision_transformer(tensors, dim) | {"positions": _shape(tensors, "time_new_pos_embed", 4)[3]}


def _vision_transformer(tensors: dict, dim: int) -> dict:
    hidden, _ = _shape(tensors, "blocks.0.mlp.fc1.weight", 2)
    depth = _count(tensors, r"^blocks\.(\d+)")
    return {"dim": dim, "depth": depth, "heads": _HEADS.get(dim), "mlp_ratio": hidden / dim}


def cnn(tensors: dict, cfg: dict) -> dict:
    """Settings of the DCASE CNN; its pooling is taken as published."""
    depth = _count(tensors, r"^conv(\d+)")
    gate = "glu" if any(name.startswith("glu") for name in tensors) else "cg"
    return {"gate": gate, "channels": [_shape(tensors, f"conv{layer}.weight", 4)[0] for layer in range(depth)]}


def mobilenet(tensors: dict) -> dict | None:
    """Settings of a MobileNet: the width whose channels are those of the file, or None if there is none in it.

    EfficientAT's files have a ``classifier``, those of fmn have heads.
    """
    features = part_of(tensors, "features")
    if "0.0.weight" not in features:
        return None
    from sedflow.encoders.mobilenet import channels_of

    ends = [_shape(features, f"{layer}.0.weight", 4)[0] for layer in (0, 16)]
    widths = [width for width in _WIDTHS if [channels_of(16 * width), 6 * channels_of(160 * width)] == ends]
    if not widths:
        raise MisfitError(f"a MobileNet with {ends} channels at its ends matches no width of 0.1, 0.2 … 6")
    published = part_of(tensors, "classifier")
    own = {"front_end": "efficientat", "strides": "dilated"} if published else {}
    return {"width": widths[0], **own}


def sequence(tensors: dict) -> dict | None:
    """Settings of the sequence head, or None if there is none in the file."""
    own = part_of(tensors, "seq_model")
    if not own:
        own = {name.partition("rnn.rnn.")[2]: tensor for name, tensor in tensors.items() if "rnn.rnn." in name}
    if not own:
        return None
    recurrent = next((name for name in own if name.endswith("weight_hh_l0")), None)
    if recurrent is not None:
        width, layers = _shape(own, recurrent, 2)[1], _count(own, r"weight_hh_l(\d+)$")
        return {"name": "bigru", "width": width, "layers": layers}
    return _stacked(own)


def _stacked(tensors: dict) -> dict:
    """A head of EfficientSED's: layers behind an optional projection."""
    layers = _count(tensors, r"(?:^|\.)layers\.(\d+)\.")
    endings = {".".join(name.split(".")[-2:]) for name in tensors} | {name.split(".")[-1] for name in tensors}
    if "conv1.weight_v" in endings:
        width, _, kernel = _shape(tensors, "conv1.weight_v", 3)
        sizes = {"blocks": _count(tensors, r"network\.(\d+)\.conv1"), "kernel": kernel}
        return {"name": "tcn", "width": width, "layers": layers, **sizes}
    if "A_log" in endings:
        width, inner = _shape(tensors, "out_proj.weight", 2)
        conved, _, kernel = _shape(tensors, "conv1d.weight", 3)
        sizes = {"state": (conved - inner) // 2, "kernel": kernel, "expand": inner // width}
        head_dim = inner // _shape(tensors, "A_log", 1)[0]
        return {"name": "mamba", "width": width, "layers": layers, **sizes, "head_dim": head_dim}
    width = _shape(tensors, "to_qkv.weight", 2)[1]
    if "attn_out_norm.gamma" in endings:
        heads = width // _shape(tensors, "attn_out_norm.gamma", 1)[0]
        return {"name": "hybrid", "width": width, "layers": layers, "heads": heads}
    heads = _shape(tensors, "to_gates.bias", 1)[0]
    name = "transformer" if any(".net." in name for name in tensors) else "attention"
    return {"name": name, "width": width, "layers": layers, "heads": heads}
