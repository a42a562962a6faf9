"""Variants of a system side by side: table and plot over seeds."""

import json
from pathlib import Path

import pytest

from sedflow.events import read_table
from sedflow.params import SettingsError
from sedflow.runs import RunFolder
from sedflow.systems import read_system
from sedflow.variants import write_comparison

NUMBERS = {("plain", 1): 0.2, ("plain", 2): 0.4, ("worse", 1): 0.1, ("worse", 2): 0.1}
SETTINGS = {
    "title": "A system",
    "groups": {"Learning": ["worse", "plain"], "Again": ["plain"]},
    "published": {"plain": {"psds1": 0.5}, "worse": {}},
}


@pytest.fixture
def runs(tmp_path):
    folders = []
    for (variant, seed), psds1 in NUMBERS.items():
        folder = tmp_path / f"models/s/{variant}/frozen/seed{seed}"
        folder.mkdir(parents=True)
        block = {"psds1": psds1, "psds2": psds1 / 2, "collar_f1_at_0.5": {"macro_average": 0.3}}
        metrics = {"chosen": "student", "student": {"raw": block, "postprocessed": block}}
        (folder / "metrics.json").write_text(json.dumps(metrics))
        folders.append(RunFolder(folder))
    return folders


def test_the_table_holds_mean_and_deviation_over_seeds_in_the_order_of_the_page(runs, tmp_path):
    write_comparison(runs, SETTINGS, tmp_path)
    rows = [row for _, row in read_table(tmp_path / "table.tsv", ("group", "variant", "stage", "seeds"))]
    assert [(row["group"], row["variant"]) for row in rows] == [
        ("Learning", "worse"),
        ("Learning", "plain"),
        ("Again", "plain"),
    ]
    assert (rows[1]["psds1"], rows[1]["psds1_sd"], rows[1]["psds1_published"]) == ("0.300000", "0.141421", "0.500000")
    assert rows[0]["psds1_published"] == ""
    text = (tmp_path / "table.md").read_text()
    assert "| plain | frozen | 2 | 0.300 ± 0.141 | 0.150 ± 0.071 | 0.300 ± 0.000 | 0.500 |" in text
    assert text.index("| worse ") < text.index("| plain ")


def test_the_plot_names_every_variant_and_is_the_same_twice(runs, tmp_path):
    write_comparison(runs, SETTINGS, tmp_path)
    once = {name: (tmp_path / name).read_bytes() for name in ("plot.svg", "plot.png", "table.tsv", "table.md")}
    write_comparison(runs, SETTINGS, tmp_path)
    assert once == {name: (tmp_path / name).read_bytes() for name in once}
    assert once["plot.png"].startswith(b"\x89PNG")
    assert b"worse" in once["plot.svg"] and b"frozen" in once["plot.svg"]


def test_metrics_that_a_page_wants_come_first_and_others_stay_away(runs, tmp_path):
    for run in runs:
        metrics = run.read("metrics.json")
        onset = {"onset_f1_at_0.5": {"micro_average": 0.7}, "segment_error_rate_at_0.5": {"error_rate": 0.4}}
        metrics["student"] = {kind: block | onset for kind, block in metrics["student"].items()}
        (run.path / "metrics.json").write_text(json.dumps(metrics))
    write_comparison(runs, SETTINGS, tmp_path / "usual")
    assert "Onset" not in (tmp_path / "usual/table.md").read_text()
    wanted = {"headlines": ["onset_f1_at_0.5"], "published": {"plain": {"onset_f1_at_0.5": 0.9}, "worse": {}}}
    write_comparison(runs, SETTINGS | wanted, tmp_path / "wanted")
    text = (tmp_path / "wanted/table.md").read_text()
    assert text.index("Onset F1") < text.index("PSDS1") and "error rate" not in text
    assert "| plain | frozen | 2 | 0.700 ± 0.000 | 0.300 ± 0.141 | 0.150 ± 0.071 | 0.300 ± 0.000 | 0.900 |" in text
    assert b"Onset F1" in (tmp_path / "wanted/plot.svg").read_bytes()


def test_a_page_that_wants_a_metric_that_is_not_there_is_refused(tmp_path):
    page = Path("workflow/systems/demo.yaml").read_text(encoding="utf-8")
    (tmp_path / "mine.yaml").write_text(page + "headlines: [onset_f1]\n")
    with pytest.raises(SettingsError, match=r"headlines: no metric 'onset_f1'.*onset_f1_at_0\.5"):
        read_system("mine", folder=tmp_path)


def test_a_comparison_of_a_variant_that_is_not_there_is_refused(tmp_path):
    page = Path("workflow/systems/demo.yaml").read_text(encoding="utf-8")
    (tmp_path / "mine.yaml").write_text(page + "comparison: {groups: {Learning: [default, wdie]}}\n")
    with pytest.raises(SettingsError, match=r"comparison\.groups\.Learning: no variant 'wdie'"):
        read_system("mine", folder=tmp_path)
