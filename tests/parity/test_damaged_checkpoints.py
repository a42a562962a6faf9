"""Official files with one tensor damaged: `inspect` and `convert` refuse by name, never with a traceback."""

import random

import torch
from vectors import find_vectors

from sedflow.checkpoints import identify
from sedflow.convert import convert
from sedflow.weights import CheckpointError

DAMAGES = {
    "dropped": lambda tensor: None,
    "a scalar": lambda tensor: torch.zeros(()),
    "three numbers": lambda tensor: torch.zeros(3),
    "half of it": lambda tensor: tensor[: max(1, len(tensor) // 2)] if tensor.ndim else tensor,
}
# ends of the names of tensors that tell sizes; others are drawn by chance, so many of each file
TELLING = ("post_extract_proj.weight", "layers.0.fc1.weight", "weight_v", "original1", "blocks.0.mlp.fc1.weight")
TELLING += ("embed", "features.0.0.weight", "features.16.0.weight", "weight_hh_l0", "to_gates.bias", "A_log")
INSPECTED, CONVERTED = 3, 1


def files(golden_dir):
    """Vectors of files that become an encoder or a detector here, the CRNNs by themselves excepted."""
    encoders = ("ATST", "BEATs", "frame-wise PaSST", "frame-wise MobileNet", "fmn")
    return find_vectors(
        golden_dir, lambda about: about.get("model", "").startswith(encoders) and about.get("checkpoint_format")
    )


def content_of(vectors, weights):
    if vectors.about["model"] == "BEATs":
        return {"cfg": vectors.config, "model": weights}
    return weights if vectors.about["checkpoint_format"].startswith("flat") else {"state_dict": weights}


def damaged(vectors, names):
    """Files with one tensor damaged: how, and what is in them."""
    for name in names:
        for how, damage in DAMAGES.items():
            tensor = damage(vectors.weights[name])
            others = {other: kept for other, kept in vectors.weights.items() if other != name}
            yield (
                f"{vectors.name}: {name} {how}",
                content_of(vectors, others | ({} if tensor is None else {name: tensor})),
            )


def drawn(vectors, count):
    return random.Random(vectors.name).sample(sorted(vectors.weights), count)


def refusal(of, path):
    """The message of a refusal, None where there is none."""
    try:
        of(path)
    except CheckpointError as error:
        return str(error)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def test_one_damaged_tensor_is_refused_by_inspect_with_the_file(golden_dir, tmp_path):
    path = tmp_path / "damaged.pt"
    for vectors in files(golden_dir):
        telling = [name for name in vectors.weights if name.endswith(TELLING)][:8]
        for what, content in damaged(vectors, [*telling, *drawn(vectors, INSPECTED)]):
            torch.save(content, path)
            message = refusal(identify, path)
            assert message is None or message.startswith(str(path)), f"{what}: {message}"


def test_one_damaged_tensor_is_refused_by_convert_with_the_file(golden_dir, tmp_path):
    path, out = tmp_path / "damaged.pt", tmp_path / "out.safetensors"
    for vectors in files(golden_dir):
        heads = {"heads": vectors.config["num_heads"]} if "num_heads" in vectors.config else None
        for what, content in damaged(vectors, drawn(vectors, CONVERTED)):
            torch.save(content, path)
            message = refusal(lambda path: convert(path, out, given=heads), path)  # noqa: B023
            assert message is None or message.startswith(str(path)), f"{what}: {message}"
