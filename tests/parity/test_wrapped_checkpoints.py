"""Official files saved from a wrapped network: compiled, trained on several GPUs, or one of a student and a teacher."""

import pytest
import torch
from test_converted_checkpoints_match import official_names
from vectors import find_vectors

from sedflow.checkpoints import identify
from sedflow.convert import convert
from sedflow.detector import Detector
from sedflow.encoders.mobilenet import MobileNet
from sedflow.official import all_tensors, part_of, unwrapped
from sedflow.weights import CheckpointError, read_checkpoint, read_metadata

PREFIXES = ("module.", "_orig_mod.", "module._orig_mod.", "net._orig_mod.", "student.", "sed_teacher.module.")


def fmn_file(path, *prefixes):
    """A detector's tensors under each prefix, every network with its own."""
    tensors = {}
    for number, prefix in enumerate(prefixes):
        torch.manual_seed(number)
        sequence = {"name": "bigru", "width": 16}
        detector = Detector({"mobilenet": MobileNet(width=0.1)}, sequence, 3, frame_rate=25.0, pooling="mean")
        tensors |= {prefix + name: tensor for name, tensor in official_names(detector).items()}
    torch.save({"state_dict": tensors}, path)


def converted(path, out, **settings):
    """Tensors of the file's first network, as converted."""
    convert(path, out, given=settings)
    role = (read_metadata(out).get("networks") or [""])[0]
    return {name.removeprefix(f"{role}."): tensor for name, tensor in read_checkpoint(out).items()}


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_wrapped_detector_becomes_the_same(golden_dir, tmp_path, prefix):
    path, out = tmp_path / "file.pt", tmp_path / "out.safetensors"
    fmn_file(path, "")
    expected, contents = converted(path, out), identify(path)
    fmn_file(path, prefix)
    torch.testing.assert_close(converted(path, out), expected, rtol=0, atol=0)
    wrapped = identify(path)
    assert (wrapped.encoders, wrapped.sequence, wrapped.system) == (
        contents.encoders,
        contents.sequence,
        "EfficientSED",
    )
    (vectors,) = find_vectors(golden_dir, lambda about: about.get("model", "").startswith("ATST-F inside"))[:1]
    heads = {"heads": vectors.config["num_heads"]}
    torch.save(vectors.weights, path)
    expected = converted(path, out, **heads)
    torch.save({prefix + name: tensor for name, tensor in vectors.weights.items()}, path)
    torch.testing.assert_close(converted(path, out, **heads), expected, rtol=0, atol=0)
    assert identify(path).system == "PretrainedSED"


def test_a_student_and_a_teacher_of_mobilenets_become_both(tmp_path):
    path, out = tmp_path / "file.pt", tmp_path / "out.safetensors"
    fmn_file(path, "student.", "teacher.")
    assert identify(path).networks == ["student", "teacher"]
    assert "left out" not in convert(path, out)
    found = read_checkpoint(out)
    for number, role in enumerate(("student", "teacher")):
        fmn_file(path, *["_."] * number, "")  # drawn with the same seed
        own = {name.partition(".")[2]: tensor for name, tensor in found.items() if name.startswith(role)}
        tensors = unwrapped(read_checkpoint(path))
        assert torch.equal(own["pooling.weak.bias"], part_of(tensors, "weak_head")["bias"])
        assert torch.equal(own["encoders.mobilenet.features.0.0.weight"], part_of(tensors, "features")["0.0.weight"])


def test_the_weights_of_the_network_that_is_not_there_are_not_those_of_the_other(tmp_path):
    fmn_file(tmp_path / "file.pt", "student.")
    with pytest.raises(CheckpointError, match=r"no teacher in it, only student"):
        MobileNet(width=0.1).load_official(tmp_path / "file.pt")
    left = MobileNet(width=0.1).load_official(tmp_path / "file.pt", network="student")
    assert all("head" in name or "seq_model" in name for name in left)


def test_an_unknown_prefix_is_named(golden_dir, tmp_path):
    path, out = tmp_path / "file.pt", tmp_path / "out.safetensors"
    fmn_file(path, "swa.")
    for read in (identify, MobileNet(width=0.1).load_official, lambda path: convert(path, out)):
        with pytest.raises(CheckpointError, match=r"file.pt: swa.net.model before the names of features is unknown"):
            read(path)
    fmn_file(path, "")
    tensors = read_checkpoint(path)["state_dict"]
    torch.save({name.replace("net.strong_head", "swa.strong_head"): tensor for name, tensor in tensors.items()}, path)
    with pytest.raises(CheckpointError, match=r"swa before the names of strong_head is unknown"):
        convert(path, out)


def test_no_tensor_is_lost_where_a_file_has_it_with_and_without_a_wrapper():
    content = {"module.layer.weight": torch.zeros(1), "layer.weight": torch.ones(1)}
    assert len(all_tensors(content)) == len(unwrapped(content)) == 2
    assert list(all_tensors({"a.module.b": torch.zeros(1), "submodule.c": torch.zeros(1)})) == ["a.b", "submodule.c"]
