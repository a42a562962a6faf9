"""The cost of a system is that of the runs its page reports, and of whom they learnt from."""

from pathlib import Path

from finished_system import BENCHMARK

from sedflow.report_cost import cost_section
from sedflow.runs import RunFolder

STAGES = {
    "frozen": {},
    "finetune": {"start_from": "frozen"},
    "frozen_2": {"pseudo_labels": "three"},
    "listening": {
        "losses": [{"name": "distillation", "checkpoint": "models/ours/large/frozen/seed1/best.safetensors"}]
    },
}
PAGE = {
    "stages": STAGES,
    "ensembles": {
        "three": {"members": [{"variant": variant, "stage": "finetune"} for variant in ("default", "passt", "beats")]},
        "idle": {"members": [{"variant": "tiny", "stage": "finetune"}]},
    },
}


def counted(folder, jobs, *runs, names=()):
    """Which of some jobs are counted for these runs: step → how many."""
    for job in jobs:
        path = folder / "benchmarks" / f"{job}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(BENCHMARK)
    reported = [RunFolder(Path("models/ours") / run) for run in runs]
    section = cost_section(folder / "benchmarks", set(names), PAGE, reported)
    return {cost["rule"]: cost["jobs"] for cost in section["costs"]}


def test_other_variants_and_seeds_are_no_part_of_the_cost(tmp_path):
    runs = [f"{variant}/frozen/seed{seed}" for variant in ("default", "wide") for seed in (1, 2, 11)]
    jobs = [f"{rule}/ours/{run}" for run in runs for rule in ("train", "tune", "evaluate", "export")]
    jobs += [f"score/ours/{run}_{network}" for run in runs for network in ("student", "teacher")]
    jobs += ["comparison/ours", "report/ours", "train/theirs/default/frozen/seed1"]
    found = counted(tmp_path, jobs, "default/frozen/seed1", "default/frozen/seed2")
    assert found == {f"{rule} frozen": 2 for rule in ("train", "tune", "evaluate", "export")} | {"score frozen": 4}


def test_members_of_ensembles_that_the_page_uses_are_counted_with_what_they_start_from(tmp_path):
    variants = ("default", "passt", "beats", "tiny")
    runs = [f"{v}/{stage}/seed{seed}" for v in variants for stage in ("frozen", "finetune") for seed in (1, 2)]
    jobs = [f"train/ours/{run}" for run in runs] + [f"tune/ours/{run}" for run in runs]
    jobs += [f"score_source/ours/{run}/student/desed/weak" for run in runs if "finetune" in run]
    jobs += [f"pseudo_labels/ours/{name}/seed{seed}/desed/weak" for name in ("three", "idle") for seed in (1, 2)]
    found = counted(tmp_path, [*jobs, "train/ours/default/frozen_2/seed1"], "default/frozen_2/seed1")
    assert found == {
        "train frozen": 3, "train finetune": 3, "train frozen_2": 1, "score_source finetune": 3, "pseudo_labels": 1
    }  # fmt: skip


def test_a_detector_that_listens_along_is_counted(tmp_path):
    jobs = [f"train/ours/large/frozen/seed{seed}" for seed in (1, 2)] + ["train/ours/default/listening/seed2"]
    assert counted(tmp_path, jobs, "default/listening/seed2") == {"train frozen": 1, "train listening": 1}


def test_a_corpus_that_is_called_like_the_system_counts_with_its_own_jobs_alone(tmp_path):
    jobs = ["prepare/ours/0", "train/ours/wide/frozen/seed1", "train/ours/default/frozen/seed1"]
    assert counted(tmp_path, jobs, "default/frozen/seed1", names=["ours"]) == {"prepare": 1, "train frozen": 1}
