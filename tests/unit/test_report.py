import dataclasses
import json
import math
import re

import numpy as np
import pytest
from finished_system import PAGE, build_system, read_truth

from sedflow import audio
from sedflow.clip_cards import Study, best_and_worst, clip_card
from sedflow.detections import detect_events
from sedflow.events import Clip, Event
from sedflow.figures import Axis, Line, line_chart, most_frequent, player, score_path, spectrogram, thin
from sedflow.mistakes import (
    calibrate,
    confusion,
    cooccurrence,
    count_by_duration,
    count_by_overlap,
    count_by_snr,
    covered_share,
    match_events,
    operating_points,
    precision_recall_f1,
)
from sedflow.report import print_summary
from sedflow.report_cost import clock, cost_section
from sedflow.report_findings import threshold_section
from sedflow.runs import RunError, RunFolder, in_order, plus_minus, results, stage_order, summarise
from sedflow.scores import Scores, load_scores


@pytest.fixture(scope="module")
def system(eval_reference_dir, tmp_path_factory):
    return build_system(eval_reference_dir, tmp_path_factory.mktemp("system"))


@pytest.fixture(scope="module")
def report(system):
    return system.write()


# mistakes


def test_share_counts_overlapping_events_once():
    assert covered_share(Event(0, 4, "a"), [Event(1, 2, "b"), Event(1.5, 3, "c"), Event(9, 10, "b")]) == 0.5


def test_detection_on_half_an_event_finds_it_and_less_does_not():
    found = match_events([Event(0, 2, "dog")], [Event(0, 1, "dog")])
    missed = match_events([Event(0, 2, "dog")], [Event(0, 0.9, "dog")])
    assert (len(found.found), len(found.right)) == (1, 1)
    assert (len(missed.missed), len(missed.right)) == (1, 1)


def test_detection_of_another_class_finds_nothing():
    judgement = match_events([Event(0, 2, "dog")], [Event(0, 2, "cat")])
    assert (judgement.missed, judgement.wrong) == ([Event(0, 2, "dog")], [Event(0, 2, "cat")])
    assert judgement.f1 == 0


def test_silent_clip_without_detections_is_perfect():
    assert match_events([], []).f1 == 1


def test_counts_give_the_intersection_f1_of_the_reference(eval_reference_dir):
    expected = json.loads((eval_reference_dir / "expected.json").read_text())["raw"]["intersection_f1_at_0.5"]
    scores, (truth, _) = load_scores(eval_reference_dir / "scores"), read_truth(eval_reference_dir)
    detections = detect_events(scores)
    judgements = [match_events(truth[clip], detections[clip]) for clip in truth]
    for label in scores["3u1ue_s4"].classes:
        of_label = [
            sum(event.label == label for j in judgements for event in getattr(j, kind))
            for kind in ("found", "missed", "wrong")
        ]
        assert precision_recall_f1(*of_label)[2] == pytest.approx(expected[label], abs=1e-9), label


def test_operating_points_agree_with_judging_each_threshold(eval_reference_dir):
    scores, (truth, _) = load_scores(eval_reference_dir / "scores"), read_truth(eval_reference_dir)
    thresholds = [0.1, 0.35, 0.8]
    points = operating_points(scores, truth, thresholds)
    for k, threshold in enumerate(thresholds):
        judgements = [match_events(truth[clip], events) for clip, events in detect_events(scores, threshold).items()]
        for label, counts in points.items():
            judged = [
                sum(event.label == label for j in judgements for event in getattr(j, kind))
                for kind in ("found", "missed", "wrong")
            ]
            assert counts[k].tolist() == judged, (label, threshold)


def test_ratios_without_a_denominator_are_none():
    assert precision_recall_f1(0, 3, 0) == (None, 0.0, 0.0)
    assert precision_recall_f1(0, 0, 0) == (None, None, None)


def test_events_are_counted_by_length_overlap_and_loudness():
    truth = [Event(0, 0.25, "dog"), Event(3, 9, "rain"), Event(4, 5, "dog")]
    judgements = {"clip": match_events(truth, [Event(3, 9, "rain")])}
    by_length = {b.name: (b.found, b.total) for b in count_by_duration(judgements.values())}
    assert by_length == {"under 0.5 s": (0, 1), "1–2 s": (0, 1), "5 s and more": (1, 1)}
    by_overlap = {b.name: (b.found, b.total) for b in count_by_overlap(judgements.values())}
    assert by_overlap == {"alone": (0, 1), "less than half overlapped": (1, 1), "half or more overlapped": (0, 1)}
    levels = {"clip": [(Event(0, 0.2, "dog"), 7.0), (Event(3, 9, "rain"), 25.0)]}
    by_level = {b.name: (b.found, b.total) for b in count_by_snr(judgements, levels)}
    assert by_level == {"6–12 dB": (0, 1), "24 dB and more": (1, 1)}


def test_false_detection_is_charged_to_the_class_that_covers_most_of_it():
    classes = ("dog", "cat", "rain")
    truth = [Event(0, 4, "cat"), Event(3, 10, "rain")]
    detections = [Event(0, 4, "cat"), Event(0, 4, "dog"), Event(20, 22, "dog"), Event(9.5, 12, "dog")]
    counts = confusion([match_events(truth, detections)], classes)
    assert counts.tolist() == [[0, 1, 0, 2], [0, 1, 0, 0], [0, 0, 0, 0]]


def test_cooccurrence_counts_clips_not_events():
    counts = cooccurrence([["dog", "dog", "cat"], ["cat"], []], ("dog", "cat"))
    assert counts.tolist() == [[1, 1], [1, 2]]


def _constant_scores(value, frames=100):
    return Scores(np.full((frames, 1), value), np.arange(frames + 1) / 10, ("dog",))


def test_calibrated_scores_have_no_error():
    scores = {"a": _constant_scores(0.25)}
    assert calibrate(scores, {"a": [Event(0, 2.5, "dog")]}, "dog").error == pytest.approx(0, abs=1e-9)
    assert calibrate(scores, {"a": [Event(0, 10, "dog")]}, "dog").error == pytest.approx(0.75)


def test_logits_are_not_calibrated():
    assert calibrate({"a": _constant_scores(3.0)}, {}, "dog") is None


# figures


def test_a_figure_shows_the_classes_that_sound_most_in_their_order():
    assert most_frequent(["dog", "cat", "bell"], {"bell": 2, "dog": 1}) == ["dog", "bell"]
    counts = {f"class {number:02}": number for number in range(30)}
    assert most_frequent(counts, counts) == [f"class {number:02}" for number in range(6, 30)]


def test_ticks_are_round_and_inside():
    ticks = Axis("", 0.03, 0.97).ticks()
    assert [tick["text"] for tick in ticks] == ["0.25", "0.5", "0.75"]
    assert [tick["text"] for tick in Axis("", 0, 2500).ticks()] == ["0", "1k", "2k"]


def test_axis_of_one_value_has_a_width():
    assert Axis.around("", [0.5]).low < 0.5 < Axis.around("", [0.5]).high
    assert Axis.around("", [math.nan]).high == 1


def test_lines_go_up_leave_gaps_and_become_stairs():
    axes = Axis("", 0, 10), Axis("", 0, 1)
    chart = line_chart("t", [Line("a", [0, 10], [0, 1]), Line("b", [0, 5, 10], [1, math.nan, 1])], *axes)
    assert [line["path"] for line in chart["lines"]] == ["M0 100L100 0", "M0 0M100 0"]
    assert line_chart("t", [Line("a", [0, 10], [0, 1], "s1 steps")], *axes)["lines"][0]["path"] == "M0 100H100V0"
    assert line_chart("t", [Line("a", [5], [0.5])], *axes)["lines"][0]["path"] == "M50 50h0"


def test_thinning_keeps_the_ends():
    x, y = thin(np.arange(10000), np.arange(10000))
    assert len(x) <= 400
    assert (x[0], y[-1]) == (0, 9999)


def test_scores_are_drawn_as_steps_of_equal_values():
    assert score_path(np.array([0.0, 0.0, 1.0, 1.0])) == "M0 100V100H500.0V0H1000.0V100Z"


@pytest.mark.parametrize("samples", [np.zeros(16000), np.zeros(1), np.sin(np.arange(480000))])
def test_any_sound_has_a_picture_and_a_player(samples):
    assert spectrogram(samples, 16000).startswith("data:image/png;base64,")
    assert player(samples, 16000) == player(samples, 16000)


# clips


def _study(scores, truth, detections, thresholds=None):
    judgements = {clip: match_events(truth[clip], detections[clip]) for clip in scores}
    return Study(scores, truth, detections, judgements, thresholds or {"dog": 0.5})


def test_worst_clips_have_mistakes_and_best_clips_are_the_others():
    truth = {
        "a": [Event(0, 1, "dog")],
        "b": [Event(0, 1, "dog"), Event(2, 3, "dog")],
        "c": [],
        "d": [Event(0, 1, "dog")],
    }
    detections = {"a": [], "b": truth["b"], "c": [Event(0, 1, "dog"), Event(2, 3, "dog")], "d": truth["d"]}
    best, worst = best_and_worst(_study({c: _constant_scores(0.5) for c in truth}, truth, detections), 3)
    assert worst == ["c", "a"]
    assert best == ["b", "d"]


def test_clip_without_audio_says_so(tmp_path):
    study = _study({"a": _constant_scores(0.7)}, {"a": []}, {"a": [Event(0, 10, "dog")]})
    clip = Clip("a", "data/audio/a.flac", 10.0, "", "test")
    assert "data/audio/a.flac" in clip_card(study, "a", {"a": clip}, tmp_path)["missing"]
    assert "manifest" in clip_card(study, "a", {}, tmp_path)["missing"]


def test_long_clip_is_shown_around_its_first_mistake(tmp_path):
    truth = {"a": [Event(400, 402, "dog")]}
    study = _study({"a": _constant_scores(0.1, frames=6000)}, truth, {"a": []})
    audio.write(tmp_path / "a.flac", np.zeros(600 * 8000, np.float32), 8000)
    card = clip_card(study, "a", {"a": Clip("a", "a.flac", 600.0, "", "test")}, tmp_path)
    assert (card["excerpt"], card["seconds"]) == ("395–425", 30.0)
    assert len(card["sound"]) < 400_000
    assert card["lanes"][0]["truth"][0]["left"] == pytest.approx(100 * 5 / 30, abs=0.01)


def test_boxes_with_unequal_frames_are_drawn_in_time(tmp_path):
    scores = Scores(np.array([[-np.inf], [0.8], [-np.inf]]), np.array([0.0, 5.0, 7.5, 10.0]), ("dog",))
    card = clip_card(_study({"a": scores}, {"a": []}, {"a": [Event(5, 7.5, "dog")]}), "a", {}, tmp_path)
    assert card["lanes"][0]["path"] == "M0 100V100H500.0V20H750.0V100H1000.0V100Z"


# runs


def test_runs_stand_in_the_order_of_the_page(tmp_path):
    names = ["wide/a/seed1", "default/b/seed2", "default/b/seed10", "default/a/seed1"]
    runs = in_order([RunFolder(tmp_path / name) for name in names], ["b", "a"])
    expected = ["default/b/seed2", "default/b/seed10", "default/a/seed1", "wide/a/seed1"]
    assert [f"{run.variant}/{run.stage}/seed{run.seed}" for run in runs] == expected


def test_missing_file_is_named_with_its_cure(tmp_path):
    with pytest.raises(RunError, match=r"seed1/metrics\.json: missing; make it with `snakemake"):
        RunFolder(tmp_path / "seed1").read("metrics.json")
    with pytest.raises(RunError, match=r"expected models/<system>"):
        _ = RunFolder(tmp_path / "best").seed


def test_the_deviation_is_that_of_a_sample():
    assert plus_minus([0.4, 0.5, 0.6]) == "0.500 ± 0.100"
    assert plus_minus([0.4]) == "0.400"
    assert plus_minus([math.nan]) == "–"


def test_summary_is_the_mean_over_seeds(system):
    summary = summarise(results(system.runs), {"psds1": 0.5})
    single = system.runs[0].read("metrics.json")["student"]["postprocessed"]["psds1"]
    assert summary["frozen"]["student"]["psds1"] == pytest.approx(single + 0.005, abs=1e-6)
    assert summary["frozen"]["student"]["psds1_sd"] == pytest.approx(0.01 / math.sqrt(2), abs=1e-6)
    assert summary["order"] == {"frozen": 1, "finetune": 2}
    assert summary["finetune"]["chosen"] == summary["finetune"]["teacher"]


# the page


def test_report_writes_the_same_bytes_again(system, report):
    names = ("index.html", "metrics.json", "roc.tsv", "curves.tsv")
    first = {name: (report / name).read_bytes() for name in names}
    system.write()
    assert {name: (report / name).read_bytes() for name in names} == first
    assert sorted(path.name for path in report.iterdir()) == sorted(names)


def test_page_fetches_nothing(report):
    page = (report / "index.html").read_text()
    addresses = set(re.findall(r"""(?:src|href)="(?!data:|#)([^"]*)""", page)) | set(re.findall(r"url\((.*?)\)", page))
    assert not addresses
    assert "default-src 'none'" in page


def test_page_says_what_a_reader_asks(report):
    page = (report / "index.html").read_text()
    for said in (
        "published 0.359",
        "tuned on the validation clips",
        "(for psds1)",
        "20 test clips",
        "12–18 dB",
        "1 min 02 s",
    ):
        assert said in page, said
    assert "synthesised" not in page


def test_missing_audio_is_said_on_the_page(report):
    assert (report / "index.html").read_text().count("cannot be read here") <= 1


def test_demo_is_called_synthesised(system, tmp_path):
    page = (system.write(tmp_path, corpora=[{"name": "demo"}]) / "index.html").read_text()
    assert "The sounds of this corpus are synthesised" in page


def test_classes_without_a_test_event_are_named_under_the_headline(system, report, tmp_path):
    table = system.manifests / "test.tsv"
    rows = table.read_text()
    table.write_text("".join(row for row in rows.splitlines(keepends=True) if "Speech" not in row))
    page = (system.write(tmp_path) / "index.html").read_text()
    table.write_text(rows)
    assert "Every number is a mean of 9 of 10 classes; no test event: Speech." in page
    assert "Every number is a mean of" not in (report / "index.html").read_text()


def test_a_title_cannot_break_the_page(system, tmp_path):
    page = (system.write(tmp_path, title="<script>alert(1)</script>") / "index.html").read_text()
    assert "<script>alert" not in page


def test_one_run_of_one_stage_is_enough(system, tmp_path):
    page = (dataclasses.replace(system, runs=system.runs[:1]).write(tmp_path) / "index.html").read_text()
    assert "a single seed" in page
    assert "Every seed" not in page


def test_no_runs_is_an_error_with_a_cure(system, tmp_path):
    with pytest.raises(RunError, match="train the system first"):
        dataclasses.replace(system, runs=[]).write(tmp_path)


def test_metrics_are_flat_numbers_for_dvc(report):
    metrics = json.loads((report / "metrics.json").read_text())
    numbers = [value for stage in ("frozen", "finetune") for of in metrics[stage].values() for value in of.values()]
    assert numbers and all(isinstance(value, int | float) for value in numbers)


def test_tables_for_dvc_hold_every_run(report):
    roc = (report / "roc.tsv").read_text().splitlines()
    curves = (report / "curves.tsv").read_text().splitlines()
    assert roc[0].split("\t") == ["stage", "seed", "class", "x", "y"]
    assert {tuple(line.split("\t")[:2]) for line in roc[1:]} == {(s, k) for s in ("frozen", "finetune") for k in "12"}
    assert "finetune\t2\tvalidation/teacher/psds1\t40\t0.25" in curves


def test_summary_prints_stages_published_row_and_path(report, capsys):
    print_summary(report / "metrics.json")
    printed = capsys.readouterr().out
    assert printed.index("frozen") < printed.index("finetune") < printed.index("published")
    assert "0.359" in printed
    assert f"{report / 'index.html'}" in printed


def test_a_page_says_which_metrics_come_first(system, report, tmp_path, capsys):
    wanted = ["onset_f1_at_0.5", "segment_error_rate_at_0.5"]
    out = system.write(tmp_path, headlines=wanted, published={"onset_f1_at_0.5": 0.929})
    page, usual = ((folder / "index.html").read_text() for folder in (out, report))
    metrics = system.runs[-1].read("metrics.json")
    block = metrics[metrics["chosen"]]["postprocessed"]
    for title, value in (
        ("Onset F1 at 0.5, classes pooled", block["onset_f1_at_0.5"]["micro_average"]),
        ("Segment error rate at 0.5", block["segment_error_rate_at_0.5"]["error_rate"]),
    ):
        assert value > 0 and title in page and title not in usual
        first_tile, last_psds = page.index(title), page.index("PSDS1")
        assert first_tile < last_psds and f"{value:.3f}" in page[first_tile:last_psds]
    assert "published 0.929" in page and "published 0.359" not in page
    print_summary(out / "metrics.json")
    assert "0.929" in capsys.readouterr().out


def test_time_is_written_as_people_read_it():
    assert [clock(s) for s in (4.21, 61.5, 119.9, 700, 3599, 3600, 4000)] == [
        "4.2 s", "1 min 02 s", "2 min 00 s", "12 min", "1 h 00 min", "1 h 00 min", "1 h 07 min"
    ]  # fmt: skip


def test_cost_counts_this_system_by_stage_and_not_its_own_page(system):
    section = cost_section(system.root / "logs/benchmarks", {"desed", "beats"}, PAGE, system.runs)
    assert {c["rule"]: c["jobs"] for c in section["costs"]} == {"features": 1, "train frozen": 1}


def test_clips_in_which_nothing_sounds_have_no_operating_points():
    scores = {"x": Scores(np.full((10, 1), 0.2), np.arange(11) / 10, ("dog",))}
    study = Study(scores, {"x": []}, {"x": []}, {"x": match_events([], [])}, {"dog": 0.5})
    section = threshold_section(study)
    assert section["operating_rows"] == [] and section["operating_chart"]["lines"] == []


def test_missing_benchmarks_leave_the_section_empty(tmp_path):
    assert cost_section(tmp_path / "nowhere", {"demo"}, {}, [])["costs"] == []


def test_parameters_are_those_of_the_chosen_network(report):
    assert re.search(r"seed1</th><td class=\"left\">teacher</td><td>70</td>", (report / "index.html").read_text())


def test_stages_come_in_the_order_they_start_from_each_other_whatever_the_order_of_the_keys():
    page = {"stages": {"again": {"start_from": "finetune"}, "finetune": {"start_from": "frozen"}, "frozen": {}}}
    assert stage_order(page) == ["frozen", "finetune", "again"]
