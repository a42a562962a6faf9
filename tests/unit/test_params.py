"""Settings: what a page may say, and how it is told that it is wrong."""

import copy
import json
from pathlib import Path

import pytest
import yaml

from sedflow import systems
from sedflow.params import SettingsError, canonical
from sedflow.systems import check_system
from sedflow.yaml_text import overlay, read_yaml

PAGES = sorted(Path("workflow/systems").glob("*.yaml"))
PAGE = yaml.safe_load("""
title: A page
corpora: [{name: demo}]
detector:
  encoders: [{name: mobilenet, width: 0.4}]
  sequence: {name: bigru, width: 8}
stages:
  frozen:
    freeze: [mobilenet]
    sources: {synthetic_strong: 8, weak: 4}
    losses: [{name: supervised}, {name: consistency, weight: 2.0}]
    teacher: {decay: 0.9}
    optimizer: {lr: {head: 1.0e-3}, warmup_steps: 5}
    steps: 60
    validate_every: 20
  finetune:
    start_from: frozen
    sources: {synthetic_strong: 8}
    losses: [{name: supervised}]
    optimizer: {lr: {head: 1.0e-3, mobilenet: 1.0e-4}}
    steps: 60
    validate_every: 20
postprocess: {name: median_filter}
""")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_page_and_variant_is_in_order(page):
    system = systems.read_system(page.stem)
    for variant in system.variants:
        assert systems.read_system(page.stem, variant).stages


def put(page, path, value):
    page = copy.deepcopy(page)
    node = page
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return page


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["tilte"], "x", r"tilte: unknown setting; did you mean 'title'"),
        (["stages", "frozen", "step"], 3, r"stages\.frozen\.step: unknown setting; did you mean 'steps'"),
        (["stages", "frozen", "steps"], "many", r"stages\.frozen\.steps: .*got 'many'"),
        (["stages", "frozen", "steps"], -1, r"stages\.frozen\.steps"),
        (["stages", "frozen", "optimizer", "lr"], {}, r"stages\.frozen\.optimizer\.lr: no learning rate for 'head'"),
        (["stages", "frozen", "monitor"], {"network": "pupil"}, r"monitor.*'student', 'teacher' or 'either'"),
        (["stages", "finetune", "monitor"], {"network": "teacher"}, r"monitor\.network: this stage trains no teacher"),
        (["stages", "frozen", "epoch_clips"], {"weka": 9}, r"epoch_clips: 'weka' is not a source.*did you mean 'weak'"),
        (["stages", "frozen", "sources"], {"weka": 4}, r"no corpus has 'weka'; did you mean 'weak'"),
        (["stages", "frozen", "sources"], {"test": 4}, r"'test' is held out"),
        (["stages", "frozen", "sources"], {"weak": 0}, r"give an empty batch"),
        (["stages", "frozen", "freeze"], ["mobilnet"], r"no encoder 'mobilnet'; did you mean 'mobilenet'"),
        (["stages", "finetune", "start_from"], "frosen", r"no stage 'frosen'; did you mean 'frozen'"),
        (["stages", "frozen", "teacher"], None, r"consistency needs a teacher"),
        (["stages", "frozen", "validate_every"], 7, r"validate_every: 7 must divide steps"),
        (["detector", "sequence", "widht"], 3, r"detector\.sequence\.widht"),
        (["detector", "pooling"], "sum", r"detector\.pooling"),
        (["corpora"], [], r"corpora"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_place(path, value, message):
    with pytest.raises(SettingsError, match=message):
        check_system(put(PAGE, path, value), "page.yaml")


def test_an_unknown_system_or_variant_is_refused_with_the_nearest_one():
    with pytest.raises(SettingsError, match="did you mean 'demo'"):
        systems.read_system("dmeo")
    with pytest.raises(SettingsError, match=r"no variant 'defualt'.*did you mean 'default'"):
        systems.read_system("demo", "defualt")


def test_numbers_that_yaml_takes_for_text_are_numbers(tmp_path):
    (tmp_path / "page.yaml").write_text("a: 1e-05\nb: [3e-3, text, one2e]\nc: '12'\n")
    assert read_yaml(tmp_path / "page.yaml") == {"a": 1e-05, "b": [0.003, "text", "one2e"], "c": "12"}


def test_words_that_old_yaml_takes_for_truth_values_are_words(tmp_path):
    (tmp_path / "page.yaml").write_text("{on: spectrum, a: [yes, no, off, y], b: [true, False]}")
    assert read_yaml(tmp_path / "page.yaml") == {
        "on": "spectrum",
        "a": ["yes", "no", "off", "y"],
        "b": [True, False],
    }


@pytest.mark.parametrize("text", ["", "- a\n", "a: [1\n"])
def test_a_page_that_is_no_mapping_is_refused(tmp_path, text):
    (tmp_path / "page.yaml").write_text(text)
    with pytest.raises(SettingsError, match=r"page\.yaml"):
        read_yaml(tmp_path / "page.yaml")


def test_a_key_that_stands_twice_is_refused_where_it_stands(tmp_path):
    page = tmp_path / "page.yaml"
    page.write_text("a: &a {x: 1}\nb: &b {<<: *a, x: 2}\nc: {<<: *b, x: 3}\n")
    assert read_yaml(page)["c"] == {"x": 3}
    page.write_text("detector:\n  steps: 1\n  dropout: 0.5\n  steps: 2\n")
    with pytest.raises(SettingsError, match=r"page\.yaml: not valid YAML: 'steps' appears twice(?s:.*)line 4"):
        read_yaml(page)


@pytest.mark.parametrize(
    ("encoder", "rate", "own"),
    [
        ({"name": "mobilenet", "front_end": "efficientat"}, 16000, 32000),
        ({"name": "mobilenet"}, 32000, 16000),
        ({"name": "beats"}, 44100, 16000),
    ],
)
def test_a_rate_that_is_not_the_encoders_is_refused(encoder, rate, own):
    page = copy.deepcopy(PAGE) | {"sample_rate": rate}
    page["detector"]["encoders"] = [encoder]
    with pytest.raises(SettingsError, match=f"sample_rate: {encoder['name']} expects {own} Hz.*set it to {own}"):
        check_system(page, "page.yaml")


@pytest.mark.parametrize("given", [{}, {"sample_rate": 22050}])
def test_a_corpus_whose_clips_would_lack_what_the_encoders_hear_is_refused(given):
    page = copy.deepcopy(PAGE) | {"sample_rate": 32000, "corpora": [{"name": "demo", **given}]}
    page["detector"]["encoders"] = [{"name": "mobilenet", "front_end": "efficientat"}]
    written = given.get("sample_rate", 16000)
    message = f"corpora: demo writes its clips at {written} Hz, below .* 32000; set `sample_rate: 32000`"
    with pytest.raises(SettingsError, match=message):
        check_system(page, "page.yaml")
    for enough in (32000, 44100):
        page["corpora"] = [{"name": "demo", "sample_rate": enough}]
        check_system(page, "page.yaml")


def test_a_setting_that_is_missing_is_named_without_the_whole_page():
    page = {key: value for key, value in PAGE.items() if key != "title"}
    with pytest.raises(SettingsError) as error:
        check_system(page, "page.yaml")
    assert str(error.value) == "page.yaml: title: is missing"


def test_a_variant_changes_what_it_names_and_nothing_else():
    base = {"a": {"b": 1, "c": [1, 2]}, "d": {"name": "x", "width": 1}}
    merged = overlay(base, {"a": {"c": [3]}, "d": {"name": "y"}})
    assert merged == {"a": {"b": 1, "c": [3]}, "d": {"name": "y"}}
    assert base == {"a": {"b": 1, "c": [1, 2]}, "d": {"name": "x", "width": 1}}


def test_null_in_a_variant_takes_a_setting_away():
    assert overlay({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": None}, "d": None, "e": None}) == {"a": {"c": 2}}


def test_canonical_settings_do_not_depend_on_the_order_of_keys():
    assert canonical({"b": 1, "a": {"d": 2, "c": 3}}) == canonical(json.loads('{"a": {"c": 3, "d": 2}, "b": 1}'))
    assert canonical(check_system(PAGE)) == canonical(check_system(dict(reversed(PAGE.items()))))
