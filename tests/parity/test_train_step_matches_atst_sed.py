"""Training steps of ATST-SED's two stages, through the classes that train: augmentation, losses, gradients, EMA."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from vectors import Vectors, find_vectors

from sedflow.dataset import Batch, ClipSet, Inputs
from sedflow.detector import Detector
from sedflow.encoders.atst import ATST
from sedflow.encoders.cnn import CNN
from sedflow.events import ClassSet, Clip
from sedflow.frames import FrameGrid
from sedflow.learner import Learner, Step
from sedflow.params import Stage

# upstream's order of sources in a batch, by our names and kinds of labels
SOURCES = {"real_strong": "strong", "synthetic_strong": "strong", "weak": "weak", "unlabeled": "none"}
GROUPS = {"weak": "weak", "strong": "strong", "none": "unlabelled"}  # kind of labels → how the JSON names its draws
FRAME_RATE = 16000 / 256 / 4


class FakeEncoder(nn.Module):
    """The vectors' stand-in for ATST: a linear map of its features, averaged over four frames."""

    sample_rate, frame_rate, top_db_over = 16000, 25.0, "batch"
    features = ATST.features

    def __init__(self, dim, bands):
        super().__init__()
        self.dim = dim
        self.W = nn.Parameter(torch.zeros(dim, bands))
        self.spectrogram = ATST(dim=8, depth=1, heads=1).spectrogram

    def encode(self, features):
        count = features.shape[2] // 4
        return (self.W @ features)[:, :, : count * 4].unflatten(2, (count, 4)).mean(3).transpose(1, 2)

    def layers(self):
        return [self]


class Replay:
    """Numbers that upstream drew for a case, in the order in which augmentations ask for them."""

    def __init__(self, vectors: Vectors, case: dict, batch: Batch):
        self.bands = vectors.tensors["in/atst_mel_power"].shape[1]
        kinds = [GROUPS[kind] for kind in dict.fromkeys(batch.kinds)]
        self.coins = iter([not case["mixup"], not case["freq_warp"]])
        self.orders = iter([case[f"perm_{kind}"] for kind in kinds] if case["mixup"] else [])
        self.shares = iter([case[f"c_{kind}"] for kind in kinds] if case["mixup"] else [])
        # the JSON's order of groups is its own; each has a draw for the student and one for the teacher
        drawn = next((value for key, value in case.items() if key.startswith("freq_warp_params")), [])
        by_kind = dict(zip(["weak", "strong", "unlabelled"], zip(drawn[::2], drawn[1::2], strict=True), strict=False))
        warps = [warp for kind in kinds for warp in by_kind.get(kind, ())]
        self.heights, self.starts = iter([warp[2] for warp in warps]), iter([warp[0] for warp in warps])

    def random(self):
        return float(next(self.coins))

    def permutation(self, count):
        order = np.array(next(self.orders))
        assert len(order) == count
        return order

    def beta(self, alpha, beta, size):
        assert size == 1
        return np.array([next(self.shares)])

    def uniform(self, low, high):
        return (next(self.heights) + 0.5) / self.bands

    def integers(self, low, high):
        first = next(self.starts)
        assert low <= first < high
        return first


class Watched:
    """A loss that remembers what it saw."""

    def __init__(self, loss):
        self.loss = loss

    def __call__(self, step):
        self.step, self.value = step, self.loss(step)
        return self.value


def our_name(official: str, cnn: CNN) -> str:
    part, _, rest = official.partition(".")
    if part == "cnn":
        return "encoders.cnn." + cnn._our_name(rest.removeprefix("cnn."))
    places = {"rnn": "sequence.gru", "cat_tf": "merge", "dense": "pooling.strong", "dense_softmax": "pooling.weak"}
    return f"{(places | {'atst_frame': 'encoders.atst'})[part]}.{rest.removeprefix('rnn.')}"


def network(vectors: Vectors, which: str) -> Detector:
    net, weights = vectors.config["net"], vectors.weights
    bands = vectors.tensors["in/atst_mel_power"].shape[1]
    cnn = CNN(
        gate=net["activation"], dropout=net["dropout"], channels=net["nb_filters"], pooling=net["pooling"],
    )  # fmt: skip
    detector = Detector(
        {"cnn": cnn, "atst": FakeEncoder(net["embedding_size"], bands)},
        {"name": "bigru", "width": net["n_RNN_cell"], "layers": net["rnn_layers"]},
        net["nclass"],
        frame_rate=FRAME_RATE,
        pooling="attention",
        dropout=net["dropout"],
        merge_dim=net["nb_filters"][-1],
    )
    own = {name.removeprefix(f"{which}."): value for name, value in weights.items() if name.startswith(f"{which}.")}
    detector.load_state_dict({our_name(name, cnn): value.clone() for name, value in own.items()})
    return detector


def page(vectors: Vectors, case: dict) -> dict:
    """The stage as a page has it, its numbers from the vectors' JSON."""
    weight = {"weight": case["const_max"], "ramp_steps": case["rampup_len"]}
    mixup = {"name": "mixup", "on": "spectrum", "probability": 0.5}
    if case["stage"] == 1:
        augment = [mixup | {"encoders": ["cnn"], "teacher": "mixed"}]
        losses = [{"name": "supervised"}, {"name": "consistency", **weight}]
    else:
        augment = [mixup, {"name": "freq_warp", "probability": 0.5, "encoders": ["atst"]}]
        losses = [
            {"name": "supervised", "weak_weight": 0.5},
            {"name": "consistency", "weak_weight": 0.5, "group_divisor": 24, **weight},
        ]
    optimizer = {
        "name": "adam", "lr": {"cnn": 2e-4, "head": 2e-3, "atst": 1e-4}, "warmup": "exponential",
        "warmup_steps": case["rampup_len"], "schedule": "constant" if case["stage"] == 1 else "cosine",
        "floor": 0.0 if case["stage"] == 1 else 0.1,
    }  # fmt: skip
    stage = {
        "sources": dict(zip(SOURCES, vectors.config["batch_size"], strict=True)),
        "augment": augment,
        "losses": losses,
        "teacher": {"decay": vectors.config["ema_factor"], "ramped": case["stage"] == 1, "mode": "train"},
        "optimizer": optimizer,
        "steps": vectors.config["tot_steps"],
        "validate_every": vectors.config["tot_steps"],
    }
    return Stage.model_validate(stage).model_dump()


def learner_of(vectors: Vectors, case: dict) -> Learner:
    counts = zip(SOURCES, vectors.config["batch_size"], strict=True)
    clips = [Clip(f"{s}-{k}", f"{s}-{k}.flac", 1.0, f"{s}-{k}", s) for s, count in counts for k in range(count)]
    classes = ClassSet(tuple(f"class {k}" for k in range(vectors.config["net"]["nclass"])))
    options = {"grid": FrameGrid(FRAME_RATE), "clip_seconds": 1.0, "sample_rate": None, "caches": {}, "root": "."}
    clip_set = ClipSet(clips, SOURCES, {}, {}, classes, **options)
    student, teacher = network(vectors, "student"), network(vectors, "teacher")
    learner = Learner(student, page(vectors, case), clip_set, judge=None, seed=1, teacher=teacher)
    return learner.train()


def batch_of(vectors: Vectors, learner: Learner) -> Batch:
    audio, power, labels = (vectors.tensors[f"in/{name}"] for name in ("audio", "atst_mel_power", "labels"))
    sizes = zip(SOURCES.items(), vectors.config["batch_size"], strict=True)
    rows = [row for row, size in sizes for _ in range(size)]
    strong = labels.transpose(1, 2).clone()
    weak = labels.amax(2)
    with_events = torch.tensor([kind == "strong" for _, kind in rows])
    strong[~with_events] = 0  # upstream writes a weak clip's tags into its first frame
    inputs = Inputs(None, spectra={"cnn": learner.student.encoders["cnn"].spectrogram(audio), "atst": power})
    sources, kinds = zip(*rows, strict=True)
    valid = torch.ones(strong.shape[:2], dtype=torch.bool)
    return Batch(inputs, inputs, strong, weak, valid, sources, kinds, tuple(map(str, range(len(rows)))))


@dataclasses.dataclass
class Result:
    vectors: Vectors
    case: dict
    learner: Learner
    step: Step
    losses: dict
    total: torch.Tensor
    whole: Batch  # before augmentation

    def check(self, name, value):
        """Compare with the case's output.

        Upstream warps in float32 only, so there is no float64 run of those cases to take bounds from: theirs are the
        widest that the same output has in another case.
        """
        outputs, own = self.vectors.about["outputs"], f"{self.case['name']}/{name}"
        bounds = [
            about for key, about in outputs.items() if key.partition("/")[2] == name and "suggested_atol" in about
        ]
        if "suggested_atol" not in outputs[own]:
            outputs[own] |= {
                key: max(about[key] for about in bounds) for key in ("suggested_atol", "suggested_mean_atol")
            }
        self.vectors.check(own, value.detach())

    def has(self, name):
        return f"{self.case['name']}/{name}" in self.vectors.about["outputs"]


def run(vectors: Vectors, name: str) -> Result:
    case = vectors.about["cases"][name] | {"name": name}
    learner = learner_of(vectors, case)
    batch = batch_of(vectors, learner)
    # upstream's draws instead of ours; everything that is done with them is ours
    learner.random_numbers = lambda batch_idx: Replay(vectors, case, batch)
    learner.losses = [(label, Watched(loss), spec) for label, loss, spec in learner.losses]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "global_step", case["step_num"] - 1)  # upstream counts from 1
        total = learner.training_step(batch, 0)
        learner.on_before_zero_grad(None)
        weights = {label: learner.loss_weight(spec) for label, _, spec in learner.losses}
    total.backward()
    losses = {label: (loss, weights[label]) for label, loss, _ in learner.losses}
    return Result(vectors, case, learner, losses["consistency"][0].step, losses, total, batch)


@pytest.fixture(scope="module")
def results(golden_dir):
    found = find_vectors(golden_dir, lambda about: about.get("model", "").startswith("ATST-SED training step"))
    return [run(vectors, name) for vectors in found for name in vectors.about["cases"]]


def test_what_the_networks_read(results):
    for result in results:
        for who, inputs in (("student", result.step.batch.inputs), ("teacher", result.step.batch.clean)):
            features = result.learner.student.opened(inputs, "features").features
            for name, encoder in (("mel_in", "cnn"), ("atst_in", "atst")):
                if result.has(f"{who}_{name}"):
                    result.check(f"{who}_{name}", features[encoder])


def test_predictions(results):
    for result in results:
        for who in ("student", "teacher"):
            prediction = getattr(result.step, who)
            result.check(f"{who}_strong", prediction.strong.transpose(1, 2))
            result.check(f"{who}_weak", prediction.weak)


def test_labels_after_mixing(results):
    for result in results:
        batch, kinds = result.step.batch, np.array(result.step.batch.kinds)
        written = result.vectors.tensors["in/labels"].clone()
        strong = torch.from_numpy(kinds == "strong")
        written[strong] = batch.strong.transpose(1, 2)[strong]
        result.check("labels_after_mixup", written)
        result.check("labels_weak_used", batch.weak[kinds == "weak"])
        result.check("teacher_labels_weak_used", teacher_batch(result).weak[kinds == "weak"])


def teacher_batch(result: Result) -> Batch:
    """The batch with the labels of what the teacher read."""
    mixing = result.step.batch.mixing
    return result.step.batch if mixing is None or mixing.clean_too else result.whole


def test_every_loss_term(results):
    for result in results:
        supervised, _ = result.losses["supervised"]
        consistency, weight = result.losses["consistency"]
        for prefix, step in (
            ("", result.step),
            ("teacher_", Step(teacher_batch(result), result.step.teacher, None)),
        ):
            terms = supervised.loss.terms(step)
            result.check(f"{prefix}loss_strong", terms["strong"])
            result.check(f"{prefix}loss_weak", terms["weak"])
        mixing = result.step.batch.mixing
        if mixing is None or mixing.clean_too:
            terms = consistency.loss.terms(result.step, torch.ones(len(result.step.batch), dtype=torch.bool))
            result.check("mt_strong", terms["strong"])
            result.check("mt_weak", terms["weak"])
        else:
            names = {"strong": "strongset", "weak": "weakset", "none": "unlab"}
            for kind, name in names.items():
                rows = torch.tensor([of_row == kind for of_row in result.step.batch.kinds])
                terms = consistency.loss.terms(result.step, rows)
                result.check(f"ict_{name}_strong", terms["strong"])
                result.check(f"ict_{name}_weak", terms["weak"])
            result.check("loss_ict", 4 * consistency.value)
        result.check("weight", torch.tensor(weight, dtype=torch.float64))
        result.check("tot_self_loss", weight * consistency.value)
        result.check("tot_supervised", supervised.value)
        result.check("tot_loss", result.total)


def test_gradients(results):
    checked = 0
    for result in results:
        cnn, parameters = result.learner.student.encoders["cnn"], dict(result.learner.student.named_parameters())
        for name in result.vectors.about["outputs"]:
            case, _, official = name.partition("/grad/")
            if official and case == result.case["name"]:
                result.check(f"grad/{official}", parameters[our_name(official, cnn)].grad)
                checked += 1
    assert checked


def test_batch_statistics_of_both_networks(results):
    checked = 0
    for result in results:
        for who in ("student", "teacher"):
            detector = result.learner.networks[who]
            buffers = dict(detector.named_buffers())
            for name in result.vectors.about["outputs"]:
                case, _, official = name.partition(f"/{who}_bn/")
                if official and case == result.case["name"]:
                    result.check(f"{who}_bn/{official}", buffers[our_name(official, detector.encoders["cnn"])])
                    checked += 1
    assert checked


def test_the_teacher_after_its_update(results):
    checked = 0
    for result in results:
        teacher = result.learner.teacher
        parameters = dict(teacher.named_parameters())
        for name in result.vectors.about["outputs"]:
            case, _, official = name.partition("/teacher_after_ema/")
            if official and case == result.case["name"]:
                result.check(f"teacher_after_ema/{official}", parameters[our_name(official, teacher.encoders["cnn"])])
                checked += 1
    assert checked


def test_learning_rates(results):
    for stage, output in ((1, "lr_stage1"), (2, "lr_stage2_cosine")):
        result = next(result for result in results if result.case["stage"] == stage)
        vectors = result.vectors
        highest = vectors.output("lr_stage1")[-1].tolist()  # stage 1 stays at the peak
        learner, case = result.learner, result.case | {"rampup_len": vectors.config["rampup_len"]}
        learner.stage = page(vectors, case)
        learner.stage["optimizer"]["lr"] = dict(zip(("cnn", "head", "atst"), highest, strict=True))
        configured = learner.configure_optimizers()
        groups = {group["name"].split(".")[0]: group for group in configured["optimizer"].param_groups}
        rates = []
        for _ in range(vectors.config["tot_steps"]):
            rates.append([groups[part]["lr"] for part in ("cnn", "head", "atst")])
            configured["optimizer"].step()
            configured["lr_scheduler"]["scheduler"].step()
        at = vectors.tensors["in/lr_steps"]
        torch.testing.assert_close(torch.tensor(rates)[at - 1], vectors.output(output), rtol=1e-6, atol=0)
