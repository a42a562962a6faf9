"""What `sedflow convert --settings` is given goes to whatever has such a setting, or is refused."""

import pytest
import torch
from safetensors.torch import save_file
from test_converted_checkpoints_match import cpjku_file, crnn_file, official_names

from sedflow.checkpoints import identify
from sedflow.convert import convert
from sedflow.detector import Detector
from sedflow.encoders.mobilenet import MobileNet
from sedflow.plugins import SettingsError
from sedflow.specification import load_detector
from sedflow.weights import CheckpointError, read_metadata


@pytest.fixture
def crnn(tmp_path):
    path = tmp_path / "epoch=3.ckpt"
    return path, crnn_file(path), tmp_path / "out.safetensors"


@torch.no_grad()
def test_the_settings_of_a_crnns_cnn_are_given_to_it(crnn):
    path, networks, out = crnn
    pools = [[2, 2], [1, 2], [2, 2], *[[1, 2]] * 4]
    said = convert(path, out, given={"scale": "symmetric", "pooling": pools})
    assert "scale" not in said and "assumed pooling: attention" in said
    detector, _ = load_detector(out, "teacher")
    assert detector.encoders["cnn"].trained_with == {"scale": "symmetric", "pooling": pools}
    assert read_metadata(out)["detector"]["encoders"][0]["scale"] == "symmetric"
    with pytest.raises(CheckpointError, match=r"do not fit CNN"):
        convert(path, out, given={"gate": "cg"})  # the tensors say "glu"
    assert networks


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({"gate": "glu", "banana": 3}, "cnn have no 'banana'; choose from .*'scale'"),
        ({"heads": 4}, "cnn have no 'heads'"),
        ({"scales": "symmetric"}, "cnn have no 'scales'; did you mean 'scale'"),
        ({"name": "atst"}, "have no 'name'"),
        ({"pooling": "atention"}, "pooling: 'atention' is none of attention, attention_over_time, mean, max"),
        ({"pooling": 3}, "cannot take 3"),
    ],
)
def test_what_nothing_in_the_file_has_is_refused(crnn, given, fault):
    path, _, out = crnn
    with pytest.raises(SettingsError, match=fault):
        convert(path, out, given=given)
    assert not out.exists()


@torch.no_grad()
def test_the_strongest_frame_needs_no_weak_layer(crnn, tmp_path):
    path, networks, out = crnn
    assert "left out sed_student.dense_softmax, sed_teacher.dense_softmax" in convert(
        path, out, given={"pooling": "max"}
    )
    waveform = 0.1 * torch.randn(1, 32_000)
    for role, network in networks.items():
        prediction = load_detector(out, role)[0](waveform, {}, 31)
        expected = network.eval()(waveform, {}, 31).strong
        torch.testing.assert_close(prediction.strong, expected)
        torch.testing.assert_close(prediction.weak, expected.amax(1))
    sequence = {"name": "bigru", "width": 16}
    detector = Detector({"mobilenet": MobileNet(width=0.1)}, sequence, 3, frame_rate=25.0, pooling="mean")
    save_file(official_names(detector), tmp_path / "fmn.safetensors")
    said = convert(tmp_path / "fmn.safetensors", out, given={"pooling": "max"})
    assert "assumed" not in said and "left out net.weak_head" in said
    assert load_detector(out, "student")[0].pooling.weak is None


def test_what_a_cnns_tensors_do_not_show_is_called_assumed(crnn, tmp_path):
    path, _, out = crnn
    assumed = identify(path).assumed
    assert [told.partition(":")[0] for told in assumed] == ["cnn scale", "cnn pooling", "pooling"]
    assert f"assumed {', '.join(assumed)}" in convert(path, out)
    transformer = {"name": "atst", "dim": 64, "depth": 1, "heads": 1, "projection": 20}
    cpjku_file(tmp_path / "stage2.ckpt", transformer)
    contents = identify(tmp_path / "stage2.ckpt")
    assert contents.encoders[0]["scale"] == "symmetric"
    assert any(told.startswith("cnn scale: symmetric") for told in contents.assumed)
    convert(tmp_path / "stage2.ckpt", out, given={"heads": 1, "scale": "unit"})
    cnn, atst = read_metadata(out)["detector"]["encoders"]
    assert (cnn["scale"], atst["heads"]) == ("unit", 1) and "heads" not in cnn and "scale" not in atst


@pytest.mark.parametrize(
    "name", ["mn10_as_hop_15_mAP_463", "mn10_as_hop_25", "mn10_as_mels_40_mAP_453", "mn04_mels_256"]
)
def test_efficientats_files_of_other_front_ends_are_refused(mirror_dir, tmp_path, name):
    path, out = tmp_path / f"{name}.pt", tmp_path / "out.safetensors"
    path.symlink_to(next(mirror_dir.rglob("mn04*.pt")))
    encoder = MobileNet(width=0.4, front_end="efficientat", strides="dilated")
    for load in (identify, encoder.load_official, lambda path: convert(path, out)):
        with pytest.raises(CheckpointError, match=rf"{name}.pt: by its name .* (every|of) \d+ .*128 bands every 10 ms"):
            load(path)
    assert not out.exists()


def test_the_front_end_of_efficientats_files_is_called_assumed(mirror_dir, tmp_path):
    path, out = tmp_path / "mn04_as_hop_10_mels_128.pt", tmp_path / "out.safetensors"
    path.symlink_to(next(mirror_dir.rglob("mn04*.pt")))
    assert any(told.startswith("mobilenet front_end: efficientat, 128 bands") for told in identify(path).assumed)
    assert "assumed mobilenet front_end" in convert(path, out)
    assert "assumed" not in convert(path, out, given={"front_end": "efficientat"})
