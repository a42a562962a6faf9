"""What a checkpoint is, read off the names and shapes of its tensors; nothing in it is run.

`identify` says it of every file that an encoder of ours loads, and of our own; `sedflow inspect` prints it, and
`sedflow convert` builds from it.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from sedflow.official import module_tensors
from sedflow.weights import CheckpointError, part_of, read_checkpoint

_HEAD_WIDTH = 64  # of the published vision transformers; the number of heads is not in the tensors
_WIDTHS = [tenth / 10 for tenth in range(1, 61)]  # of MobileNets

CPJKU = "CP-JKU DCASE 2024"

_FRONT_ENDS = {
    "beats": "16 kHz, 128 Kaldi mel bands every 10 ms",
    "atst": "16 kHz, 64 mel bands (60–7800 Hz) every 10 ms, decibels",
    "passt": "16 kHz, 128 Kaldi mel bands every 10 ms",
    "fmn": "16 kHz, 128 Kaldi mel bands every 10 ms",
    "efficientat": "32 kHz, 128 Kaldi mel bands every 10 ms",
    "cnn": "16 kHz, 128 mel bands every 16 ms, decibels scaled by clip",
}


@dataclasses.dataclass(frozen=True)
class Contents:
    """What a checkpoint holds.

    ``encoders`` and ``sequence`` are settings as on a page; ``prefix`` precedes the names of the network around them;
    ``networks`` is empty where the file holds one network without a role.
    """

    system: str
    stage: str
    networks: list[str]
    encoders: list[dict]
    sequence: dict | None
    classes: dict[str, int]
    front_ends: list[str]
    parameters: int


def identify(path: str | Path) -> Contents:
    """Say what an official checkpoint is.

    Raises
    ------
    CheckpointError    unreadable, or none of the encoders' files
    """
    content = read_checkpoint(path)
    flat = _flat(content)
    networks = [name for name in ("student", "teacher") if any(re.match(rf"(sed_)?{name}\.", key) for key in flat)]
    found = {}
    for name, (anchor, settings) in _TRANSFORMERS.items():
        if any(key == anchor or key.endswith("." + anchor) for key in flat):
            found[name] = {"name": name, **settings(_of_encoder(content, anchor, path), content)}
    mobilenet = _mobilenet(flat)
    if mobilenet:
        found["mobilenet"] = {"name": "mobilenet", **mobilenet}
    for name in found.keys() & {"atst", "passt"} if "cnn" in found else ():
        found[name] |= {"projection": width} if (width := _projection(flat)) else {}
    if not found:
        raise CheckpointError(
            f"{path}: {len(flat)} tensors ({', '.join(sorted(flat)[:4])} …), of none of the encoders "
            f"{', '.join([*_TRANSFORMERS, 'mobilenet'])}"
        )
    system, stage = _origin(flat, found, content)
    return Contents(
        system=system,
        stage=stage,
        networks=networks,
        encoders=[found[name] for name in sorted(found, key=["cnn"].count, reverse=True)],
        sequence=_sequence(flat),
        classes=_classes(flat),
        front_ends=[
            _FRONT_ENDS[spec.get("front_end", "fmn") if name == "mobilenet" else name] for name, spec in found.items()
        ],
        parameters=_parameters(_one_network(flat, networks)),
    )


def _flat(content: dict) -> dict:
    """Tensors by name: those under ``state_dict`` and ``model`` without the wrapper's name, each once."""
    import torch

    inner = next((content[key] for key in ("state_dict", "model") if isinstance(content.get(key), dict)), content)
    tensors = {name: value for name, value in inner.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        for name, part in content.items():
            if isinstance(part, dict):
                tensors |= {f"{name}.{key}": value for key, value in part.items() if isinstance(value, torch.Tensor)}
    return tensors


def _one_network(flat: dict, networks: list[str]) -> dict:
    """Tensors of the last of the networks: student and teacher are as large."""
    if not networks:
        return flat
    return {name: tensor for name, tensor in flat.items() if re.match(rf"(sed_)?{networks[-1]}\.", name)}


def _parameters(tensors: dict) -> int:
    """Numbers in the tensors, without statistics and without the second name that files of TCNs have for each layer."""
    twins = any(name.endswith(".conv1.weight_v") for name in tensors)
    counted = [
        tensor.numel()
        for name, tensor in tensors.items()
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked", "total_ops", "total_params"))
        and not (twins and ".net." in name)
    ]
    return sum(counted)


def _of_encoder(content: dict, anchor: str, path) -> dict:
    for network in ("teacher", "student"):
        try:
            without = ("encoder.encoder.teacher_module.",)
            return module_tensors(content, anchor, path, network=network, without=without)[0]
        except CheckpointError as error:
            last = error
    raise last


def _depth(tensors: dict, pattern: str) -> int:
    return 1 + max(int(found[1]) for name in tensors if (found := re.match(pattern, name)))


def _heads(dim: int) -> int:
    return max(1, dim // _HEAD_WIDTH)


def _beats(tensors: dict, content: dict) -> dict:
    dim, embedded = tensors["post_extract_proj.weight"].shape
    bias = next(tensor for name, tensor in tensors.items() if name.endswith("relative_attention_bias.weight"))
    taps = next(tensor for name, tensor in tensors.items() if name.endswith(("weight_v", "weight.original1")))
    shapes = {
        "embed_dim": embedded,
        "encoder_ffn_embed_dim": tensors["encoder.layers.0.fc1.weight"].shape[0],
        "conv_pos": taps.shape[2],
        "conv_pos_groups": dim // taps.shape[1],
        "num_buckets": bias.shape[0],
    }
    told = {name: value for name, value in (content.get("cfg") or {}).items() if name == "max_distance"}
    sizes = {"dim": dim, "depth": _depth(tensors, r"encoder\.layers\.(\d+)"), "heads": bias.shape[1]}
    return {**sizes, "cfg": shapes | told}


def _atst(tensors: dict, content: dict) -> dict:
    dim = tensors["patch_embed.patch_embed.weight"].shape[0]
    ratio = tensors["blocks.0.mlp.fc1.weight"].shape[0] / dim
    sizes = {"dim": dim, "depth": _depth(tensors, r"blocks\.(\d+)"), "heads": _heads(dim), "mlp_ratio": ratio}
    return sizes | {"positions": tensors["pos_embed"].shape[1] - 1}


def _passt(tensors: dict, content: dict) -> dict:
    dim = tensors["blocks.0.norm1.weight"].shape[0]
    ratio = tensors["blocks.0.mlp.fc1.weight"].shape[0] / dim
    sizes = {"dim": dim, "depth": _depth(tensors, r"blocks\.(\d+)"), "heads": _heads(dim), "mlp_ratio": ratio}
    return sizes | {"positions": tensors["time_new_pos_embed"].shape[-1]}


def _cnn(tensors: dict, content: dict) -> dict:
    depth = _depth(tensors, r"conv(\d+)")
    gate = "glu" if any(name.startswith("glu") for name in tensors) else "cg"
    return {"gate": gate, "channels": [tensors[f"conv{layer}.weight"].shape[0] for layer in range(depth)]}


_TRANSFORMERS = {
    "beats": ("patch_embedding.weight", _beats),
    "atst": ("patch_embed.patch_embed.weight", _atst),
    "passt": ("conv_in_1.weight", _passt),
    "cnn": ("conv0.weight", _cnn),
}


def _mobilenet(flat: dict) -> dict | None:
    """The width whose channels are those of the file; EfficientAT's files have a ``classifier``, fmn's have heads."""
    features = part_of(flat, "features")
    if "0.0.weight" not in features:
        return None
    from sedflow.encoders.mobilenet import channels_of

    ends = [features[f"{layer}.0.weight"].shape[0] for layer in (0, 16) if f"{layer}.0.weight" in features]
    widths = [width for width in _WIDTHS if [channels_of(16 * width), 6 * channels_of(160 * width)] == ends]
    if not widths:
        raise CheckpointError(f"a MobileNet of {ends} channels at its ends is of no width in 0.1, 0.2 … 6")
    published = any(name.startswith("classifier.") for name in flat)
    own = {"front_end": "efficientat", "strides": "dilated"} if published else {}
    return {"width": widths[0], **own}


def _projection(flat: dict) -> int | None:
    """Width of CP-JKU's layer between transformer and CRNN."""
    return next((tensor.shape[0] for name, tensor in flat.items() if name.endswith("head_linear_layer.weight")), None)


def _sequence(flat: dict) -> dict | None:
    """Settings of the sequence head, or None."""
    tensors = part_of(flat, "seq_model")
    if not tensors:
        tensors = {name.partition("rnn.rnn.")[2]: tensor for name, tensor in flat.items() if "rnn.rnn." in name}
    if not tensors:
        return None
    recurrent = next((t for name, t in tensors.items() if name.endswith("weight_hh_l0")), None)
    if recurrent is not None:
        layers = 1 + max(int(found[1]) for name in tensors if (found := re.search(r"weight_hh_l(\d+)$", name)))
        return {"name": "bigru", "width": recurrent.shape[1], "layers": layers}
    return _stacked(tensors)


def _stacked(tensors: dict) -> dict:
    """A head of EfficientSED's: layers behind an optional projection."""
    layers = 1 + max(int(found[1]) for name in tensors if (found := re.search(r"(?:^|\.)layers\.(\d+)\.", name)))

    def first(ending):
        return next((tensor for name, tensor in tensors.items() if name.endswith(ending)), None)

    if (convolution := first("conv1.weight_v")) is not None:
        blocks = 1 + max(int(found[1]) for name in tensors if (found := re.search(r"network\.(\d+)\.conv1", name)))
        sizes = {"blocks": blocks, "kernel": convolution.shape[2]}
        return {"name": "tcn", "width": convolution.shape[0], "layers": layers, **sizes}
    if (decay := first("A_log")) is not None:
        inner, width = first("out_proj.weight").shape[::-1]
        kernel, conved = first("conv1d.weight").shape[2], first("conv1d.weight").shape[0]
        sizes = {"state": (conved - inner) // 2, "kernel": kernel, "expand": inner // width}
        return {"name": "mamba", "width": width, "layers": layers, **sizes, "head_dim": inner // len(decay)}
    width = first("to_qkv.weight").shape[1]
    if (norm := first("attn_out_norm.gamma")) is not None:
        return {"name": "hybrid", "width": width, "layers": layers, "heads": width // len(norm)}
    heads = len(first("to_gates.bias"))
    name = "transformer" if any(".net." in name for name in tensors) else "attention"
    return {"name": name, "width": width, "layers": layers, "heads": heads}


_READINGS = {"strong": ("strong_head.weight", "dense.weight"), "weak": ("weak_head.weight", "dense_softmax.weight")}


def _classes(flat: dict) -> dict[str, int]:
    """Classes of each linear reading in the file."""
    found = {}
    for kind, names in {**_READINGS, "clip": ("predictor.weight", "classifier.5.weight")}.items():
        for name, tensor in flat.items():
            if name in names or name.endswith(tuple("." + ending for ending in names)):
                found[kind] = tensor.shape[0]
    return found


def _origin(flat: dict, found: dict, content: dict) -> tuple[str, str]:
    """System and stage, by what stands around the encoder."""
    if "cnn" in found:
        if "beats" in found or _projection(flat):
            return CPJKU, "CRNN with encoder"
        if "atst" in found or "passt" in found:
            return "ATST-SED", "CRNN with encoder"
        return "DCASE Task 4 baseline", "CRNN on embeddings" if any("cat_tf" in n for n in flat) else "CRNN"
    if "strong_head.weight" in flat or any(name.endswith(".strong_head.weight") for name in flat):
        system = "EfficientSED" if "mobilenet" in found else "PretrainedSED"
        return system, "frame labels"
    if "mobilenet" in found:
        return "EfficientAT", "clip labels"
    if "beats" in found:
        return "BEATs (Microsoft)", "fine-tuned on clip labels" if "predictor.weight" in flat else "self-supervised"
    if "atst" in found:
        return "ATST-Frame", "fine-tuned" if any("encoder.encoder." in name for name in flat) else "self-supervised"
    return "frame-wise PaSST", "clip labels"
