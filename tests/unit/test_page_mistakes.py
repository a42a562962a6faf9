"""Pages that would train something else than they say: each is refused with its place, the value and the cure."""

import copy

import pytest

from sedflow.plugins import SettingsError
from sedflow.systems import check_system, of_variant, read_page

CPJKU, _ = read_page("cpjku_dcase24")
WAVMIX, MIXUP = {"name": "wavmix"}, {"name": "mixup", "on": "features"}
ON_WAVEFORM = {"name": "mixup", "on": "waveform"}


def changed(stage, path, value):
    """The page with one value of a stage changed; ``path`` is its keys and positions."""
    page = copy.deepcopy(CPJKU)
    *way, last = ("stages", stage, *path)
    node = page
    for key in way:
        node = node[key]
    node[last] = value
    return page


def refused(page, message):
    with pytest.raises(SettingsError, match=message):
        check_system(page, "page.yaml")


SOFT, CONSISTENCY, DISTILLATION = ("losses", 0), ("losses", 4), ("losses", 5)
WAVMIXED, MIXED = ("augment", 0), ("augment", 1)


@pytest.mark.parametrize(
    ("stage", "path", "value", "message"),
    [
        ("frozen", (*SOFT, "sources"), ["sotf"], r"losses\.sources: .*'sotf', .*not a source .*did you mean 'soft'"),
        ("frozen", (*SOFT, "sources"), [], r"losses\.sources: supervised lists no source"),
        ("frozen", (*SOFT, "sources"), ["unlabeled"], r"learns from labels, and \['unlabeled'\] have none"),
        ("frozen", (*CONSISTENCY, "weak_sources"), ["weka"], r"losses\.weak_sources: .*did you mean 'weak'"),
        ("frozen_2", (*DISTILLATION, "sources"), ["real"], r"losses\.sources: distillation names 'real'"),
        ("frozen", (*WAVMIXED, "sources"), ["real"], r"augment\.sources: wavmix names 'real'"),
        ("frozen", (*WAVMIXED, "sources"), ["weak"], r"labels with onsets and offsets, and \['weak'\] have none"),
        ("frozen", (*MIXED, "groups"), [["sotf"]], r"augment\.groups: .*did you mean 'soft'"),
        ("frozen", (*MIXED, "groups"), [["soft"], ["weak", "soft"]], r"\['soft'\] are in two groups"),
        ("frozen", (*MIXED, "groups"), [["weak", "soft"]], r"differ in kind: \['strong', 'weak'\]; mix by `kind`"),
        ("frozen", (*MIXED, "groups"), "batch", r"'unlabeled'\] cannot be mixed, their labels differ in kind"),
        ("frozen", (*MIXED, "groups"), "kinds", r"mixup cannot take 'kinds': Input should be 'kind'"),
        ("frozen", (*MIXED, "labels"), "sfot", r"augment\.labels: mixup cannot take 'sfot': .*'soft' or 'union'"),
        ("frozen", (*MIXED, "known"), "any", r"augment\.known: mixup cannot take 'any'"),
        ("frozen", (*MIXED, "teacher"), "mixd", r"augment\.teacher: mixup cannot take 'mixd'"),
        ("frozen", (*MIXED, "probability"), 5, r"augment\.probability: mixup cannot take 5: .*less than or equal to 1"),
        ("frozen", (*MIXED, "probability"), True, r"mixup does not take true"),
        ("frozen", (*MIXED, "alpha"), -1, r"augment\.alpha: mixup cannot take -1: .*greater than 0"),
        ("frozen", (*CONSISTENCY, "classes"), "knwon", r"consistency cannot take 'knwon'"),
        ("frozen", (*CONSISTENCY, "weight"), -1, r"losses: consistency: weight: .*greater than or equal to 0"),
        ("frozen", (*CONSISTENCY, "ramp"), "exponential", r"ramp_limit .*the ramp is exponential, drop it"),
        ("frozen", (*CONSISTENCY, "ramp_steps"), 0, r"a linear ramp with ramp_steps 0 does nothing"),
        ("frozen", (*CONSISTENCY, "dilute"), True, r"losses\.dilute: .*ignores it without `classes: known`"),
        ("frozen", (*CONSISTENCY, "count_kinds"), True, r"losses\.count_kinds: .*without `group_divisor`; add that"),
        ("frozen_2", (*DISTILLATION, "network"), "teacher", r"losses\.network: .*ignores it without `checkpoint`"),
        ("frozen_2", (*DISTILLATION, "balance"), 7, r"distillation cannot take 7"),
        ("frozen", ("optimizer", "floor"), 2, r"optimizer\.floor: .*less than or equal to 1"),
        (
            "frozen",
            ("optimizer", "constant_steps"),
            5,
            r"constant_steps belongs to constant_then_cosine, not to cosine",
        ),
        ("frozen", ("optimizer", "lr", "cnn"), -1, r"optimizer\.lr\.cnn: .*greater than 0"),
        ("finetune", ("optimizer", "layer_decay", "atst"), 5, r"layer_decay\.atst: .*less than or equal to 1"),
        ("finetune", ("dropout", "cnn"), 2, r"dropout\.cnn: .*less than 1"),
        (
            "finetune",
            ("augment", 2, "min_seconds"),
            3.5,
            r"min_seconds: time_mask has 3\.5, more than its max_seconds 3",
        ),
        ("finetune", ("augment", 2, "max_seconds"), 30, r"max_seconds: 30 is longer than a clip"),
        (
            "finetune",
            ("augment", 2, "clip_seconds"),
            3.0,
            r"time_mask has 3, but this page 10; leave `clip_seconds` out",
        ),
        (
            "finetune",
            ("augment", 6, "max_bands"),
            40,
            r"would take 240 of the .* bands that \w+ reads; lower max_bands",
        ),
    ],
)
def test_a_setting_that_would_do_something_else_is_refused(stage, path, value, message):
    refused(changed(stage, path, value), message)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (
            {"schedule": "constant", "floor": 0.5},
            r"stages\.frozen\.optimizer: floor .*a constant one has none, drop it",
        ),
        (
            {"schedule": "constant_then_cosine", "constant_steps": 14200},
            "14200 of 14200 steps leave none for the decay",
        ),
    ],
)
def test_a_schedule_that_has_no_use_for_its_settings_is_refused(schedule, message):
    page = copy.deepcopy(CPJKU)
    page["stages"]["frozen"]["optimizer"].update(schedule)
    refused(page, message)


@pytest.mark.parametrize(
    "after",
    [
        {"name": "frame_shift"},
        {"name": "time_mask", "labels": True},
        MIXUP | {"groups": [["soft"]]},
    ],
    ids=lambda settings: settings["name"],
)
def test_what_moves_or_mixes_clips_behind_a_mixup_that_the_teacher_follows_is_refused(after):
    refused(changed("finetune", ("augment",), [MIXUP, after]), "cannot follow; put it before mixup|2 mixups need")


def test_wavmix_behind_a_mixup_of_waveforms_is_refused_only_if_someone_follows_the_mixing():
    augment = [ON_WAVEFORM, WAVMIX]
    refused(changed("finetune", ("augment",), augment), "'wavmix' changes clips and labels after 'mixup'")
    check_system(changed("finetune", ("augment",), [ON_WAVEFORM | {"teacher": "mixed"}, WAVMIX]))
    page = changed("finetune", ("augment",), augment)
    page["stages"]["finetune"]["losses"] = [{"name": "supervised"}]
    check_system(page)


def test_a_detector_that_listens_along_cannot_follow_either():
    page = changed("frozen", ("augment",), [MIXUP | {"teacher": "mixed"}, {"name": "frame_shift"}])
    check_system(page)
    page["stages"]["frozen"]["losses"].append({"name": "distillation", "checkpoint": "models/a/b/c/best.safetensors"})
    refused(page, "the detector of distillation.checkpoint cannot follow; put it before mixup$")
    # it would hear each clip masked, and then their mixture; the student hears the mixture masked
    page["stages"]["frozen"]["augment"][-1] = {"name": "time_mask"}
    refused(
        page, "'time_mask' changes clips and labels after 'mixup', and the detector of distillation.checkpoint cannot"
    )


def test_pseudo_labels_are_a_kind_of_their_own():
    page = changed(
        "frozen_2",
        ("sources",),
        {"soft": 12, "real_strong": 10, "synthetic_strong": 10, "weak": 20, "unlabeled": 10, "pseudo": 10},
    )
    page["stages"]["frozen_2"]["augment"][1]["groups"] = [["soft", "pseudo"]]
    refused(page, r"\['soft', 'pseudo'\] cannot be mixed, .*\['pseudo', 'strong'\]")
    page["stages"]["frozen_2"]["augment"][1]["groups"] = [["pseudo"], ["weak"]]
    check_system(page)


def test_features_of_an_encoder_that_a_stage_before_trained_are_not_in_the_cache():
    page, _ = read_page("atst_sed")
    page = copy.deepcopy(page)
    page["stages"]["head"] = page["stages"]["frozen"] | {"start_from": "finetune", "augment": []}
    page["stages"]["later"] = page["stages"]["head"] | {"start_from": "head"}
    refused(page, r"stages\.head\.freeze: 'finetune' trains 'atst', but the cache .* `cached: false`")
    page["stages"]["head"] |= {"cached": False}
    refused(page, r"stages\.later\.freeze: 'finetune' trains 'atst'")
    page["stages"]["later"] |= {"cached": False}
    check_system(page)


@pytest.mark.parametrize(
    ("augmentation", "cure"),
    [
        ({"name": "gain"}, r"drop it here or let 'atst' process"),
        ({"name": "freq_warp"}, r"here, name other `encoders`, or let"),
    ],
)
def test_the_cure_for_what_cannot_reach_cached_features_is_one_that_there_is(augmentation, cure):
    page = changed("frozen", ("augment",), [augmentation])
    page["stages"]["frozen"]["cached"] = True
    refused(page, r"'atst' is frozen and only its cached features are read; .*" + cure)


@pytest.mark.parametrize("on", ["waveform", "spectrum", "features"])
def test_a_mixture_is_heard_by_every_encoder_that_is_not_cached(on):
    spared = {"name": "mixup", "on": on, "encoders": ["cnn"], "teacher": "mixed"}
    refused(changed("finetune", ("augment",), [spared]), r"labels are mixed, so \['atst'\] cannot read the clips unmix")
    page = changed("frozen", ("augment",), [spared])
    page["stages"]["frozen"]["cached"] = True
    check_system(page)


def test_what_finds_none_of_its_clips_is_warned_of_and_the_rest_is_not(caplog):
    check_system(CPJKU, "page.yaml")
    page = changed("frozen", ("sources", "soft"), 0)  # a mixup of several groups, wavmix and consistency have others
    check_system(page, "page.yaml")
    (line,) = caplog.messages
    assert line.startswith("page.yaml: stages.frozen.losses: supervised does nothing: none of ['soft'] has a share in ")
    assert line.endswith("give one a share, or list this stage's `losses` without it")
    caplog.clear()
    off = {"soft": 0, "real_strong": 0, "synthetic_strong": 0, "weak": 20, "unlabeled": 20}
    check_system(changed("finetune", ("sources",), off), "page.yaml")
    told = [line.partition(" does nothing")[0].removeprefix("page.yaml: stages.finetune.") for line in caplog.messages]
    assert told == [*["losses: supervised"] * 3, "augment: wavmix", "augment: time_mask"]


def test_a_source_that_no_corpus_has_can_be_switched_off_but_not_misspelt():
    page, _ = read_page("atst_sed")
    page = of_variant(page, "tiny")
    page["corpora"][0]["unlabeled"] = 0
    for stage in page["stages"].values():
        stage["sources"] |= {"unlabeled": 0, "pseudo": 0}
    check_system(page)
    page["stages"]["frozen"]["sources"]["unlabeld"] = 0
    refused(page, r"no corpus has 'unlabeld'")
    page["stages"]["frozen"]["sources"] = {"weak": 2, "unlabeled": 1}
    refused(page, r"no corpus has 'unlabeled'")


def test_a_stage_whose_losses_are_all_of_sources_without_a_share_is_refused():
    page = changed("frozen", ("sources",), {"weak": 0, "unlabeled": 20})
    page["stages"]["frozen"] |= {"losses": [{"name": "supervised"}], "augment": []}
    refused(
        page, r"stages\.frozen\.losses: none of them learns anything from \['unlabeled'\]; give a source .* a share"
    )
    page["stages"]["frozen"] |= {"teacher": {"decay": 0.9}, "losses": [{"name": "supervised"}, {"name": "consistency"}]}
    check_system(page)


def test_a_batch_outside_the_recommended_mix_is_warned_of_where_the_page_wants_it(caplog):
    page, _ = read_page("beats_sed")
    check_system(page, "beats_sed.yaml")
    assert caplog.text == ""
    page = copy.deepcopy(page)
    page["stages"]["finetune"]["sources"] = {"real_strong": 24, "synthetic_strong": 24, "weak": 48, "unlabeled": 48}
    check_system(page, "beats_sed.yaml")
    assert "beats_sed.yaml: stages.finetune.sources: real_strong: 16.7% of a batch, 3% to 10%" in caplog.text
    assert "synthetic_strong: 1.0 times as much of a batch as real_strong, 3 to 10 times" in caplog.text
    assert "weak: " not in caplog.text and "unlabeled: " not in caplog.text
    caplog.clear()
    page["stages"]["finetune"]["sources"].pop("unlabeled")  # each source is optional
    check_system(page)
    check_system(page | {"check_mix": False})
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            ("inference",),
            {"window_seconds": 10.0, "hop_seconds": 12.0},
            r"inference\.hop_seconds: 12 is more than window",
        ),
        (("variants", "my best"), {}, r"variants: 'my best' names a folder; write it with letters"),
        (
            ("ensembles", "a/b"),
            {"members": [{"stage": "frozen"}], "sources": ["weak"]},
            "ensembles: 'a/b' names a folder",
        ),
        (("corpora",), [{"name": "demo", "test": 0, "real_strong": 4, "soft": 4}], r"corpora: none has test clips"),
        (("published",), {"psds_1": 0.5}, r"published: no metric 'psds_1'; did you mean 'psds1'"),
        (
            ("comparison",),
            {"groups": {"all": ["default"]}, "seeds": [1, 2, 1]},
            r"comparison\.seeds: 1 appears twice",
        ),
        (
            ("comparison",),
            {"groups": {"all": ["default"]}, "seeds": [-1]},
            r"comparison\.seeds\.0: .*greater than or equal",
        ),
        (("corpora", 0, "as"), "desed two", r"corpora\.as: 'desed two' names a folder"),
    ],
)
def test_a_page_that_would_go_wrong_later_is_refused(path, value, message):
    page = copy.deepcopy(CPJKU)
    *way, last = path
    node = page
    for key in way:
        node = node[key]
    node[last] = value
    refused(page, message)


def test_a_page_whose_name_a_shell_would_take_apart_is_refused(tmp_path):
    (tmp_path / "copy of demo.yaml").write_text("title: demo\n")
    with pytest.raises(SettingsError, match=r"copy of demo.yaml: rename the page: its name becomes a folder"):
        read_page("copy of demo", tmp_path)


def test_a_precision_of_32_needs_no_quotes():
    assert check_system(changed("frozen", ("precision",), 32)).stages["frozen"].precision == "32"
    refused(changed("frozen", ("precision",), 64), r"stages\.frozen\.precision: .*'32', 'bf16' or 'fp16', got")
