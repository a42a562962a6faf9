"""Files from anywhere are judged alike, and what does not fit is refused."""

import json

import numpy as np
import pytest

from sedflow import cli
from sedflow.agreement import EvaluationError
from sedflow.detections import write_detections
from sedflow.evaluation import CRITERIA, Rules
from sedflow.events import Clip, Event, LabelError, write_clips, write_durations, write_events
from sedflow.judge_files import Files, judge_files, read_class_list, read_criteria
from sedflow.metric_table import print_metrics
from sedflow.scores import Scores, save_scores

CLASSES = ("dog", "bell")


@pytest.fixture
def folder(tmp_path):
    """Twelve clips in all the formats that are read."""
    rng = np.random.default_rng(0)
    scores, truth = {}, {}
    for number in range(12):
        onset = round(rng.uniform(0, 3), 2)
        truth[f"c{number}"] = [Event(onset, onset + 1.5, CLASSES[number % 2])] if number % 4 else []
        values = rng.normal(0.2, 0.25, (50, 2))
        for event in truth[f"c{number}"]:
            values[round(onset * 10) : round(onset * 10) + 14, CLASSES.index(event.label)] += 0.5
        scores[f"c{number}"] = Scores(values.astype(np.float32), np.arange(51) / 10, CLASSES)
    for name in ("scores.parquet", "scores"):
        save_scores(tmp_path / name, scores)
    write_durations(tmp_path / "durations.tsv", dict.fromkeys(truth, 5.0))
    for name, format in (("truth.tsv", "tsv"), ("audacity", "audacity"), ("raven", "raven")):
        write_detections(tmp_path / name, truth, format)
    clips = [Clip(c, f"{c}.wav", 5.0, "", "test", (f"street{k // 2}",)) for k, c in enumerate(truth)]
    write_clips(tmp_path / "clips.tsv", clips)
    return tmp_path


@pytest.mark.parametrize("truth", ["truth.tsv", "audacity", "raven"])
@pytest.mark.parametrize("scores", ["scores.parquet", "scores"])
def test_every_format_gives_the_same_metrics(folder, scores, truth):
    expected = judge_files(Files(folder / "scores.parquet", folder / "truth.tsv", folder / "durations.tsv"), Rules())
    assert 0.2 < expected["intersection_best_f1"]["macro_average"] < 1
    found = judge_files(Files(folder / scores, folder / truth), Rules())
    assert found["intersection_best_f1"] == pytest.approx(expected["intersection_best_f1"], abs=1e-6)
    assert found["clips"] == 12


def test_clips_without_a_row_in_the_truth_are_counted(folder, caplog):
    rows = (folder / "truth.tsv").read_text().splitlines()
    (folder / "truth.tsv").write_text("\n".join(row for row in rows if not row.startswith(("c1\t", "c1.wav\t"))) + "\n")
    Files(folder / "scores.parquet", folder / "truth.tsv").read()
    said = [record.getMessage() for record in caplog.records]
    assert any("of 12 scored clips have no row in" in message for message in said)


def test_boxes_need_durations_since_they_may_end_early(folder):
    boxes = {"a": Scores(np.array([[-np.inf, 0.2], [0.7, -np.inf]]), np.array([0, 1.0, 2.0]), CLASSES)}
    save_scores(folder / "boxes.parquet", boxes)
    with pytest.raises(EvaluationError, match=r"1 clips hold boxes.*\['a'\]; give the durations"):
        Files(folder / "boxes.parquet", folder / "truth.tsv").read()


def test_intervals_draw_recordings_that_the_clip_table_names(folder):
    files = Files(folder / "scores.parquet", folder / "truth.tsv")
    plain = judge_files(files, Rules(), draws=40)["intervals"]
    together = judge_files(Files(files.scores, files.truth, clips=folder / "clips.tsv"), Rules(), draws=40)["intervals"]
    assert (plain["drawn"], together["drawn"]) == ("12 clips", "12 clips in 6 groups by recording")
    assert plain["metrics"]["intersection_best_f1"] != together["metrics"]["intersection_best_f1"]
    for low, high in together["metrics"].values():
        assert low <= high


def test_windows_are_judged_as_whole_recordings(tmp_path):
    values = np.repeat([0.1, 0.9, 0.1, 0.1], 4)[:, None]
    windows = {f"r-{k}00-{k + 4}00": Scores(values, np.arange(17) / 4, ("car",)) for k in range(0, 12, 4)}
    save_scores(tmp_path / "scores.parquet", windows)
    soft = [f"r.wav\t{k}\t{k + 1}\tcar\t{0.8 if k % 4 == 1 else 0.3}" for k in range(12)]
    (tmp_path / "soft.tsv").write_text("\n".join(["filename\tonset\toffset\tevent_label\tconfidence", *soft]) + "\n")
    metrics = judge_files(Files(tmp_path / "scores.parquet", tmp_path / "soft.tsv", windows=True), Rules())
    assert metrics["clips"] == 1
    assert metrics["segment_mpauc_max_fpr_0.1"]["mean"] == pytest.approx(1)


def test_any_psds_can_be_asked_for():
    asked = read_criteria(["strict:dtc=0.9,gtc=0.8,max_efpr=50", "mixed:dtc=0.1,gtc=0.1,cttc=0.3,alpha_ct=0.5"])
    assert (asked["strict"].dtc, asked["strict"].gtc, asked["strict"].max_efpr) == (0.9, 0.8, 50)
    assert asked["mixed"].alpha_ct == 0.5 and set(CRITERIA) < set(asked)
    for text in (
        "dtc=0.5,gtc=0.5",
        "x:dtc=0.5",
        "x:dtc=high,gtc=1",
        "x:dtc=0.5,gtc=0.5,beta=1",
        "x:dtc=0.5,gtc=0.5,cttc=1",
        "x:dtc=0,gtc=0.5",
        "x:dtc=0.5,gtc=1.1",
        "x:dtc=nan,gtc=0.5",
        "x:dtc=0.5,gtc=0.5,cttc=-0.1,alpha_ct=1",
        "x:dtc=0.5,gtc=0.5,alpha_st=-1",
        "x:dtc=0.5,gtc=0.5,max_efpr=0",
    ):
        with pytest.raises(EvaluationError, match=r"is not a valid PSDS .*write name:dtc"):
            read_criteria([text])
    for text, reason in (("dtc=0.5,gtc=0.5", "no name"), ("x:dtc=0.5", "gtc missing")):
        with pytest.raises(EvaluationError, match=rf"is not a valid PSDS \({reason}\)"):
            read_criteria([text])
    with pytest.raises(EvaluationError, match="called 'psds1' already"):
        read_criteria(["psds1:dtc=0.5,gtc=0.5"])


def test_a_truth_of_a_header_alone_is_refused(folder):
    (folder / "truth.tsv").write_text("filename\tonset\toffset\tevent_label\n")
    with pytest.raises(EvaluationError, match=r"truth\.tsv: no rows below the header"):
        Files(folder / "scores.parquet", folder / "truth.tsv").read()


def test_classes_come_from_a_file_or_from_commas(tmp_path):
    (tmp_path / "classes.txt").write_text("dog\thound\nbell\n")
    assert read_class_list(str(tmp_path / "classes.txt")) == read_class_list("dog, bell") == ("dog", "bell")
    many = [f"a class with a long name {k}" for k in range(20)]  # longer than a file name may be
    assert read_class_list(",".join(many)) == tuple(many)


def test_the_command_prints_every_metric_with_a_number_and_writes_json(folder, capsys):
    words = [folder / "scores", folder / "audacity", "--intervals", 20, "--out", folder / "metrics.json"]
    words += ["--psds", "strict:dtc=0.9,gtc=0.9", "--drop-silent-clips"]
    with pytest.raises(SystemExit) as ended:
        cli.commands(["evaluate", *map(str, words)])
    printed, metrics = capsys.readouterr().out, json.loads((folder / "metrics.json").read_text())
    assert ended.value.code == 0 and metrics["clips"] == 9
    rows = {line.split("│")[1].strip(): line for line in printed.splitlines() if line.startswith("│")}
    for name in ("strict", "segment_error_rate_at_0.5", "onset_f1_at_0.5", "clip_d_prime", "segment_best_f1"):
        assert name in rows
    rate = metrics["segment_error_rate_at_0.5"]["error_rate"]
    assert f"{rate:.3f}" in rows["segment_error_rate_at_0.5"]
    low, high = metrics["intervals"]["metrics"]["strict"]
    assert f"{low:.3f} – {high:.3f}" in rows["strict"]


def test_a_number_that_is_not_defined_is_a_dash(capsys):
    print_metrics({"clips": 1, "hours": 0.1, "classes_without_truth": [], "clip_map": {"dog": None, "mean": None}})
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert ["│", "clip_map", "│", "–", "│", "│"] in rows
    assert ["│", "dog", "│", "–", "│"] in rows


@pytest.mark.parametrize("format", ["tsv", "audacity", "raven"])
def test_a_label_that_is_not_scored_is_named_with_file_and_row(folder, format):
    stray = folder / ("stray.tsv" if format == "tsv" else "stray")
    write_detections(stray, {"c0": [Event(0, 1, "dog"), Event(2, 3, "cow")]}, format)
    with pytest.raises(
        LabelError, match=r"stray.*:\d+: label 'cow' is not in .*\['dog', 'bell'\]; correct the spelling"
    ):
        judge_files(Files(folder / "scores", stray), Rules())
    assert judge_files(Files(folder / "scores", stray), Rules(classes=("dog",)))["clips"] == 12


def test_disagreement_ends_the_command_with_the_first_ten_and_the_count(folder):
    truth = {f"x{k:02}": [Event(0, 1, "dog")] for k in range(14)}
    write_events(folder / "other.tsv", truth)
    with pytest.raises(EvaluationError, match=r"14 clips with truth have no scores: x00, .*x09 … and 4 more"):
        judge_files(Files(folder / "scores", folder / "other.tsv"), Rules())
