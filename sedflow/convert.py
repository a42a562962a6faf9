"""An official checkpoint → a sedflow file: safetensors with a specification.

With frame-wise readings in it, it becomes a detector, for `sedflow detect` and `sedflow score`; otherwise an encoder,
for ``weights:`` on a page.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable
from pathlib import Path

import torch

from sedflow.checkpoints import CPJKU, STATISTICS, Contents, identify
from sedflow.detector import Detector, build_encoder
from sedflow.official import all_tensors, module_tensors, part_or_refusal, unwrapped
from sedflow.params import Inference
from sedflow.plugins import SettingsError, nearest, settings_of
from sedflow.specification import Specification, save_detectors, save_encoder
from sedflow.weights import (
    CheckpointError,
    is_safetensors,
    load_strict,
    read_checkpoint,
    read_metadata,
    shortened,
)

_CRNN_RATE = 15.625  # frames per second
_FRAME_RATE = 25.0
# what a detector reads of a file beside its encoders
_PARTS = re.compile(r"(^|\.)(seq_model|strong_head|weak_head)\.")
_CRNN_PARTS = re.compile(r"(^|\.)(rnn\.rnn|dense|dense_softmax|cat_tf)\.")
_WEAK = re.compile(r"(^|\.)(weak_head|dense_softmax)\.")  # which the strongest frame does without


def convert(path: Path, out: Path, classes: Path | None = None, given: dict | None = None) -> str:
    """Write a checkpoint as safetensors with its specification, and say what it became, assumed and left out.

    Parameters
    ----------
    path : Path    official checkpoint
    out : Path    ``….safetensors``
    classes : Path, optional    names of the classes, one per line in the order of the file's readings
    given : dict, optional
        What its tensors do not show: settings of its encoders, each for the one that has it, and ``pooling`` of a
        detector, e.g. ``{"heads": 4, "pooling": "attention"}``.

    Raises
    ------
    CheckpointError    unreadable, of no known system, another number of classes, or a number of heads nobody knows
    SettingsError    a setting that nothing in the file has, or a value that it cannot take
    """
    if is_safetensors(path) and read_metadata(path):
        raise CheckpointError(f"{path}: already a sedflow file; `sedflow inspect` describes it")
    contents, given = identify(path), dict(given or {})
    detects = "strong" in contents.classes
    # a word is how a detector reads clips, a list what the CNN halves
    pooling = given.pop("pooling") if detects and isinstance(given.get("pooling"), str) else None
    specs = _with_given(contents.encoders, given)
    for spec in specs:
        if spec.get("heads", 1) is None:
            raise CheckpointError(
                f"{path}: the tensors of {spec['name']} do not show its number of heads, and no published one has "
                f"width {spec['dim']}; set it: --settings '{{\"heads\": 4}}'"
            )
    with _naming(path):
        if not detects:
            encoder = build_encoder(specs[0])
            left = encoder.load_official(path, **_of_role(contents.networks[-1:]))
            save_encoder(out, encoder, specs[0], f"{contents.system}, {contents.stage}")
            return f"an encoder: {specs[0]['name']}" + _remarks(contents, specs, given, left)
        names = _class_names(classes, contents.classes["strong"], path)
        roles = contents.networks or ["student"]
        read = {role: _detector(path, contents, specs, role, pooling) for role in roles}
    networks = {role: detector for role, (detector, _) in read.items()}
    save_detectors(out, networks, _specification(contents, specs, networks[roles[0]], names, roles))
    left = set.intersection(*(set(others) for _, others in read.values()))
    said = _remarks(contents, specs, given, left, pooling)
    return f"a detector of {len(names)} classes ({', '.join(roles)})" + said


@contextlib.contextmanager
def _naming(path: Path):
    """What goes wrong while a network is built and filled names the file and the cure."""
    try:
        yield
    except (ValueError, RuntimeError, LookupError, ArithmeticError) as error:
        if isinstance(error, SettingsError) or str(path) in str(error) or isinstance(error.__cause__, OSError):
            raise
        raise CheckpointError(
            f"{path}: its tensors fit none of our networks ({error}); fetch it again, or give with --settings "
            "what the tensors do not show"
        ) from error


def _of_role(networks: list[str]) -> dict:
    return {"network": networks[0]} if networks else {}


def _remarks(
    contents: Contents, specs: list[dict], given: dict, left: Iterable[str], pooling: str | None = None
) -> str:
    """What was assumed and what was left out, to be read behind what the file became."""
    told = given | given.get("cfg", {})
    known = {f"{spec['name']} {key}" for spec in specs for key in told if key in spec | spec.get("cfg", {})}
    known |= {"pooling"} if pooling else set()
    assumed = [assumption for assumption in contents.assumed if assumption.partition(":")[0] not in known]
    layers = {
        name.removeprefix("state_dict.").rpartition(".")[0] or name for name in left if not name.endswith(STATISTICS)
    }
    layers = {layer for layer in layers if not any(layer.startswith(f"{outer}.") for outer in layers)}
    remarks = [f"assumed {', '.join(assumed)}"] if assumed else []
    remarks += [f"left out {shortened(layers)}"] if layers else []
    return "".join(f"; {remark}" for remark in remarks)


def _with_given(specs: list[dict], given: dict) -> list[dict]:
    """Settings of the encoders with those that are given, each for the encoders that have it."""
    known = {spec["name"]: settings_of("encoders", spec["name"]).keys() for spec in specs}
    for key in given:
        if not any(key in settings for settings in known.values()):
            has = sorted(set().union(*known.values()))
            raise SettingsError(f"--settings: {' and '.join(known)} have no {key!r}{nearest(key, has)}")
    return [
        spec | {key: _joined(spec.get(key), value) for key, value in given.items() if key in known[spec["name"]]}
        for spec in specs
    ]


def _joined(found, given):
    """What is given, or a table of it and what was found beside it."""
    return found | given if isinstance(found, dict) and isinstance(given, dict) else given


def _class_names(classes: Path | None, count: int, path) -> list[str]:
    if classes is None:
        return [f"class_{number:03d}" for number in range(count)]
    names = [line.strip() for line in Path(classes).read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if len(names) != count or len(set(names)) != count:
        raise CheckpointError(f"{classes}: {len(set(names))} different classes, but {path} reads {count}")
    return names


def _settings(contents: Contents, specs: list[dict], merge_dim: int | None, pooling: str | None) -> dict:
    """The ``detector`` section of a page."""
    crnn = specs[0]["name"] == "cnn"
    # as fPaSST and BEATs were trained; the tensors do not tell
    nearest = contents.system == CPJKU and specs[-1]["name"] != "atst"
    return {
        "encoders": specs,
        "sequence": contents.sequence or {"name": "identity"},
        "frame_rate": _CRNN_RATE if crnn else _FRAME_RATE,
        "pooling": pooling or ("attention" if crnn else "mean"),
        "dropout": 0.0,
        "merge_dim": merge_dim,
        "merge_norm": False,
        "match": "nearest" if nearest else "average",
    }


def _specification(contents: Contents, specs, detector: Detector, names: list[str], roles: list[str]) -> Specification:
    merge_dim, pooling = getattr(detector.merge, "out_features", None), detector.pooling.kind
    return Specification(
        system=contents.system,
        stage=contents.stage,
        classes=names,
        sample_rate=detector.sample_rate,
        frame_rate=detector.grid.frame_rate,
        clip_seconds=10.0,
        detector=_settings(contents, specs, merge_dim, pooling),
        inference=Inference().model_dump(),
        networks=roles,
        seed=0,
        step=0,
    )


def _detector(
    path: Path, contents: Contents, specs: list[dict], role: str, pooling: str | None
) -> tuple[Detector, set[str]]:
    """One network of the file, whole: nothing is left as it was drawn; and the names in the file that it leaves."""
    content = read_checkpoint(path)
    encoders, left = {}, set(all_tensors(content))
    for spec in specs:
        encoders[spec["name"]] = encoder = build_encoder(spec)
        left &= set(encoder.load_official(path, **_of_role([role] if contents.networks else [])))
    parts = _CRNN_PARTS if specs[0]["name"] == "cnn" else _PARTS
    unread = {name for name in left if pooling == "max" and _WEAK.search(name)}
    left = _without_copies({name for name in left if not parts.search(name)}, content) | unread
    if specs[0]["name"] == "cnn":
        return _crnn(path, content, contents, specs, encoders, (role, pooling)), left
    settings = _settings(contents, specs, None, pooling)
    detector = _assembled(encoders, settings, contents.classes["strong"])
    tensors, network = unwrapped(content), role if contents.networks else None
    detector.sequence.load_official(part_or_refusal(tensors, "seq_model", path, network))
    for layer, name in ((detector.pooling.strong, "strong_head"), (detector.pooling.weak, "weak_head")):
        if layer is not None:
            load_strict(layer, part_or_refusal(tensors, name, path, network), path)
    return detector, left


def _without_copies(left: set[str], content: dict) -> set[str]:
    """The names whose tensors stand nowhere else in the file: Lightning files of ATST-SED hold each network twice."""
    tensors = all_tensors(content)
    kept = {}
    for name in tensors.keys() - left:
        kept.setdefault(name.split(".")[-1], []).append(name)

    def copied(name):
        same = [other for other in kept.get(name.split(".")[-1], []) if name.endswith(other) or other.endswith(name)]
        return any(torch.equal(tensors[name], tensors[other]) for other in same)

    return {name for name in left if not copied(name)}


def _crnn(path, content: dict, contents: Contents, specs, encoders: dict, of: tuple[str, str | None]) -> Detector:
    role, pooling = of
    tensors, _ = module_tensors(content, "dense.weight", path, network=role)
    merged = "cat_tf.weight" in tensors
    if merged != (len(specs) > 1):
        raise CheckpointError(
            f"{path}: its CRNN reads embeddings of an encoder that is not in this file, so it cannot become a "
            "detector; train one with the encoder's own weights, with `weights:` on a page"
        )
    merge_dim = tensors["cat_tf.weight"].shape[0] if merged else None
    detector = _assembled(encoders, _settings(contents, specs, merge_dim, pooling), contents.classes["strong"])
    recurrent = {name.removeprefix("rnn.rnn."): t for name, t in tensors.items() if name.startswith("rnn.rnn.")}
    detector.sequence.load_official(recurrent)
    parts = {"dense": detector.pooling.strong, "dense_softmax": detector.pooling.weak, "cat_tf": detector.merge}
    for name, layer in parts.items():
        if layer is None:
            continue
        own = {kind: tensors[f"{name}.{kind}"] for kind in ("weight", "bias") if f"{name}.{kind}" in tensors}
        load_strict(layer, own, path)
    return detector


def _assembled(encoders: dict, settings: dict, classes: int) -> Detector:
    options = {key: settings[key] for key in settings.keys() - {"encoders", "sequence"}}
    return Detector(encoders, settings["sequence"], classes, **options).eval()


def describe(path: Path) -> str:
    """What a checkpoint contains, as JSON: a sedflow file or an official one."""
    if is_safetensors(path) and (metadata := read_metadata(path)):
        return json.dumps(metadata, indent=2, ensure_ascii=False)
    contents = vars(identify(path))
    return json.dumps(contents, indent=2, ensure_ascii=False)
