"""Ensembles on a page: what runs before what, which files they are, and what is refused."""

import copy

import pytest
import yaml

from sedflow import params, plan, systems
from sedflow.params import SettingsError

PAGE = yaml.safe_load("""
title: A page
corpora: [{name: demo}]
clip_seconds: 10.0
sample_rate: 16000
detector:
  encoders: [{name: cnn}]
  sequence: {name: bigru, width: 8}
feature_shards: 1
stages:
  first:
    sources: {synthetic_strong: 8, weak: 4, unlabeled: 4}
    losses: [{name: supervised}, {name: consistency}]
    teacher: {decay: 0.9}
    optimizer: {lr: {head: 1.0e-3, cnn: 1.0e-3}}
    steps: 60
    validate_every: 20
  second:
    sources: {synthetic_strong: 8, unlabeled: 4}
    pseudo_labels: both
    losses: [{name: supervised}, {name: distillation}]
    optimizer: {lr: {head: 1.0e-3, cnn: 1.0e-3}}
    steps: 60
    validate_every: 20
ensembles:
  both:
    members: [{stage: first, network: teacher}, {variant: wide, stage: first}]
    sources: [weak, unlabeled]
inference: {window_seconds: 10.0}
postprocess: {name: median_filter}
variants: {default: {}, wide: {detector: {sequence: {width: 16}}}}
""")


def read(folder, variant="default", **changes):
    page = copy.deepcopy(PAGE)
    for path, value in changes.items():
        node = page
        *keys, last = path.split("__")
        for key in keys:
            node = node[key]
        node[last] = value
    (folder / "mine.yaml").write_text(yaml.safe_dump(page))
    return systems.read_system("mine", variant, folder)


def test_a_stage_reads_the_pseudo_labels_of_those_sources_of_the_ensemble_that_it_trains_on(tmp_path):
    system = read(tmp_path)
    assert plan.pseudo_files("mine", system, system.stages["first"], 3) == []
    assert plan.pseudo_files("mine", system, system.stages["second"], 3) == [
        "data/pseudo/mine/both/seed3/demo/unlabeled.npy"
    ]


def test_the_source_pseudo_reads_every_clip_that_the_ensemble_labelled(tmp_path):
    system = read(tmp_path, stages__second__sources={"synthetic_strong": 8, "pseudo": 4})
    assert plan.used_sources(system, system.stages["second"]) == [
        "synthetic_strong",
        "weak",
        "unlabeled",
        "validation",
    ]
    assert len(plan.pseudo_files("mine", system, system.stages["second"], 3)) == 2


def test_every_member_scores_a_source_with_the_seed_of_who_learns_from_it(tmp_path):
    files = plan.member_files(read(tmp_path), ensemble="both", system="mine", seed=3, corpus="demo", source="weak")
    assert files == [
        "data/logits/mine/default/first/seed3/teacher/demo/weak.npy",
        "data/logits/mine/wide/first/seed3/student/demo/weak.npy",
    ]


def test_a_third_member_is_one_line_and_leaves_the_files_of_the_others(tmp_path):
    wanted = {"system": "mine", "seed": 1, "corpus": "demo", "source": "weak"}
    two = plan.member_files(read(tmp_path), ensemble="both", **wanted)
    members = [*PAGE["ensembles"]["both"]["members"], {"variant": "wide", "stage": "first", "network": "teacher"}]
    three = plan.member_files(read(tmp_path, ensembles__both__members=members), ensemble="both", **wanted)
    assert three[:2] == two and len(three) == 3


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ensembles__both__members": [{"variant": "wode", "stage": "first"}]}, r"no variant 'wode'; .*'wide'"),
        ({"ensembles__both__members": [{"stage": "frist"}]}, r"no stage 'frist' in default; .*'first'"),
        ({"ensembles__both__members": [{"stage": "second", "network": "teacher"}]}, r"trains no teacher"),
        ({"ensembles__both__members": [{"stage": "second"}]}, r"stages wait for each other: .*second \(default\)"),
        ({"ensembles__both__members": []}, r"ensembles\.both\.members"),
        ({"ensembles__both__sources": ["validation"]}, r"'validation' is held out"),
        ({"ensembles__both__sources": ["unlabeld"]}, r"no corpus has 'unlabeld'; did you mean 'unlabeled'"),
        ({"ensembles__both__sources": ["weak"]}, r"labels \['weak'\], none of them in sources"),
        ({"stages__second__pseudo_labels": "btoh"}, r"no ensemble 'btoh'; did you mean 'both'"),
        ({"stages__second__losses": [{"name": "supervised"}]}, r"nothing learns from them"),
        ({"stages__first__sources": {"pseudo": 4}}, r"'pseudo' clips need `pseudo_labels"),
        ({"stages__first__start_from": "second"}, r"stages wait for each other"),
        ({"variants__wide__ensembles": {}}, r"variants\.wide\.ensembles"),
        ({"variants__wide__clip_seconds": 5.0}, r"wide has clip_seconds 5, but default"),
        ({"variants__wide__detector": {"frame_rate": 10.0}}, r"wide has detector\.frame_rate 10"),
    ],
)
def test_an_ensemble_that_cannot_be_is_refused(tmp_path, changes, said):
    with pytest.raises(SettingsError, match=said):
        read(tmp_path, **changes)


def test_training_depends_on_the_ensembles_name_only_its_labels_are_files(tmp_path):
    one = params.canonical(plan.train_settings("mine", read(tmp_path), "second"))
    members = [{"variant": "wide", "stage": "first"}]
    assert (
        params.canonical(plan.train_settings("mine", read(tmp_path, ensembles__both__members=members), "second")) == one
    )
