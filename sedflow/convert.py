"""An official checkpoint → a file of ours: safetensors with a specification.

With frame-wise readings in it, it becomes a detector, for `sedflow detect` and `sedflow score`; otherwise an encoder,
for ``weights:`` on a page.
"""

from __future__ import annotations

import json
from pathlib import Path

from sedflow.checkpoints import CPJKU, Contents, identify
from sedflow.detector import Detector, build_encoder
from sedflow.official import module_tensors
from sedflow.params import Inference
from sedflow.specification import Specification, save_detectors, save_encoder
from sedflow.weights import CheckpointError, is_safetensors, load_strict, part_of, read_checkpoint

_CRNN_RATE = 15.625  # frames per second
_FRAME_RATE = 25.0
# how CP-JKU reads its encoders: BEATs token by token
_CPJKU_READS = {"cnn": {"scale": "symmetric"}, "beats": {"frame_rate": 49.6}}


def convert(path: Path, out: Path, classes: Path | None = None, given: dict | None = None) -> str:
    """Write a checkpoint as safetensors with its specification, and say what it became.

    Parameters
    ----------
    path : Path    official checkpoint
    out : Path    ``….safetensors``
    classes : Path, optional    names of the classes, one per line in the order of the file's readings
    given : dict, optional    settings of the encoder that its tensors do not tell, e.g. ``{"heads": 6}``

    Raises
    ------
    CheckpointError    unreadable, of no known system, or another number of classes
    """
    contents = identify(path)
    specs = [_as_trained(spec, contents.system, given or {}) for spec in contents.encoders]
    if "strong" not in contents.classes:
        encoder = build_encoder(specs[0], path)
        save_encoder(out, encoder, specs[0], f"{contents.system}, {contents.stage}")
        return f"an encoder: {specs[0]['name']}"
    names = _class_names(classes, contents.classes["strong"], path)
    roles = contents.networks or ["student"]
    networks = {role: _detector(path, contents, specs, role) for role in roles}
    save_detectors(out, networks, _specification(contents, specs, networks[roles[0]], names, roles))
    return f"a detector of {len(names)} classes ({', '.join(roles)})"


def _as_trained(spec: dict, system: str, given: dict) -> dict:
    """Settings of an encoder, with those that its tensors do not tell."""
    told = _CPJKU_READS.get(spec["name"], {}) if system == CPJKU else {}
    return {**spec, **told, **({} if spec["name"] == "cnn" else given)}


def _class_names(classes: Path | None, count: int, path) -> list[str]:
    if classes is None:
        return [f"class_{number:03d}" for number in range(count)]
    names = [line.strip() for line in Path(classes).read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if len(names) != count or len(set(names)) != count:
        raise CheckpointError(f"{classes}: {len(set(names))} different classes, but {path} reads {count}")
    return names


def _settings(contents: Contents, specs: list[dict], merge_dim: int | None) -> dict:
    """The ``detector`` section of a page."""
    crnn = specs[0]["name"] == "cnn"
    # as fPaSST and BEATs were trained; the tensors do not tell
    nearest = contents.system == CPJKU and specs[-1]["name"] != "atst"
    return {
        "encoders": specs,
        "sequence": contents.sequence or {"name": "identity"},
        "frame_rate": _CRNN_RATE if crnn else _FRAME_RATE,
        "pooling": "attention" if crnn else "mean",
        "dropout": 0.0,
        "merge_dim": merge_dim,
        "merge_norm": False,
        "match": "nearest" if nearest else "average",
    }


def _specification(contents: Contents, specs, detector: Detector, names: list[str], roles: list[str]) -> Specification:
    merge_dim = getattr(detector.merge, "out_features", None)
    return Specification(
        system=contents.system,
        stage=contents.stage,
        classes=names,
        sample_rate=detector.sample_rate,
        frame_rate=detector.grid.frame_rate,
        clip_seconds=10.0,
        detector=_settings(contents, specs, merge_dim),
        inference=Inference().model_dump(),
        networks=roles,
        seed=0,
        step=0,
    )


def _detector(path: Path, contents: Contents, specs: list[dict], role: str) -> Detector:
    """One network of the file, whole: nothing is left as it was drawn."""
    content = read_checkpoint(path)
    encoders = {}
    for spec in specs:
        encoders[spec["name"]] = encoder = build_encoder(spec)
        encoder.load_official(path, **({"network": role} if contents.networks else {}))
    if specs[0]["name"] == "cnn":
        return _crnn(path, content, contents, specs, encoders, role)
    settings = _settings(contents, specs, None)
    detector = _assembled(encoders, settings, contents.classes["strong"])
    detector.sequence.load_official(part_of(content, "seq_model"))
    load_strict(detector.pooling.strong, part_of(content, "strong_head"), path)
    load_strict(detector.pooling.weak, part_of(content, "weak_head"), path)
    return detector


def _crnn(path, content: dict, contents: Contents, specs: list[dict], encoders: dict, role: str) -> Detector:
    tensors, _ = module_tensors(content, "dense.weight", path, network=role)
    merged = "cat_tf.weight" in tensors
    if merged != (len(specs) > 1):
        raise CheckpointError(
            f"{path}: its CRNN reads embeddings of an encoder that is not in this file, so it cannot become a "
            "detector; train one with the encoder's own weights, with `weights:` on a page"
        )
    merge_dim = tensors["cat_tf.weight"].shape[0] if merged else None
    detector = _assembled(encoders, _settings(contents, specs, merge_dim), contents.classes["strong"])
    recurrent = {name.removeprefix("rnn.rnn."): t for name, t in tensors.items() if name.startswith("rnn.rnn.")}
    detector.sequence.load_official(recurrent)
    parts = {"dense": detector.pooling.strong, "dense_softmax": detector.pooling.weak}
    for name, layer in (parts | ({"cat_tf": detector.merge} if merged else {})).items():
        own = {kind: tensors[f"{name}.{kind}"] for kind in ("weight", "bias") if f"{name}.{kind}" in tensors}
        load_strict(layer, own, path)
    return detector


def _assembled(encoders: dict, settings: dict, classes: int) -> Detector:
    options = {key: settings[key] for key in settings.keys() - {"encoders", "sequence"}}
    return Detector(encoders, settings["sequence"], classes, **options).eval()


def describe(path: Path) -> str:
    """What a checkpoint holds, as JSON: a file of ours or an official one."""
    from sedflow.specification import read_metadata

    if is_safetensors(path) and (told := read_metadata(path)):
        return json.dumps(told, indent=2, ensure_ascii=False)
    contents = vars(identify(path))
    return json.dumps(contents, indent=2, ensure_ascii=False)
