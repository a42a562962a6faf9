"""Reading weights: what is no checkpoint is refused with the reason and the cure, and nothing in it is run."""

import io
import os
import pathlib
import pickle
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file

from sedflow.convert import describe
from sedflow.weights import CONVERTED, CheckpointError, load_weights, read_checkpoint

TENSORS = {"a.weight": torch.arange(3000.0).reshape(2, 1500)}


class Calls:
    """Pickled as a call of a function, as malicious files are."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def saved(content, **options):
    stream = io.BytesIO()
    torch.save(content, stream, **options)
    return stream.getvalue()


def archive(name):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as written:
        written.writestr(name, "text")
    return stream.getvalue()


def refused(path, content):
    """What reading the file is refused with, by `read_checkpoint` and by `sedflow inspect` alike."""
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as refusal:
        read_checkpoint(path)
    with pytest.raises(CheckpointError):
        describe(path)
    assert str(path) in str(refusal.value)
    return str(refusal.value)


WANTED = {
    "builtins.eval": lambda trace: {"a": Calls(eval, f"open({str(trace)!r}, 'w')"), "b": torch.zeros(3)},
    "posix.system": lambda trace: {"a": Calls(os.system, f"touch {trace}")},
    "torch.nn.modules.linear.Linear": lambda trace: torch.nn.Linear(2, 2),
    "pathlib.PosixPath": lambda trace: {
        "state_dict": TENSORS,
        "hyper_parameters": {"root": pathlib.PosixPath("/data")},
    },
    "numpy._core.multiarray.scalar": lambda trace: {"state_dict": TENSORS, "best": np.float64(3)},
}


@pytest.mark.parametrize("name", WANTED)
@pytest.mark.parametrize("way", ["archive", "legacy", *range(6)])
def test_what_a_file_would_run_is_named_and_not_run(tmp_path, name, way):
    trace = tmp_path / "trace"
    content = WANTED[name](trace)
    written = (
        pickle.dumps(content, protocol=way)
        if isinstance(way, int)
        else saved(content, _use_new_zipfile_serialization=way == "archive")
    )
    message = refused(tmp_path / "file.pt", written)
    assert f"would run {name}" in message or f", {name}" in message
    assert "take the file from its official source" in message and "state_dict" in message
    assert not trace.exists()


UNREADABLE = {
    "empty": b"",
    "not a checkpoint": b"<html>rate limit exceeded</html>",
    "an archive that torch.save did not write": archive("hello.txt"),
    "a TorchScript program": archive("net/code/__torch__.py"),
    **{
        f"a pickle that torch.save did not write{' ' * protocol}": pickle.dumps({"a": 1}, protocol=protocol)
        for protocol in range(6)
    },
    "holds a list": saved([torch.zeros(2)]),
}


@pytest.mark.parametrize("complaint", UNREADABLE)
def test_what_is_no_checkpoint_is_named_with_the_reason(tmp_path, complaint):
    for name in ("file.pt", "file.safetensors"):  # the name of a file says nothing about what is in it
        assert complaint.strip() in refused(tmp_path / name, UNREADABLE[complaint])


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_truncated_file_is_called_truncated(tmp_path, share):
    for whole in (saved(TENSORS), saved(TENSORS, _use_new_zipfile_serialization=False), save(TENSORS)):
        message = refused(tmp_path / "file.pt", whole[: int(share * len(whole))])
        assert "truncated or damaged" in message and "fetch it again" in message


def test_a_missing_file_is_named(tmp_path):
    for path in (tmp_path, tmp_path / "none.pt"):
        with pytest.raises(CheckpointError, match="no such"):
            read_checkpoint(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_random_damage_is_never_a_traceback(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "file"
    for whole in (saved(TENSORS), saved(TENSORS, _use_new_zipfile_serialization=False), save(TENSORS)):
        for _ in range(60):
            content = bytearray(whole)
            for place in rng.integers(0, rng.choice([100, 1000, len(content)]), size=5):
                content[place] = rng.integers(256)
            path.write_bytes(bytes(content))
            try:
                read_checkpoint(path)  # damage to a number or a name alone cannot be seen
            except CheckpointError as refusal:
                assert str(path) in str(refusal)


@pytest.mark.parametrize("specification", ["{", "[]", '{"trained_with": 3}'])
def test_a_converted_encoder_with_a_damaged_specification_is_named(tmp_path, specification):
    encoder = torch.nn.Linear(2, 2)
    tensors = {CONVERTED + name: tensor for name, tensor in encoder.state_dict().items()}
    save_file(tensors, tmp_path / "converted.safetensors", {"specification": specification})
    with pytest.raises(CheckpointError, match=r"converted\.safetensors: its specification.*convert it again"):
        load_weights(encoder, tmp_path / "converted.safetensors")


def test_every_format_gives_the_same_tensors_whatever_the_files_name(tmp_path):
    save_file(TENSORS, tmp_path / "a.pt")
    (tmp_path / "b.safetensors").write_bytes(saved(TENSORS))
    (tmp_path / "c.bin").write_bytes(saved(TENSORS, _use_new_zipfile_serialization=False))
    for path in tmp_path.iterdir():
        torch.testing.assert_close(read_checkpoint(path), TENSORS)
