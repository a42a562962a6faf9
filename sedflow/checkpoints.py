"""What a checkpoint is, read off the names and shapes of its tensors, without executing anything in it.

`identify` describes every file that one of our encoders loads; `sedflow inspect` prints the description, `sedflow
convert` builds from it.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from sedflow import architectures
from sedflow.encoders.mobilenet import check_named_front_end
from sedflow.official import configuration, module_tensors, part_or_refusal, role_of, unwrapped
from sedflow.weights import CheckpointError, read_checkpoint

CPJKU = "CP-JKU DCASE 2024"

_FRONT_ENDS = {
    "beats": "16 kHz, 128 Kaldi mel bands every 10 ms",
    "atst": "16 kHz, 64 mel bands (60–7800 Hz) every 10 ms, decibels",
    "passt": "16 kHz, 128 Kaldi mel bands every 10 ms",
    "fmn": "16 kHz, 128 Kaldi mel bands every 10 ms",
    "efficientat": "32 kHz, 128 Kaldi mel bands every 10 ms",
    "cnn": "16 kHz, 128 mel bands every 16 ms, decibels scaled by clip",
}
# a tensor that each encoder certainly has, and how its settings are read off
_TRANSFORMERS = {
    "beats": ("patch_embedding.weight", architectures.beats),
    "atst": ("patch_embed.patch_embed.weight", architectures.atst),
    "passt": ("conv_in_1.weight", architectures.passt),
    "cnn": ("conv0.weight", architectures.cnn),
}
# how CP-JKU reads its encoders: BEATs token by token
_CPJKU_READS = {"cnn": {"scale": "symmetric"}, "beats": {"frame_rate": 49.6}}
_READINGS = {
    "strong": ("strong_head.weight", "dense.weight"),
    "weak": ("weak_head.weight", "dense_softmax.weight"),
    "clip": ("predictor.weight", "classifier.5.weight"),
}
# what is no parameter: statistics, and what a profiler left behind
STATISTICS = ("running_mean", "running_var", "num_batches_tracked", "total_ops", "total_params")


@dataclasses.dataclass(frozen=True)
class Contents:
    """What a checkpoint holds.

    ``encoders`` and ``sequence`` are settings as on a page; ``networks`` is empty where the file holds one network
    without a role; ``parameters`` are those of one network. ``assumed`` lists what the tensors do not show: a setting
    that is None is unknown.
    """

    system: str
    stage: str
    networks: list[str]
    encoders: list[dict]
    sequence: dict | None
    classes: dict[str, int]
    front_ends: list[str]
    parameters: int
    assumed: list[str]


def identify(path: str | Path) -> Contents:
    """Say what an official checkpoint is.

    Raises
    ------
    CheckpointError    unreadable, damaged, or none of the encoders' files
    """
    content = read_checkpoint(path)
    try:
        return _identified(content, path)
    except architectures.MisfitError as error:
        raise CheckpointError(f"{path}: {error}; is it damaged or from another network? Fetch it again") from error


def _identified(content: dict, path: str | Path) -> Contents:
    flat = unwrapped(content)
    found = _encoders(content, flat, path)
    if not found:
        part_or_refusal(flat, "features", path)  # a MobileNet behind an unknown prefix
        raise CheckpointError(
            f"{path}: {len(flat)} tensors ({', '.join(sorted(flat)[:4])} …); they match none of the encoders "
            f"{', '.join([*_TRANSFORMERS, 'mobilenet'])}"
        )
    roles = {role_of(name) for name in flat}
    networks = [name for name in ("student", "teacher") if name in roles]
    system, stage = _origin(flat, found)
    if system == CPJKU:
        found = {name: spec | _CPJKU_READS.get(name, {}) for name, spec in found.items()}
    classes = _classes(flat)
    return Contents(
        system=system,
        stage=stage,
        networks=networks,
        encoders=[found[name] for name in sorted(found, key=lambda name: name != "cnn")],
        sequence=architectures.sequence(flat),
        classes=classes,
        front_ends=[
            _FRONT_ENDS[spec.get("front_end", "fmn") if name == "mobilenet" else name] for name, spec in found.items()
        ],
        parameters=_parameters(_counted(content, flat, networks, found, path)),
        assumed=_assumed(found, classes),
    )


def _encoders(content: dict, flat: dict, path) -> dict[str, dict]:
    found = {}
    for name, (anchor, settings) in _TRANSFORMERS.items():
        if any(key == anchor or key.endswith("." + anchor) for key in flat):
            cfg = configuration(content, path) if name == "beats" else {}
            found[name] = {"name": name, **settings(_of_encoder(content, anchor, path), cfg)}
    if mobilenet := architectures.mobilenet(flat):
        found["mobilenet"] = {"name": "mobilenet", **mobilenet}
        if "front_end" in mobilenet:
            check_named_front_end(path)
    for name in found.keys() & {"atst", "passt"} if "cnn" in found else ():
        found[name] |= {"projection": width} if (width := _projection(flat)) else {}
    return found


def _counted(content: dict, flat: dict, networks: list[str], found: dict, path) -> dict:
    """The tensors whose numbers count: one network's, of a self-supervised file those of its encoder."""
    if "atst" in found and "cnn" not in found and not _classes(flat):
        own = _of_encoder(content, _TRANSFORMERS["atst"][0], path)
        return {name: tensor for name, tensor in own.items() if name != "cls_token"}
    if networks:  # as large as each other
        return {name: tensor for name, tensor in flat.items() if role_of(name) == networks[-1]}
    return flat


def _parameters(tensors: dict) -> int:
    """Numbers in the tensors, without statistics, and once where a file stores them under several names."""
    twins = any(name.endswith(".conv1.weight_v") for name in tensors)  # a TCN's layers have two names each
    shared = [name for name in tensors if name.endswith(".relative_attention_bias.weight")]
    return sum(
        tensor.numel()
        for name, tensor in tensors.items()
        if not name.endswith(STATISTICS) and not (twins and ".net." in name) and name not in shared[1:]
    )


def _of_encoder(content: dict, anchor: str, path) -> dict:
    for network in ("teacher", "student"):
        try:
            without = ("encoder.encoder.teacher_module.",)
            return module_tensors(content, anchor, path, network=network, without=without)[0]
        except CheckpointError as error:
            last = error
    raise last


def _projection(flat: dict) -> int | None:
    """Width of CP-JKU's layer between transformer and CRNN."""
    layers = [tensor for name, tensor in flat.items() if name.endswith("head_linear_layer.weight")]
    return next((layer.shape[0] for layer in layers if layer.ndim == 2), None)


def _classes(flat: dict) -> dict[str, int]:
    """Classes of each linear reading in the file."""
    found = {}
    for kind, names in _READINGS.items():
        for name, tensor in flat.items():
            if name in names or name.endswith(tuple("." + ending for ending in names)):
                if tensor.ndim != 2 or 0 in tensor.shape:
                    raise architectures.MisfitError(f"its {name} is {tuple(tensor.shape)}, which should have two axes")
                found[kind] = tensor.shape[0]
    return found


def _assumed(found: dict, classes: dict) -> list[str]:
    """What the settings contain but the tensors do not show."""
    assumed = []
    for name in found.keys() & {"atst", "passt"}:
        dim, heads = found[name]["dim"], found[name]["heads"]
        published = f"{heads}, as published for width {dim}" if heads else f"none published for width {dim}, unknown"
        assumed.append(f"{name} heads: {published}")
    if "beats" in found and "max_distance" not in found["beats"]["cfg"]:
        assumed.append("beats max_distance: 800, as published")
    if "front_end" in found.get("mobilenet", {}):
        assumed.append("mobilenet front_end: efficientat, 128 bands every 10 ms, as the file's name gives no other")
    if "frame_rate" in found.get("beats", {}):
        assumed.append(f"beats frame_rate: {found['beats']['frame_rate']}, as CP-JKU reads it")
    if "cnn" in found:
        scale = found["cnn"].get("scale")
        assumed.append(f"cnn scale: {scale}, as CP-JKU's" if scale else "cnn scale: unit, as the baselines' to 2023")
        assumed.append("cnn pooling: time by 4 in all, frequency by 128, as published")
    if "strong" in classes:
        assumed.append(f"pooling: {'attention' if 'cnn' in found else 'mean'}, as in the published files")
    return assumed


def _origin(flat: dict, found: dict) -> tuple[str, str]:
    """System and stage, by what stands around the encoder."""
    classes = _classes(flat)
    if "cnn" in found:
        if "beats" in found or _projection(flat):
            return CPJKU, "CRNN with encoder"
        if "atst" in found or "passt" in found:
            return "ATST-SED", "CRNN with encoder"
        return "DCASE Task 4 baseline", "CRNN on embeddings" if any("cat_tf" in n for n in flat) else "CRNN"
    begins = {pattern for pattern in (r"(model\.)?frame_mn\.", r"model\.(model|beats|atst)\.") if _any(pattern, flat)}
    stage = "frame labels" if "strong" in classes else "clip labels" if "weak" in classes else "self-supervised"
    if "mobilenet" in found:
        if begins or "clip" not in classes:
            return "PretrainedSED" if begins else "EfficientSED", stage if classes else "no head"
        return "EfficientAT", "clip labels"
    if "passt" in found:
        return "PretrainedSED", stage if classes else "ImageNet"
    if begins or classes.keys() & {"strong", "weak"}:
        return "PretrainedSED", stage
    if "beats" in found:
        return "BEATs (Microsoft)", "fine-tuned on clip labels" if "clip" in classes else "self-supervised"
    return "ATST-Frame", "fine-tuned" if _any(r"encoder\.encoder\.", flat) else "self-supervised"


def _any(pattern: str, flat: dict) -> bool:
    return any(re.match(pattern, name) for name in flat)
