"""From a page to files and settings of each step."""

import copy
import shutil
from pathlib import Path

import pytest
import yaml

from sedflow import digest, dvc_digests, params, plan
from sedflow.params import SettingsError
from sedflow.systems import check_system, read_system

PAGE = yaml.safe_load("""
title: A page
corpora: [{name: demo}]
clip_seconds: 10.0
sample_rate: 16000
detector:
  encoders: [{name: mobilenet, width: 0.4, weights: mn04_as}, {name: cnn}]
  sequence: {name: bigru, width: 8}
feature_shards: 2
stages:
  frozen:
    freeze: [mobilenet]
    sources: {synthetic_strong: 8, weak: 0}
    losses: [{name: supervised}]
    optimizer: {lr: {head: 1.0e-3, cnn: 1.0e-3}}
    steps: 60
    validate_every: 20
  finetune:
    start_from: frozen
    sources: {synthetic_strong: 8, unlabeled: 4}
    losses: [{name: supervised}, {name: consistency}]
    teacher: {decay: 0.9}
    optimizer: {lr: {head: 1.0e-3, cnn: 1.0e-3, mobilenet: 1.0e-4}}
    steps: 60
    validate_every: 20
inference: {window_seconds: 10.0}
postprocess: {name: median_filter}
variants: {default: {}}
""")
SYSTEM = check_system(PAGE)
FROZEN, FINETUNE = SYSTEM.stages["frozen"], SYSTEM.stages["finetune"]


def changed(**changes):
    return check_system({**copy.deepcopy(PAGE), **changes})


def test_only_frozen_encoders_are_cached_and_only_for_sources_in_use():
    files = plan.cache_files(SYSTEM, FROZEN)
    (folder,) = plan.caches(SYSTEM, FROZEN).values()
    sources = ("synthetic_strong", "validation")
    assert sorted(files) == [f"{folder}/demo/{source}-{shard}.npy" for source in sources for shard in (0, 1)]
    assert plan.cache_files(SYSTEM, FINETUNE) == []


def test_a_stage_without_the_cache_may_augment_what_frozen_encoders_hear():
    stages = copy.deepcopy(PAGE["stages"])
    stages["frozen"]["augment"] = [{"name": "gain"}]
    with pytest.raises(SettingsError, match="cached: false"):
        changed(stages=stages)
    stages["frozen"]["cached"] = False
    system = changed(stages=stages)
    assert plan.cache_files(system, system.stages["frozen"]) == []


def test_a_page_cannot_name_an_encoder_or_the_folder_of_a_corpus_twice():
    with pytest.raises(SettingsError, match=r"corpora: two have the folder 'demo'; .*`as: demo_2`"):
        changed(corpora=[{"name": "demo"}, {"name": "demo", "seed": 2}])
    assert list(plan.corpora(changed(corpora=[{"name": "demo"}, {"name": "demo", "as": "demo_2"}]))) == [
        "demo",
        "demo_2",
    ]
    encoders = [*PAGE["detector"]["encoders"], {"name": "cnn", "channels": [4, 4, 4]}]
    with pytest.raises(SettingsError, match=r"detector\.encoders: 'cnn' appears twice; .*drop one"):
        changed(detector={**PAGE["detector"], "encoders": encoders})


def test_a_detector_that_listens_along_is_waited_for():
    stages = copy.deepcopy(PAGE["stages"])
    stages["finetune"]["losses"].append({"name": "distillation", "checkpoint": "models/a/b/c/seed1/best.safetensors"})
    assert plan.listeners(changed(stages=stages).stages["finetune"]) == ["models/a/b/c/seed1/best.safetensors"]


def test_other_code_of_a_detector_that_listens_along_trains_again():
    """efficient_sed's online variant trains a MobileNet, and BEATs listens."""
    system = read_system("efficient_sed", "online")
    used = plan.train_plugins(system, system.stages["strong"])
    assert {("encoders", "mobilenet"), ("encoders", "beats"), ("sequence", "identity")} <= set(used)
    paths = [path.name for path in digest.modules("train", used)]
    assert "beats.py" in paths and "beats_layers.py" in paths and "passt.py" not in paths
    stage = system.stages["strong"]
    elsewhere = [{"name": "distillation", "checkpoint": "downloads/seed1/best.safetensors"}]
    assert plan.listener_plugins(stage.model_copy(update={"losses": elsewhere})) == []
    unknown = [{"name": "distillation", "checkpoint": "models/nobody/default/strong/seed1/best.safetensors"}]
    assert plan.listener_plugins(stage.model_copy(update={"losses": unknown})) == []


@pytest.mark.parametrize("change", [{"clip_seconds": 5.0}, {"sample_rate": 32000}, {"feature_shards": 3}])
def test_another_length_rate_or_number_of_shards_is_another_cache(change):
    assert plan.caches(SYSTEM.model_copy(update=change), FROZEN) != plan.caches(SYSTEM, FROZEN)


def test_other_code_of_an_encoder_is_another_cache(monkeypatch):
    before = plan.caches(SYSTEM, FROZEN)
    monkeypatch.setattr(digest, "plugin", lambda family, name: f"another {name} of the {family}")
    assert plan.caches(SYSTEM, FROZEN) != before


def test_a_change_of_the_head_keeps_the_cache():
    detector = {**PAGE["detector"], "sequence": {"name": "transformer"}}
    assert plan.caches(changed(detector=detector), FROZEN) == plan.caches(SYSTEM, FROZEN)


def test_weights_are_read_where_training_begins():
    assert plan.weights(SYSTEM, FROZEN) == {"mobilenet": "models/pretrained/mn04_as.pt"}
    assert plan.weights(SYSTEM, FINETUNE) == {}


def test_weights_may_be_a_file_whose_content_names_the_cache(folder, tmp_path):
    file = tmp_path / "own.safetensors"
    file.write_bytes(b"some")
    page = yaml.safe_load((folder / "mine.yaml").read_text())
    page["detector"]["encoders"][0]["weights"] = str(file)
    (folder / "mine.yaml").write_text(yaml.safe_dump(page))
    pages = plan.Pages(folder, params.read_shared())
    system = pages.checked("mine", "default")
    assert plan.weights(system, system.stages["frozen"]) == {"mobilenet": str(file)}
    (before,) = plan.caches(system, system.stages["frozen"]).values()
    assert pages.cache(Path(before).name)["weights"] == str(file)
    file.write_bytes(b"some other")
    assert [before] != list(plan.caches(system, system.stages["frozen"]).values())
    file.unlink()
    with pytest.raises(
        SettingsError, match=r"mine\.yaml: detector\.encoders: weights: .*own\.safetensors: no such file"
    ):
        plan.Pages(folder, params.read_shared()).checked("mine", "default")


def test_a_stage_without_teacher_has_one_network():
    assert (plan.networks(FROZEN), plan.networks(FINETUNE)) == (["student"], ["student", "teacher"])


def test_training_does_not_depend_on_what_it_does_not_read():
    settings = params.canonical(plan.train_settings("a", SYSTEM, "frozen"))
    for change in ({"title": "Another"}, {"published": {"psds1": 0.5}}, {"postprocess": {"name": "csebbs"}}):
        assert params.canonical(plan.train_settings("a", changed(**change), "frozen")) == settings


def test_code_that_dvc_follows_is_what_snakemake_follows():
    digests = dvc_digests.code_digests(SYSTEM)
    assert set(digests) == {"data", "features", "frozen", "finetune", "evaluate", "report"}
    assert digests["finetune"] == f"train {digest.code('train', plan.train_plugins(SYSTEM, FINETUNE))}\n"
    assert f"score {digest.code('score', plan.network_plugins(SYSTEM))}\n" in digests["evaluate"]


def note(system, folder):
    """What DVC's first stage notes of a system."""
    for step, text in dvc_digests.code_digests(system).items():
        (folder / f"{step}.txt").write_text(text)


def test_labels_and_recordings_of_ones_own_are_followed_too_and_work_on_changed_ones_is_refused(tmp_path):
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio/a.wav").write_bytes(b"RIFF")
    rows = "".join(f"{name}.wav\t1\t2\tRobin\n" for name in "abcde")
    (tmp_path / "strong.tsv").write_text("filename\tonset\toffset\tevent_label\n" + rows)
    system = SYSTEM.model_copy(update={"corpora": [{"name": "folder", "path": str(tmp_path), "as": "birds"}]})
    note(system, tmp_path)
    dvc_digests.check_own_files(system, tmp_path)
    for file, content in (("strong.tsv", "e.wav\t1\t2\tRobin\n"), ("audio/f.wav", "RIFF")):
        with (tmp_path / file).open("a") as opened:
            opened.write(content)
        with pytest.raises(SettingsError, match=r"label tables of the corpora changed.* --force code"):
            dvc_digests.check_own_files(system, tmp_path)
        note(system, tmp_path)
    dvc_digests.check_own_files(system, tmp_path)
    (tmp_path / "data.txt").write_text("birds 0000000000000000\n")
    shutil.rmtree(tmp_path / "audio")  # a clone without recordings has nothing to say
    dvc_digests.check_own_files(system, tmp_path)


@pytest.mark.parametrize(
    ("file", "step", "kind"),
    [
        ("own.pt", "features", "the weights of an encoder"),
        ("listener.safetensors", "finetune", "detectors that run during training"),
        ("impulses/phone.wav", "finetune", "recordings of augmentations"),
    ],
)
def test_weights_listeners_and_impulse_responses_of_ones_own_are_followed_too(tmp_path, file, step, kind):
    (tmp_path / "impulses").mkdir()
    for name in ("own.pt", "listener.safetensors", "impulses/phone.wav"):
        (tmp_path / name).write_bytes(b"some")
    detector, stages = copy.deepcopy(PAGE["detector"]), copy.deepcopy(PAGE["stages"])
    detector["encoders"][0]["weights"] = str(tmp_path / "own.pt")
    stages["finetune"]["losses"].append({"name": "distillation", "checkpoint": str(tmp_path / "listener.safetensors")})
    stages["finetune"]["augment"] = [{"name": "device_impulse", "folder": str(tmp_path / "impulses")}]
    system = SYSTEM.model_copy(update={"detector": params.Detector(**detector)})
    system = system.model_copy(update={"stages": {name: params.Stage(**stage) for name, stage in stages.items()}})
    note(system, tmp_path)
    dvc_digests.check_own_files(system, tmp_path)
    before = dvc_digests.code_digests(system)
    (tmp_path / file).write_bytes(b"some other")
    after = dvc_digests.code_digests(system)
    assert step in {name for name in before if after[name] != before[name]} <= {"features", "frozen", "finetune"}
    with pytest.raises(SettingsError, match=f"{kind}.* changed, which DVC does not see"):
        dvc_digests.check_own_files(system, tmp_path)
    (tmp_path / file).unlink()  # a clone without them has nothing to say
    dvc_digests.check_own_files(system, tmp_path)


def test_a_detector_that_listens_along_and_that_a_page_makes_counts_by_its_recipe(tmp_path, monkeypatch):
    """Snakemake makes it within `dvc repro`, after DVC noted what it follows."""
    page = Path("workflow/systems/efficient_sed.yaml")
    checkpoint = "models/efficient_sed/beats/strong/seed1/best.safetensors"
    for name in ("data", page.parent):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(name, tmp_path / name, ignore=shutil.ignore_patterns("raw", "audio", "features"))
    monkeypatch.chdir(tmp_path)
    stages = copy.deepcopy(PAGE["stages"])
    stages["finetune"]["losses"].append({"name": "distillation", "checkpoint": checkpoint})
    system = changed(stages=stages)
    note(system, tmp_path)
    Path(checkpoint).parent.mkdir(parents=True)
    Path(checkpoint).write_bytes(b"just made")
    dvc_digests.check_own_files(system, tmp_path)
    page.write_text(page.read_text().replace("clip_seconds: 10.0", "clip_seconds: 9.0"))
    with pytest.raises(SettingsError, match=r"detectors that run during training.* changed, which DVC does not see"):
        dvc_digests.check_own_files(system, tmp_path)


def test_official_weights_of_another_sum_and_later_stages_that_read_the_cache_are_followed_by_dvc(monkeypatch):
    before = dvc_digests.code_digests(SYSTEM)
    stages = copy.deepcopy(PAGE["stages"])
    stages["finetune"]["freeze"] = ["mobilenet"]
    del stages["finetune"]["optimizer"]["lr"]["mobilenet"]
    assert dvc_digests.code_digests(changed(stages=stages))["features"] != before["features"]
    stages = copy.deepcopy(PAGE["stages"])
    stages["frozen"]["cached"] = False
    assert dvc_digests.code_digests(changed(stages=stages))["features"] != before["features"]
    releases = digest.pretrained()
    other = {**releases, "mn04_as": {**releases["mn04_as"], "sha256": "another"}}
    monkeypatch.setattr(digest, "pretrained", lambda: other)
    after = dvc_digests.code_digests(SYSTEM)
    assert {name for name in before if after[name] != before[name]} == {"features", "frozen"}


def test_a_page_that_dvc_does_not_cover_is_refused_with_what_covers_it():
    dvc_digests.check("mine", SYSTEM)
    first = {**copy.deepcopy(PAGE["stages"]["frozen"])}
    with pytest.raises(SettingsError, match=r"its stages are \['only'\].*run `snakemake mine`"):
        dvc_digests.check("mine", changed(stages={"only": first}))


@pytest.fixture
def folder(tmp_path):
    pages = tmp_path / "systems"
    shutil.copytree("workflow/systems", pages)
    (pages / "mine.yaml").write_text(yaml.safe_dump({**PAGE, "corpora": [{"name": "demo", "as": "demo_2", "seed": 5}]}))
    return pages


def test_a_corpus_may_lie_in_a_folder_of_its_own(folder):
    pages = plan.Pages(folder, params.read_shared())
    assert pages.corpus("demo_2") == {"name": "demo", "seed": 5}
    assert "seed" not in pages.corpus("demo")
    settings = plan.train_settings("mine", pages.checked("mine", "default"), "frozen")
    assert settings["corpora"] == [{"name": "demo", "seed": 5}]


def test_post_processing_for_a_corpus_that_the_page_lacks_is_refused(folder):
    spec = {"name": "csebbs", "corpora": ["dmeo"]}
    (folder / "mine.yaml").write_text(
        yaml.safe_dump({**PAGE, "corpora": [{"name": "demo", "as": "mine"}], "postprocess": spec})
    )
    with pytest.raises(SettingsError, match=r"mine\.yaml: postprocess\.corpora: no 'dmeo'.*mine"):
        plan.Pages(folder, params.read_shared()).checked("mine", "default")


def test_a_cache_is_found_by_its_folder_whatever_system_it_belongs_to(folder):
    pages = plan.Pages(folder, params.read_shared())
    (path,) = plan.caches(pages.system("mine"), FROZEN).values()
    found = pages.cache(Path(path).name)
    assert (found["encoder"], found["weights"]) == ({"name": "mobilenet", "width": 0.4}, "mn04_as")
    with pytest.raises(SettingsError, match="no page"):
        pages.cache("mobilenet-0-1")


def test_recordings_that_an_augmentation_reads_are_followed(tmp_path):
    stage = (
        read_system("cpjku_dcase24")
        .stages["frozen"]
        .model_copy(update={"augment": [{"name": "device_impulse", "folder": str(tmp_path)}, {"name": "mixup"}]})
    )
    before = plan.augment_listing_digest(stage)
    (tmp_path / "microphone.wav").write_bytes(b"a response")
    assert plan.augment_listing_digest(stage) != before
