"""Pages against the papers' tables, and against what follows from them."""

import pytest

from sedflow import tuning
from sedflow.systems import build_corpus, read_system
from sedflow.yaml_text import read_yaml

WEAK_CLIPS = 1420  # of DESED, the shortest of its sources: an epoch of the published codes ends with them


def stage(system, variant, name):
    return read_system(system, variant).stages[name]


@pytest.mark.parametrize(
    ("variant", "sources", "epochs", "warmup_epochs", "psds"),
    [
        ("default", (24, 24, 48, 48), 250, 10, (0.583, 0.810)),
        ("batch_24", (4, 4, 8, 8), 40, 2, (0.535, 0.784)),
        ("batch_48", (8, 8, 16, 16), 80, 2, (0.562, 0.802)),
        ("batch_72", (12, 12, 24, 24), 125, 5, (0.570, 0.805)),
    ],
)
def test_atst_seds_batch_sizes_are_those_of_its_readme_in_steps(variant, sources, epochs, warmup_epochs, psds):
    finetune = stage("atst_sed", variant, "finetune")
    assert tuple(finetune.sources.values()) == sources
    per_epoch = WEAK_CLIPS // finetune.sources["weak"]
    assert (finetune.steps, finetune.optimizer.warmup_steps) == (epochs * per_epoch, warmup_epochs * per_epoch)
    assert next(loss for loss in finetune.losses if loss["name"] == "consistency")["ramp_steps"] == (
        finetune.optimizer.warmup_steps
    )
    assert tuple(read_system("atst_sed", variant).published.values()) == psds


def test_atst_seds_accumulation_makes_as_many_steps_as_its_batches_give():
    finetune = stage("atst_sed", "batch_24_accumulated", "finetune")
    assert finetune.steps == 250 * 177 // finetune.accumulate
    assert finetune.accumulate * sum(finetune.sources.values()) == sum(
        stage("atst_sed", "default", "finetune").sources.values()
    )


@pytest.mark.parametrize("variant", ["default", "conformer", "zipformer"])
@pytest.mark.parametrize("name", ["frozen", "finetune"])
def test_beats_sed_mixes_its_sources_as_its_readme_recommends(variant, name):
    sources = stage("beats_sed", variant, name).sources
    shares = {source: share / sum(sources.values()) for source, share in sources.items()}
    recommended = {"real_strong": 0.05, "synthetic_strong": 0.25, "weak": 0.30, "unlabeled": 0.40}
    assert shares == pytest.approx(recommended, abs=0.01)
    assert 3 <= shares["synthetic_strong"] / shares["real_strong"] <= 10


HEADS = {"tf": "transformer", "hybrid": "hybrid", "gru": "bigru"}
WIDTHS = {"fmn04": 0.4, "fmn06": 0.6, "fmn10": 1.0, "fmn20": 2.0, "fmn30": 3.0}
# model, rate of the backbone, head, width, rate of the head, PSDS1 (README of EfficientSED)
TABLE = """
fmn04 6e-3 - - - 39.52
fmn06 6e-3 - - - 40.75
fmn10 3e-3 - - - 42.28
fmn20 3e-3 - - - 43.86
fmn30 3e-3 - - - 44.24
fmn10 3e-3 tf 128 3e-3 42.75
fmn10 3e-3 tf 256 3e-3 43.86
fmn10 3e-3 tf 512 3e-3 44.11
fmn10 3e-3 tf 1024 3e-3 44.55
fmn10 3e-3 hybrid 128 3e-3 43.45
fmn10 3e-3 hybrid 256 8e-4 44.05
fmn10 3e-3 hybrid 512 3e-3 44.32
fmn10 3e-3 hybrid 1024 3e-3 44.48
fmn10 3e-3 gru 128 3e-3 43.13
fmn10 3e-3 gru 256 8e-4 43.53
fmn10 3e-3 gru 512 8e-4 43.96
fmn10 3e-3 gru 1024 8e-4 44.50
fmn04 6e-3 tf 104 3e-3 40.10
fmn04 6e-3 hybrid 104 3e-3 41.37
fmn04 6e-3 gru 104 3e-3 40.81
fmn06 6e-3 tf 160 3e-3 41.78
fmn06 6e-3 hybrid 160 3e-3 42.54
fmn06 6e-3 gru 160 8e-4 40.37
fmn20 3e-3 tf 512 3e-3 45.13
fmn20 3e-3 hybrid 512 3e-3 45.44
fmn20 3e-3 gru 512 8e-4 44.94
fmn30 3e-3 tf 768 3e-3 45.64
fmn30 3e-3 hybrid 768 3e-3 45.67
fmn30 3e-3 gru 768 8e-4 45.77
"""


@pytest.mark.parametrize("row", TABLE.strip().splitlines())
def test_efficient_seds_widths_heads_and_rates_are_those_of_its_readme(row):
    model, rate, head, width, head_rate, psds1 = row.split()
    variant = {"fmn10 tf 256": "default", f"{model} - -": model}.get(
        f"{model} {head} {width}", f"{model}_{head}_{width}"
    )
    system = read_system("efficient_sed", variant)
    (encoder,), strong = system.detector.encoders, system.stages["strong"]
    assert (encoder["width"], encoder["weights"]) == (WIDTHS[model], f"{model}_weak")
    assert system.detector.sequence["name"] == HEADS.get(head, "identity")
    assert head == "-" or system.detector.sequence["width"] == int(width)
    assert strong.optimizer.lr == {"mobilenet": float(rate), "head": float(rate if head_rate == "-" else head_rate)}
    assert strong.accumulate * sum(strong.sources.values()) == 256
    assert strong.steps == 120 * 391
    assert system.published == {"psds1_macro": pytest.approx(float(psds1) / 100)}


def weights(stage):
    return {(loss["name"], *loss.get("sources", [])): loss.get("weight", 1.0) for loss in stage.losses}


@pytest.mark.parametrize(
    ("variant", "synthetic", "batch"), [("default", 0.12, 72), ("passt", 0.12, 72), ("beats", 0.08, 72)]
)
def test_cpjkus_second_iteration_weighs_its_losses_as_its_readme(variant, synthetic, batch):
    found = stage("cpjku_dcase24", variant, "frozen_2")
    desed = ("real_strong", "synthetic_strong", "weak", "unlabeled")
    assert weights(found) == pytest.approx(
        {
            ("supervised", "soft"): 5 * 0.5,
            ("supervised", "real_strong"): 5 * 0.25,
            ("supervised", "synthetic_strong"): 5 * synthetic,
            ("supervised", "weak"): 5 * 0.1,
            ("consistency",): 5 * 0.1,
            ("distillation", *desed): 5 * 1.5 * (0.25 + synthetic + 0.1),
            ("distillation", "soft"): 5 * 1.5 * 0.5,
        }
    )
    assert not any(name == "distillation" for name, *_ in weights(stage("cpjku_dcase24", variant, "finetune_2")))


@pytest.mark.parametrize("variant", ["default", "passt", "beats"])
def test_cpjku_is_tested_on_the_windows_of_its_published_number(variant):
    assert build_corpus(read_system("cpjku_dcase24", variant).corpora[1]).hops["test"] == 1.0


def test_cpjku_chooses_among_its_published_boxes_and_reads_the_external_list():
    system = read_system("cpjku_dcase24")
    grid = [one for candidate in system.postprocess["candidates"] for one in tuning.combinations(candidate)]
    assert len(grid) == 2 * 8 * 8
    assert {one["step_seconds"] for one in grid} == {round(0.38 + 0.04 * k, 2) for k in range(8)}
    assert {one.get("merge_relative") for one in grid} == {None, *(1.5 + 0.25 * k for k in range(8))}
    assert {one["merge_absolute"] for one in grid} == {None, *(round(0.15 + 0.025 * k, 3) for k in range(8))}
    assert all((one["merge_absolute"] is None) != (one.get("merge_relative") is None) for one in grid)
    assert system.postprocess["objective"] == "psds1"
    sets = build_corpus(system.corpora[0]).sets
    assert sets["external"] == "real_strong" and sets["external_validation"] == "validation"


@pytest.mark.parametrize("variant", ["default", "passt", "beats"])
@pytest.mark.parametrize("name", ["frozen", "finetune", "frozen_2", "finetune_2"])
def test_every_stage_of_cpjku_knows_its_own_encoder(variant, name):
    found = stage("cpjku_dcase24", variant, name)
    encoder = read_system("cpjku_dcase24", variant).detector.encoders[1]["name"]
    assert found.freeze == ([encoder] if name.startswith("frozen") else [])
    assert set(found.optimizer.lr) == {"cnn", "head", *([] if found.freeze else [encoder])}


def test_every_page_has_a_tiny_form_of_the_same_stages():
    for name in ("atst_sed", "beats_sed", "efficient_sed", "cpjku_dcase24", "dcase2016_task2"):
        page, tiny = read_system(name), read_system(name, "tiny")
        assert list(tiny.stages) == list(page.stages)
        assert [e["name"] for e in tiny.detector.encoders] == [e["name"] for e in page.detector.encoders]
        assert not any("weights" in encoder for encoder in tiny.detector.encoders)
        assert {spec["name"] for spec in tiny.corpora} == {"demo"}
        for stage_name, tiny_stage in tiny.stages.items():
            same = {loss["name"] for loss in page.stages[stage_name].losses}
            assert {loss["name"] for loss in tiny_stage.losses} == same
            assert tiny_stage.steps <= 4


@pytest.mark.parametrize("system", ["atst_sed", "beats_sed", "cpjku_dcase24", "efficient_sed", "dcase2016_task2"])
def test_a_gpu_does_not_wait_until_one_process_has_read_a_batch(system):
    for variant in ("default", *read_system(system).variants):
        expected = 0 if variant.startswith("tiny") else 6  # ATST-SED's and the DCASE baselines'
        assert {stage.workers for stage in read_system(system, variant).stages.values()} == {expected}


def test_variants_of_the_comparison_say_what_was_published():
    assert read_yaml("workflow/systems/efficient_sed.yaml")["comparison"]["groups"]
    for name in ("atst_sed", "efficient_sed"):
        system = read_system(name)
        shown = [variant for group in system.comparison.groups.values() for variant in group]
        told = [variant for variant in shown if read_system(name, variant).published]
        assert len(told) >= len(shown) - 1


DROPOUT = {"dropout": 0.1, "attention_dropout": 0.1, "dropout_input": 0.1}


@pytest.mark.parametrize(
    ("system", "variant", "name", "rate", "warmup"),
    [
        *(("efficient_sed", f"teacher_{encoder}", "strong", 7e-5, 20000) for encoder in ("atst", "beats", "passt")),
        *(("efficient_sed", encoder, "strong", 1e-4, 20000) for encoder in ("atst", "beats", "passt")),
        *(("dcase2016_task2", name, "finetune", 1.06e-4, 4000) for name in ("default", "beats", "passt", "fmn10")),
        *(("dcase2016_task2", name, "finetune", 0.2, 4000) for name in ("atst_frozen", "beats_frozen")),
    ],
)
def test_pretrained_seds_rates_and_warm_ups_are_those_that_its_code_uses(system, variant, name, rate, warmup):
    page = read_system(system, variant)
    found = page.stages[name]
    assert set(found.optimizer.lr.values()) == {rate} and found.optimizer.warmup_steps == warmup
    for encoder in page.detector.encoders:
        trained = encoder["name"] == "beats" and not found.freeze
        assert encoder.get("cfg", {}) == (DROPOUT if trained else {})
    for mixup in (step for step in found.augment if step["name"] == "mixup"):
        assert mixup["stronger_first"]  # EfficientSED alone lets a clip be the weaker one


def test_efficient_sed_alone_mixes_with_any_share_and_every_epoch_draws_as_many_clips():
    default = stage("efficient_sed", "default", "strong")
    assert not any(step.get("stronger_first") for step in default.augment)
    for variant in ("default", "teacher_atst", "atst", "fmn04"):
        assert stage("efficient_sed", variant, "strong").epoch_clips == {"real_strong": 100_000}


@pytest.mark.parametrize(
    ("system", "name", "network", "metrics"),
    [
        ("atst_sed", "frozen", "teacher", ["bce"]),
        ("atst_sed", "finetune", "teacher", ["psds1", "psds2"]),
        ("cpjku_dcase24", "finetune_2", "student", ["segment_mpauc", "psds1"]),
        ("efficient_sed", "strong", "either", ["psds1_macro"]),
        ("dcase2016_task2", "finetune", "either", ["step"]),
    ],
)
def test_weights_are_kept_by_what_the_papers_keep_theirs_by(system, name, network, metrics):
    monitor = stage(system, "default", name).monitor
    assert (monitor.network, monitor.metrics) == (network, metrics)
