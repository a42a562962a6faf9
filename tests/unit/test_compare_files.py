"""What ``sedflow compare`` reads: runs and files of scores, with the corpus of the runs or a truth that is given."""

import pytest
import typer
from finished_system import build_system

from sedflow import cli
from sedflow.agreement import EvaluationError
from sedflow.compare_files import Clips
from sedflow.comparison import contenders


@pytest.fixture(scope="module")
def stages(eval_reference_dir, tmp_path_factory):
    return build_system(eval_reference_dir, tmp_path_factory.mktemp("system")).root / "models/baseline/default"


@pytest.mark.parametrize("named", [["frozen", "finetune"], ["finetune/seed1", "frozen/seed1"]])
def test_runs_are_compared_on_a_truth_that_is_given(stages, eval_reference_dir, named):
    systems = contenders([stages / name for name in named])
    manifests = stages.parents[2] / "data/manifests/desed"
    found = Clips(truth=manifests / "test.tsv", durations=eval_reference_dir / "durations.tsv").read(systems)
    expected = Clips(manifests=manifests).read(systems)
    assert found[1:3] == expected[1:3] and len(found[2]) == 20
    assert {name: len(seeds) for name, seeds in found[0].items()} == {s.name: len(s.paths) for s in systems}
    as_scored = Clips(truth=manifests / "test.tsv").read(systems)[2]
    assert as_scored == pytest.approx(expected[2], abs=0.02)


def test_a_run_stands_before_a_file_of_scores(stages, eval_reference_dir, capsys):
    words = [stages / "frozen/seed1", eval_reference_dir / "scores", "--draws", 10]
    words += ["--truth", stages.parents[2] / "data/manifests/desed/test.tsv"]
    cli.commands(["compare", *map(str, words)], standalone_mode=False)
    assert "20 clips" in capsys.readouterr().out


def test_classes_without_an_event_are_named_in_the_title(stages, tmp_path, capsys):
    rows = (stages.parents[2] / "data/manifests/desed/test.tsv").read_text().splitlines(keepends=True)
    (tmp_path / "truth.tsv").write_text("".join(row for row in rows if "Speech" not in row))
    words = ["compare", stages / "frozen/seed1", stages / "finetune/seed1", "--draws", 5]
    words += ["--truth", tmp_path / "truth.tsv", "--out", tmp_path / "page.html"]
    cli.commands([*map(str, words)], standalone_mode=False)
    said = "mean of 9 of 10 classes; no test event: Speech"
    assert said in " ".join(capsys.readouterr().out.split())
    assert said in (tmp_path / "page.html").read_text()


def test_a_truth_without_rows_is_named_for_runs_too(stages, tmp_path):
    (tmp_path / "truth.tsv").write_text("filename\tonset\toffset\tevent_label\n")
    with pytest.raises(EvaluationError, match=r"truth\.tsv: no rows below the header"):
        Clips(truth=tmp_path / "truth.tsv").read(contenders([stages / "frozen", stages / "finetune"]))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--manifests", "data/manifests/demo", "--truth", "truth.tsv"], "--manifests or --truth, not both"),
        (["--durations", "durations.tsv"], "--durations needs --truth"),
        (["--durations", "durations.tsv", "--manifests", "data/manifests/demo"], "--durations needs --truth"),
    ],
)
def test_options_that_would_be_ignored_are_refused(words, said):
    with pytest.raises(typer.BadParameter, match=said):
        cli.commands(["compare", "one", "two", *words], standalone_mode=False)
