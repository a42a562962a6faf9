"""Systems are grouped, judged on the corpus they name, and compared over seeds."""

import json
import re

import numpy as np
import pytest
from finished_system import build_system, read_truth

from sedflow import cli, comparison
from sedflow.agreement import EvaluationError
from sedflow.comparison import Contender, compare, contenders, corpus_of
from sedflow.comparison_page import settings_that_differ, write_comparison_page
from sedflow.scores import load_scores


@pytest.fixture(scope="module")
def system(eval_reference_dir, tmp_path_factory):
    return build_system(eval_reference_dir, tmp_path_factory.mktemp("system"))


@pytest.fixture(scope="module")
def stages(system):
    return system.root / "models/baseline/default"


def run(*words):
    with pytest.raises(SystemExit) as ended:
        cli.commands(["compare", *map(str, words)])
    return ended.value.code


def test_runs_of_a_stage_are_seeds_of_one_system(stages, eval_reference_dir):
    listed = contenders([stages / "frozen/seed2", stages / "finetune/seed1", stages / "frozen/seed1"])
    assert [(c.name, [p.name for p in c.paths]) for c in listed] == [
        ("frozen", ["seed2", "seed1"]),
        ("finetune", ["seed1"]),
    ]
    whole = contenders([stages / "frozen", eval_reference_dir / "scores"])
    assert [len(c.paths) for c in whole] == [2, 1] and [len(c.runs) for c in whole] == [2, 0]
    assert whole[1].name.endswith("scores")


def test_one_system_is_not_enough(stages):
    with pytest.raises(EvaluationError, match="there is only one system to compare"):
        contenders([stages / "frozen/seed1", stages / "frozen/seed2"])


def test_the_corpus_is_the_one_that_the_runs_name(system, stages, eval_reference_dir):
    systems = contenders([stages / "frozen", stages / "finetune"])
    assert corpus_of(systems, "test") == system.manifests
    with pytest.raises(EvaluationError, match="give --manifests or --truth"):
        corpus_of(contenders([eval_reference_dir / "scores", eval_reference_dir / "truth"])[:1], "test")


def test_numbers_are_means_over_seeds_and_differences_are_paired(eval_reference_dir):
    scores, (truth, durations) = load_scores(eval_reference_dir / "scores"), read_truth(eval_reference_dir)
    better = {clip: s.with_values(s.values.round(2)) for clip, s in scores.items()}
    first, both = compare({"one": [scores], "two": [scores, better]}, truth, durations, samples=20)
    alone = compare({"one": [scores], "other": [better]}, truth, durations, samples=20)[1]
    assert both["seeds"] == 2 and "psds1" in both["deviations"] and not first["deviations"]
    assert both["metrics"]["psds1"] == pytest.approx((first["metrics"]["psds1"] + alone["metrics"]["psds1"]) / 2)
    halves = [row["against_first"]["psds1"]["difference"] for row in (both, alone)]
    assert halves[0] == pytest.approx(halves[1] / 2)
    assert set(both["per_class"]["collar_f1_at_0.5"]) == set(both["per_class"]["psds1"])


def test_a_metric_that_one_seed_lacks_is_no_mean_of_the_others():
    draws = comparison._mean([{"psds1": np.array([0.2, 0.4]), "clip_map": np.ones(2)}, {"psds1": np.array([0.4, 0.4])}])
    assert set(draws) == {"psds1"} and draws["psds1"].tolist() == pytest.approx([0.3, 0.4])


def test_compare_prints_a_table_and_writes_json(stages, tmp_path, capsys):
    assert run(stages / "frozen", stages / "finetune", "--draws", 30, "--out", tmp_path / "table.json") == 0
    printed = capsys.readouterr().out
    told = json.loads((tmp_path / "table.json").read_text())
    assert [row["system"] for row in told["systems"]] == ["frozen", "finetune"] and told["drawn"] == "20 clips"
    test = told["systems"][1]["against_first"]["psds1"]
    assert f"{test['difference']:+.3f}" in printed and "2 seeds" in printed
    assert re.search(r"p [=<] 0\.\d{3}", printed)


def test_score_files_are_compared_on_a_truth_that_is_given(stages, eval_reference_dir, tmp_path, capsys):
    words = [eval_reference_dir / "scores", stages / "finetune/seed1", "--draws", 20, "--out", tmp_path / "page.html"]
    words += ["--truth", stages.parents[2] / "data/manifests/desed/test.tsv"]
    words += ["--durations", eval_reference_dir / "durations.tsv"]
    assert run(*words) == 0
    page = (tmp_path / "page.html").read_text()
    assert "default-src 'none'" in page and "Class by class" in page
    assert not re.findall(r"""(?:src|href)="(?!data:|#)""", page)


def test_a_page_of_clips_in_which_nothing_sounds_has_no_curves(tmp_path, eval_reference_dir):
    scores = dict(list(load_scores(eval_reference_dir / "scores").items())[:2])
    seconds = {clip: of_clip.seconds for clip, of_clip in scores.items()}
    systems = {"one": [scores], "two": [scores]}
    rows = compare(systems, {}, seconds, samples=2)
    contenders = [Contender(name, ()) for name in systems]
    write_comparison_page(tmp_path / "page.html", contenders, systems, {}, seconds, rows, "test")
    assert "PSD-ROC" in (tmp_path / "page.html").read_text()


def test_other_clips_and_other_endings_are_refused(stages, eval_reference_dir, tmp_path):
    with pytest.raises(EvaluationError, match=r"page\.pdf: cannot write '\.pdf'"):
        cli.commands(
            ["compare", str(stages / "frozen"), str(stages / "finetune"), "--out", "page.pdf"], standalone_mode=False
        )
    (tmp_path / "scores").mkdir()
    for file in sorted((eval_reference_dir / "scores").glob("*.tsv"))[3:]:
        (tmp_path / "scores" / file.name).write_bytes(file.read_bytes())
    with pytest.raises(EvaluationError, match="3 clips have no scores"):
        cli.commands(["compare", str(stages / "frozen"), str(tmp_path / "scores")], standalone_mode=False)


def test_settings_that_differ_are_named(stages):
    rows = settings_that_differ(contenders([stages / "frozen", stages / "finetune"]))
    assert rows == [{"name": "stage", "values": ["frozen", "finetune"]}]
