"""The frame-wise MobileNets against theMoro/EfficientSED, from waveform to embeddings."""

import pytest
import torch
from vectors import find_vectors

from sedflow.encoders.mobilenet import MobileNet
from sedflow.official import part_of
from sedflow.weights import CheckpointError

MAPS = "feat{:02d}"


@pytest.fixture(scope="module")
def all_vectors(golden_dir):
    return find_vectors(golden_dir, lambda about: about.get("model", "").startswith(("frame-wise MobileNet", "fmn +")))


def loaded(vectors, folder, rename=lambda name: name):
    encoder = MobileNet(width=vectors.config["width_mult"])
    ignored = encoder.load_official(vectors.save_weights(folder, rename))
    assert encoder.dim == vectors.config["embed_dim"]
    assert all(".features." not in name for name in ignored)
    return encoder.eval()


@torch.no_grad()
def test_front_end_and_embeddings_from_waveforms(all_vectors, tmp_path):
    for vectors in all_vectors:
        encoder = loaded(vectors, tmp_path)
        for case, waveform in vectors.inputs("/wave").items():
            vectors.check(f"{case}/mel", encoder.front_end(waveform).unsqueeze(1))
            vectors.check(f"{case}/frames", encoder(waveform))


@torch.no_grad()
def test_every_layer_from_the_recorded_mel(all_vectors, tmp_path):
    for vectors in all_vectors:
        encoder = loaded(vectors, tmp_path)
        for case in vectors.inputs("/wave"):
            mel = vectors.output(f"{case}/mel")
            vectors.check(f"{case}/frames", encoder.embed(mel.squeeze(1)), given="_given_mel")
            maps = mel
            for number, layer in enumerate(encoder.layers()):
                maps = layer(maps)
                name = f"{case}/{MAPS.format(number)}"
                if name in vectors.about["outputs"]:
                    vectors.check(name, maps, given="_given_mel")


@torch.no_grad()
def test_every_spelling_of_the_checkpoint_loads(all_vectors, tmp_path):
    vectors = all_vectors[0]
    case, waveform = next(iter(vectors.inputs("/wave").items()))
    for prefix in ("net.model.", "model.model.", "model.fmn.", "model.frame_mn.", ""):
        encoder = loaded(vectors, tmp_path, lambda name, prefix=prefix: name.replace("net.model.", prefix))
        vectors.check(f"{case}/frames", encoder(waveform))


def test_another_width_is_refused_by_name_and_shape(all_vectors, tmp_path):
    path = all_vectors[0].save_weights(tmp_path)
    with pytest.raises(CheckpointError, match=r"of another shape: .*instead of") as refusal:
        MobileNet(width=all_vectors[0].config["width_mult"] + 1).load_official(path)
    assert str(path) in str(refusal.value)


def test_a_file_without_a_layer_is_refused(all_vectors, tmp_path):
    vectors = all_vectors[0]
    cut = vectors.save_weights(tmp_path, lambda name: name.replace("features.16.", "feature.16."))
    with pytest.raises(CheckpointError, match=r"missing: features\.16\.0\.weight"):
        MobileNet(width=vectors.config["width_mult"]).load_official(cut)


# Source: cpjku_efficient.md §1.4, computed from the official modules
BACKBONE = {0.4: (384, 516_128), 0.6: (576, 1_099_184), 1.0: (960, 2_971_664), 2.0: (1920, 11_641_880)}
BACKBONE[3.0] = (2880, 25_999_120)
WITH_TWO_HEADS = {0.4: 860_318, 0.6: 1_615_022, 1.0: 3_830_798, 2.0: 13_359_254, 3.0: 28_574_734}
CLASSES = 447


@pytest.mark.parametrize("width", BACKBONE)
def test_parameter_counts_are_the_published_ones(width):
    with torch.device("meta"):
        encoder = MobileNet(width=width)
    dim, backbone = BACKBONE[width]
    count = sum(parameter.numel() for parameter in encoder.parameters())
    assert (encoder.dim, count) == (dim, backbone)
    assert count + 2 * CLASSES * (dim + 1) == WITH_TWO_HEADS[width]


def test_the_sequence_model_of_a_file_is_found_under_any_prefix():
    for prefix in ("net.", "model.", "", "net.model."):
        assert part_of({f"{prefix}seq_model.0.weight": 1, "strong_head.weight": 2}, "seq_model") == {"0.weight": 1}


def test_time_strides_and_dilations_keep_the_filters_spacing():
    spacings = {form: _spacings(MobileNet(width=0.4, strides=form)) for form in ("published", "dilated")}
    assert spacings["published"] == spacings["dilated"]


def _spacings(encoder):
    """Distance in mel frames between the taps of each depthwise filter."""
    spacing, found = 1, []
    for layer in encoder.layers():
        for convolution in layer.modules():
            if isinstance(convolution, torch.nn.Conv2d) and convolution.kernel_size[1] > 1:
                found.append(spacing * convolution.dilation[1])
                spacing *= convolution.stride[1]
    return found
