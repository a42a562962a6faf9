"""`sedflow inspect` and `sedflow convert` on official files: what they are, and number for number what they give."""

import json

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner
from vectors import find_vectors

from sedflow.checkpoints import identify
from sedflow.cli import commands
from sedflow.convert import convert
from sedflow.detector import Detector, build_detector, build_encoder
from sedflow.encoders.atst import ATST
from sedflow.encoders.mobilenet import MobileNet
from sedflow.frames import FrameGrid
from sedflow.specification import load_detector, save_encoder
from sedflow.weights import CheckpointError, read_checkpoint, read_metadata

# beginnings of what the vectors' JSON calls a model, and whose files are laid out so
SYSTEMS = {
    "ATST-Frame": "ATST-Frame",
    "ATST-F inside": "PretrainedSED",
    "BEATs inside": "PretrainedSED",
    "BEATs": "BEATs (Microsoft)",
    "frame-wise PaSST": "PretrainedSED",
    "frame-wise MobileNet": "EfficientSED",
    "fmn +": "EfficientSED",
    "CRNN head": "DCASE Task 4 baseline",
}
OF_A_BLOCK = {"conv": "conv", "norm": "batchnorm", "gate": "glu"}
HEADS = {"gru": "bigru", "tf": "transformer", "attn": "attention"}


def of_heads(golden_dir, *kinds):
    return find_vectors(golden_dir, lambda about: about.get("config", {}).get("head_type") in kinds)


def given(vectors):
    """What tensors do not tell."""
    told = {"heads": vectors.config["num_heads"]} if "num_heads" in vectors.config else {}
    return told | ({"pooling": "attention"} if vectors.config.get("head_type") == "attention" else {})


def official_file(vectors, folder):
    """The vectors' weights in a file laid out as the official one."""
    path = folder / f"{vectors.name}.pt"
    nested = vectors.about.get("model") == "BEATs"
    torch.save({"cfg": vectors.config, "model": vectors.weights} if nested else vectors.weights, path)
    return path


def test_files_are_told_apart(golden_dir, tmp_path):
    vectors_of = {
        begin: find_vectors(golden_dir, lambda about: (about.get("model") or "").startswith(begin))  # noqa: B023
        for begin in SYSTEMS
    }
    for begin, vectors in ((begin, one) for begin, found in vectors_of.items() for one in found):
        if next(name for name in SYSTEMS if vectors.about["model"].startswith(name)) != begin:
            continue
        contents, config = identify(official_file(vectors, tmp_path)), vectors.config
        assert contents.system == SYSTEMS[begin], vectors.name
        assert contents.classes.get("strong") == config.get("n_classes_strong", config.get("nclass")), vectors.name
        if config.get("seq_model_type"):
            assert contents.sequence["name"] == HEADS.get(config["seq_model_type"], config["seq_model_type"])
            assert contents.sequence["width"] == config["seq_model_dim"]
            assert contents.sequence["layers"] == config["seq_model_layers"]


@torch.no_grad()
def test_a_converted_detector_gives_the_official_scores(golden_dir, tmp_path):
    compared = set()
    for vectors in of_heads(golden_dir, "linear", "attention"):
        out = tmp_path / "converted.safetensors"
        convert(vectors.save_weights(tmp_path), out, given=given(vectors))
        detector, specification = load_detector(out, "student")
        assert len(specification.classes) == vectors.config["n_classes_strong"]
        if "atst" in detector.encoders:  # as upstream
            detector.encoders["atst"].top_db_over = "batch"
        for case, waveform in vectors.inputs("/wave").items():
            # upstream's transformers stretch the time of shorter clips, ours do not
            whole = FrameGrid(25.0).frames(waveform.shape[1] / detector.sample_rate) == vectors.config["seq_len"]
            if "mobilenet" in detector.encoders or whole:
                prediction = detector(waveform, {}, vectors.output(f"{case}/strong_logits").shape[2])
                # recorded before the sigmoid where the readings are linear
                linear = vectors.config["head_type"] == "linear"
                strong = prediction.strong_logits if linear else prediction.strong
                vectors.check(f"{case}/strong_logits", strong.transpose(1, 2))
                if not linear:
                    vectors.check(f"{case}/weak_logits", prediction.weak)
                compared.add(vectors.name)
    assert compared


def test_inspect_counts_the_parameters_of_what_a_file_becomes(golden_dir, tmp_path):
    out = tmp_path / "converted.safetensors"
    for vectors in find_vectors(golden_dir, lambda about: (about.get("model") or "").startswith(tuple(SYSTEMS))):
        if vectors.config.get("finetuned_model") or vectors.about["model"].startswith("CRNN"):
            continue  # a classifier counts, and stays behind; a CRNN alone becomes nothing
        path = official_file(vectors, tmp_path)
        convert(path, out, given=given(vectors))
        told = read_metadata(out)
        network = build_encoder(told["encoder"]) if "encoder" in told else load_detector(out, "student")[0]
        assert identify(path).parameters == sum(parameter.numel() for parameter in network.parameters()), vectors.name


def test_settings_that_tensors_do_not_tell_are_asked_for_or_called_assumed(golden_dir, tmp_path):
    out = tmp_path / "converted.safetensors"
    for vectors in find_vectors(golden_dir, lambda about: "num_heads" in about.get("config", {})):
        if vectors.about["model"].startswith("torchaudio") or vectors.config["embed_dim"] in (384, 768):
            continue
        path = official_file(vectors, tmp_path)
        assert any("heads" in told and "unknown" in told for told in identify(path).assumed)
        with pytest.raises(CheckpointError, match=r"do not show its number of heads.*--settings"):
            convert(path, out)
        assert not out.exists()
    for dim, heads in ((384, 6), (768, 12)):
        save_file(_atst_tensors(dim), tmp_path / "atst.safetensors")
        contents = identify(tmp_path / "atst.safetensors")
        assert contents.encoders[0]["heads"] == heads
        assert contents.assumed == [f"atst heads: {heads}, as published for width {dim}"]
        assert f"assumed atst heads: {heads}" in convert(tmp_path / "atst.safetensors", out)


def test_settings_do_not_depend_on_the_order_of_tensors(golden_dir, tmp_path):
    for vectors in find_vectors(golden_dir, lambda about: (about.get("model") or "").startswith(tuple(SYSTEMS))):
        path = official_file(vectors, tmp_path)
        expected, content = identify(path), read_checkpoint(path)
        turned = {name: _reversed(part) for name, part in reversed(content.items())}
        torch.save(turned, tmp_path / "turned.pt")
        found = identify(tmp_path / "turned.pt")
        assert (found.encoders, found.sequence) == (expected.encoders, expected.sequence), vectors.name


def _reversed(part):
    return dict(reversed(part.items())) if isinstance(part, dict) else part


def _atst_tensors(dim):
    encoder = ATST(dim=dim, depth=1, heads=1, positions=2, mlp_ratio=0.1)
    named = {name.replace("embedding.", "", 1): tensor for name, tensor in encoder.state_dict().items()}
    return {name.replace("patch_embed.", "patch_embed.patch_embed.", 1): tensor for name, tensor in named.items()}


# names and tensors that the published files of each stage have, as the vectors' JSON calls their models
STAGES = {
    "BEATs inside": ("PretrainedSED", "self-supervised", "beats"),
    "ATST-F inside": ("PretrainedSED", "self-supervised", "atst"),
    "frame-wise PaSST": ("PretrainedSED", "ImageNet", "passt"),
    "frame-wise MobileNet": ("EfficientSED", "no head", "mobilenet"),
}


@pytest.mark.parametrize("begin", STAGES)
def test_published_stages_are_told_apart(golden_dir, tmp_path, begin):
    system, without_heads, encoder = STAGES[begin]
    path = tmp_path / "file.pt"
    for vectors in find_vectors(golden_dir, lambda about: (about.get("model") or "").startswith(begin)):
        for kept, stage in (((), without_heads), (("weak_head",), "clip labels")):
            left = {"strong_head", "weak_head"} - set(kept)
            tensors = {n: t for n, t in vectors.weights.items() if not any(f"{head}." in n for head in left)}
            torch.save(tensors, path)
            contents = identify(path)
            assert (contents.system, contents.stage, contents.encoders[0]["name"]) == (system, stage, encoder)
            said = convert(path, tmp_path / "out.safetensors", given=given(vectors))
            assert said.startswith(f"an encoder: {encoder}")
            assert ("left out" in said and "weak_head" in said) == bool(kept)


def test_a_self_supervised_file_counts_one_encoder(tmp_path):
    tensors = _atst_tensors(384)
    content = {
        f"model.{role}.encoder.{name}": tensor for role in ("teacher", "student") for name, tensor in tensors.items()
    }
    content |= {"model.student.projector.weight": torch.zeros(9, 9), "model.teacher.encoder.cls_token": torch.zeros(1)}
    path = tmp_path / "base.ckpt"
    torch.save({"state_dict": content}, path)
    contents = identify(path)
    assert (contents.system, contents.stage, contents.networks) == (
        "ATST-Frame",
        "self-supervised",
        ["student", "teacher"],
    )
    assert contents.parameters == sum(tensor.numel() for tensor in tensors.values())
    said = convert(path, tmp_path / "out.safetensors")
    assert said.endswith("left out cls_token, model.student.encoder, model.student.projector")


def test_what_is_left_out_is_said(golden_dir, mirror_dir, tmp_path):
    finetuned = find_vectors(golden_dir, lambda about: about.get("config", {}).get("finetuned_model"))
    for vectors in finetuned:
        assert convert(official_file(vectors, tmp_path), tmp_path / "out.safetensors").endswith("left out predictor")
    said = convert(next(mirror_dir.rglob("mn04*.pt")), tmp_path / "out.safetensors")
    assert said.startswith("an encoder: mobilenet; assumed mobilenet front_end")
    assert said.endswith("; left out classifier.2, classifier.5")
    crnn_file(tmp_path / "epoch.ckpt")
    said = convert(tmp_path / "epoch.ckpt", tmp_path / "out.safetensors")
    assert said.startswith("a detector of 10 classes (student, teacher); assumed cnn") and "left out" not in said


def test_a_converted_encoder_is_loaded_by_a_page(mirror_dir, tmp_path):
    official = next(mirror_dir.rglob("mn04*.pt"))
    out = tmp_path / "mn04.safetensors"
    convert(official, out)
    spec = {"name": "mobilenet", "width": 0.4, "front_end": "efficientat", "strides": "dilated"}
    ours, theirs = build_encoder(spec, out).state_dict(), build_encoder(spec, official).state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    with pytest.raises(CheckpointError, match="of another shape"):
        build_encoder(spec | {"width": 1.0}, out)


OF_EFFICIENTAT = {"name": "mobilenet", "width": 0.4, "front_end": "efficientat", "strides": "dilated"}
SMALL_TRANSFORMER = {"dim": 64, "depth": 1, "heads": 4}


@pytest.mark.parametrize(
    ("saved", "built", "differing"),
    [
        (OF_EFFICIENTAT, {"name": "mobilenet", "width": 0.4}, r"front_end 'efficientat'.*strides 'published'"),
        (OF_EFFICIENTAT, OF_EFFICIENTAT | {"strides": "framewise"}, r"strides 'published', the encoder 'framewise'"),
        (
            {"name": "atst", **SMALL_TRANSFORMER},
            {"name": "atst", **SMALL_TRANSFORMER, "heads": 1},
            "heads 4, the encoder 1",
        ),
        ({"name": "passt", **SMALL_TRANSFORMER}, {"name": "passt", **SMALL_TRANSFORMER, "heads": 1}, "heads 4, the"),
        (
            {"name": "beats", **SMALL_TRANSFORMER, "cfg": {"max_distance": 400}},
            {"name": "beats", **SMALL_TRANSFORMER},
            "max_distance 400, the encoder 800",
        ),
        ({"name": "cnn"}, {"name": "cnn", "scale": "symmetric"}, "scale 'unit', the encoder 'symmetric'"),
    ],
)
def test_converted_weights_load_only_into_the_settings_they_were_trained_with(tmp_path, saved, built, differing):
    path = tmp_path / "converted.safetensors"
    save_encoder(path, build_encoder(saved), saved, "test")
    with pytest.raises(CheckpointError, match=f"converted.safetensors: .*{differing}"):
        build_encoder(built, path)


@torch.no_grad()
def test_how_a_page_trains_and_reads_an_encoder_is_its_own_affair(tmp_path):
    path = tmp_path / "converted.safetensors"
    for saved, other in (
        (OF_EFFICIENTAT, {"strides": "published", "gain_db": 20.0, "mel_jitter": True}),
        ({"name": "beats", **SMALL_TRANSFORMER}, {"frame_rate": 15.6, "tokens": "time", "cfg": {"dropout": 0.1}}),
        ({"name": "atst", **SMALL_TRANSFORMER}, {"dropout": 0.1, "top_db_over": "batch"}),
    ):
        encoder = build_encoder(saved)
        for parameter in encoder.parameters():
            parameter.add_(1.0)  # no longer what a new encoder draws
        save_encoder(path, encoder, saved, "test")
        loaded = dict(build_encoder(saved | other, path).named_parameters())
        torch.testing.assert_close(loaded, dict(encoder.named_parameters()), rtol=0, atol=0)


def test_weights_of_the_other_front_end_are_refused(golden_dir, mirror_dir, tmp_path):
    with pytest.raises(CheckpointError, match=r"front end 'efficientat'.*strides: dilated"):
        MobileNet(width=0.4).load_official(next(mirror_dir.rglob("mn04*.pt")))
    for vectors in find_vectors(golden_dir, lambda about: "width_mult" in about.get("config", {})):
        encoder = MobileNet(width=vectors.config["width_mult"], front_end="efficientat")
        with pytest.raises(CheckpointError, match=r"front end 'fmn'"):
            encoder.load_official(vectors.save_weights(tmp_path))


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_a_file_with_its_tensors_in_a_wrapper_becomes_the_same(golden_dir, mirror_dir, tmp_path, wrapper):
    path, out, expected = (tmp_path / name for name in ("wrapped.pt", "out.safetensors", "expected.safetensors"))
    for vectors in of_heads(golden_dir, "linear", "attention"):
        torch.save({wrapper: vectors.weights, "epoch": 3}, path)
        assert identify(path).encoders == identify(official_file(vectors, tmp_path)).encoders, vectors.name
        convert(path, out, given=given(vectors))
        convert(official_file(vectors, tmp_path), expected, given=given(vectors))
        torch.testing.assert_close(read_checkpoint(out), read_checkpoint(expected), rtol=0, atol=0)
    torch.save({wrapper: torch.load(next(mirror_dir.rglob("mn04*.pt")))}, path)
    assert "classifier.5" in convert(path, out)
    with pytest.raises(CheckpointError, match=r"front end 'efficientat'.*strides: dilated"):
        MobileNet(width=0.4).load_official(path)


# width of fmn → width of the sequence head → parameters of the whole, by head; Source: cpjku_efficient.md §2.1
PUBLISHED = {
    (0.4, 104): {"transformer": 912_048, "hybrid": 1_041_026, "bigru": 1_204_670},
    (0.6, 160): {"transformer": 1_954_834, "hybrid": 2_259_518, "bigru": 2_557_358},
    (1.0, 128): {"transformer": 3_607_214, "hybrid": 3_801_806, "bigru": 4_334_990},
    (1.0, 256): {"transformer": 5_028_286, "hybrid": 5_810_702, "bigru": 6_483_854},
    (1.0, 512): {"transformer": 10_229_726, "hybrid": 13_367_438, "bigru": 13_140_878},
    (1.0, 1024): {"transformer": 30_069_790, "hybrid": 42_636_686, "bigru": 35_892_110},
    (2.0, 512): {"transformer": 19_391_462, "hybrid": 22_529_174, "bigru": 24_760_214},
    (3.0, 768): {"transformer": 43_078_910, "hybrid": 50_144_782, "bigru": 54_818_446},
}
COMBINATIONS = [(sizes, head) for sizes, heads in PUBLISHED.items() for head in heads]


def official_names(detector):
    """A detector's tensors as EfficientSED names them on disk."""
    named = {}
    for name, tensor in detector.state_dict().items():
        if name.startswith("encoders.mobilenet."):
            name = name.replace("encoders.mobilenet.", "model.")
            for layer in (".fc1.", ".fc2."):
                name = name.replace(layer, f".conc_se_layers.0{layer}")
        elif name.startswith("sequence.gru."):
            name = name.replace("sequence.", "seq_model.0.")
        elif name.startswith("sequence."):
            name = name.replace("sequence.", "seq_model.1.").replace("1.project.", "0.")
        named[
            "net." + name.replace("pooling.", "").replace("strong.", "strong_head.").replace("weak.", "weak_head.")
        ] = tensor
    return named


@pytest.mark.parametrize(("sizes", "head"), COMBINATIONS, ids=lambda value: str(value))
def test_published_combinations_load(sizes, head, tmp_path):
    width, inner = sizes
    sequence = {"name": head, "width": inner} | ({"heads": 4} if (head, inner) == ("transformer", 104) else {})
    torch.manual_seed(0)
    detector = Detector({"mobilenet": MobileNet(width=width)}, sequence, 447, frame_rate=25.0, pooling="mean")
    official, out = tmp_path / "fmn.safetensors", tmp_path / "converted.safetensors"
    save_file(official_names(detector), official)
    contents = identify(official)
    assert contents.encoders == [{"name": "mobilenet", "width": width}]
    assert contents.sequence["name"] == head and contents.sequence["width"] == inner
    assert contents.parameters == PUBLISHED[sizes][head]
    convert(official, out)
    loaded, _ = load_detector(out, "student")
    expected, found = detector.state_dict(), loaded.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    official.unlink(), out.unlink()


def crnn_file(path, roles=("student", "teacher")):
    """A file as the baseline's Lightning module writes it, and its networks."""
    from sedflow.encoders.cnn import CNN

    networks = {}
    for number, role in enumerate(roles):
        torch.manual_seed(number)
        networks[role] = Detector(
            {"cnn": CNN(gate="glu")}, {"name": "bigru", "width": 8}, 10, frame_rate=15.625, pooling="attention"
        )
    state = {}
    for role, network in networks.items():
        for name, tensor in network.state_dict().items():
            kind, _, rest = name.partition(".")
            if kind == "encoders":
                block, part, last = name.split(".", 5)[3:]
                name = f"cnn.cnn.{OF_A_BLOCK[part]}{block}.{last}"
            elif kind == "sequence":
                name = rest.replace("gru.", "rnn.rnn.")
            else:
                name = rest.replace("strong.", "dense.").replace("weak.", "dense_softmax.")
            state[f"sed_{role}.{name}"] = tensor
    torch.save({"state_dict": state, "epoch": 3, "hyper_parameters": {"net": {"nclass": 10}}}, path)
    return networks


@torch.no_grad()
def test_a_baselines_checkpoint_becomes_both_its_networks(tmp_path):
    path, out = tmp_path / "epoch=3.ckpt", tmp_path / "crnn.safetensors"
    networks = crnn_file(path)
    names = tmp_path / "classes.txt"
    names.write_text("\n".join(f"sound {number}" for number in range(10)))
    convert(path, out, names)
    waveform = 0.1 * torch.randn(1, 32_000)
    for role, network in networks.items():
        loaded, specification = load_detector(out, role)
        assert specification.classes[3] == "sound 3"
        expected = network.eval()(waveform, {}, 31).strong
        torch.testing.assert_close(loaded(waveform, {}, 31).strong, expected)


def cpjku_file(path, transformer):
    """A stage's file of CP-JKU, and its networks."""
    specs = [{"name": "cnn", "gate": "cg", "scale": "symmetric"}, transformer]
    options = {"frame_rate": 15.625, "pooling": "attention", "merge_dim": 8}
    options |= {"match": "average" if transformer["name"] == "atst" else "nearest"}
    state, networks = {}, {}
    for number, role in enumerate(("student", "teacher")):
        torch.manual_seed(number)
        encoders = {spec["name"]: build_encoder(spec) for spec in specs}
        networks[role] = network = Detector(encoders, {"name": "bigru", "width": 8, "layers": 2}, 27, **options)
        for parameter in network.parameters():
            parameter.data += 0.02 * torch.randn_like(parameter)
        state |= {f"{role}.{_cpjku_name(name)}": tensor for name, tensor in network.state_dict().items()}
    plain = {role: {n.removeprefix(f"{role}."): t for n, t in state.items() if n.startswith(role)} for role in networks}
    torch.save({"state_dict": state | {"mel.window": torch.ones(4)}, **plain}, path)
    return networks


def _cpjku_name(name):
    kind, _, rest = name.partition(".")
    if kind == "encoders" and rest.startswith("cnn."):
        _, _, block, part, last = rest.split(".", 4)
        return f"cnn.cnn.{ {**OF_A_BLOCK, 'gate': 'cg'}[part] }{block}.{last}"
    if kind == "encoders":
        rest = rest.partition(".")[2]
        if rest.startswith("embedding.patch_embed."):
            return "as_model.model.patch_embed." + rest.removeprefix("embedding.")
        for ours in ("embedding.patches.", "embedding.positions.", "embedding."):
            rest = rest.removeprefix(ours)
        projected = rest.startswith("projection.")
        return f"as_model.{rest.replace('projection', 'head_linear_layer') if projected else 'model.' + rest}"
    parts = {"gru.": "rnn.rnn.", "strong.": "dense.", "weak.": "dense_softmax."}
    if kind == "merge":
        return f"cat_tf.{rest}"
    ours = next(part for part in parts if rest.startswith(part))
    return rest.replace(ours, parts[ours], 1)


@torch.no_grad()
@pytest.mark.parametrize("name", ["atst", "passt"])
def test_cpjkus_checkpoint_becomes_both_its_networks_with_their_projections(name, tmp_path):
    transformer = {"name": name, "dim": 64, "depth": 1, "heads": 1, "projection": 20}
    path, out = tmp_path / "stage2.ckpt", tmp_path / "cpjku.safetensors"
    networks = cpjku_file(path, transformer)
    assert identify(path).system == "CP-JKU DCASE 2024" and identify(path).encoders[1]["projection"] == 20
    assert "left out mel" in convert(path, out, given={"heads": 1})
    waveform = 0.1 * torch.randn(1, 32_000)
    for role, network in networks.items():
        loaded, specification = load_detector(out, role)
        assert specification.detector["match"] == ("average" if name == "atst" else "nearest")
        found, expected = loaded(waveform, {}, 32), network.eval()(waveform, {}, 32)
        torch.testing.assert_close(found.strong, expected.strong)
        torch.testing.assert_close(found.weak, expected.weak)
        projection = loaded.encoders[name].projection
        assert torch.equal(projection.weight, network.encoders[name].projection.weight)
        assert not projection.weight.requires_grad
        left = loaded.encoders[name].load_official(path, network=role)
        assert f"{role}.as_model.head_linear_layer.weight" not in left
        assert f"{role}.dense.weight" in left


def test_a_projection_that_a_file_lacks_stays_as_it_was_drawn(tmp_path):
    spec = {"name": "atst", "dim": 16, "depth": 1, "heads": 2}
    save_encoder(tmp_path / "atst.safetensors", build_encoder(spec), spec, "test")
    one, two = (build_encoder(spec | {"projection": 5}, tmp_path / "atst.safetensors") for _ in range(2))
    assert torch.equal(one.projection.weight, two.projection.weight) and one.projection.weight.std() > 0
    assert one(torch.randn(1, 16_000)).shape == (1, 25, 5) and one.dim == 5
    assert {id(p) for layer in one.layers() for p in layer.parameters() if p.requires_grad} == {
        id(p) for p in one.parameters() if p.requires_grad
    }


def test_cpjkus_parameters_are_the_published_ones():
    crnn = [{"name": "cnn", "gate": "cg"}, {"name": "atst", "depth": 1, "projection": 527}]
    settings = {"sequence": {"name": "bigru", "width": 256, "layers": 2}, "frame_rate": 15.625, "merge_dim": 256}
    for encoders, published in ((crnn, 2_780_550), ([crnn[0], {"name": "beats", "depth": 1}], 2_842_246)):
        detector = build_detector({**settings, "encoders": encoders, "pooling": "attention"}, 27)
        transformer = detector.encoders[encoders[1]["name"]]
        own = sum(p.numel() for p in detector.parameters()) - sum(p.numel() for p in transformer.parameters())
        assert own == published
        if encoders is crnn:
            assert sum(p.numel() for p in transformer.projection.parameters()) == 405_263


def test_wrong_class_names_and_other_files_are_refused(tmp_path):
    path = tmp_path / "epoch=3.ckpt"
    crnn_file(path)
    names = tmp_path / "classes.txt"
    names.write_text("dog\ncat\n")
    with pytest.raises(CheckpointError, match=r"2 different classes.* reads 10"):
        convert(path, tmp_path / "out.safetensors", names)
    save_file({"layer.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="none of the encoders"):
        identify(tmp_path / "other.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_inspect_prints_what_a_file_is(mirror_dir, tmp_path):
    official, out = next(mirror_dir.rglob("mn04*.pt")), tmp_path / "mn04.safetensors"
    told = json.loads(CliRunner().invoke(commands, ["inspect", str(official)], catch_exceptions=False).stdout)
    assert told["system"] == "EfficientAT" and told["classes"] == {"clip": 527} and told["parameters"] == 983_599
    CliRunner().invoke(commands, ["convert", str(official), str(out)], catch_exceptions=False)
    told = json.loads(CliRunner().invoke(commands, ["inspect", str(out)], catch_exceptions=False).stdout)
    assert told["encoder"]["width"] == 0.4
