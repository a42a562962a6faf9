"""A finished system on disk, made of real DCASE scores: what the tests of the report look at."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import soundfile
from safetensors.numpy import save_file

from sedflow import evaluation, postprocess
from sedflow.events import (
    Clip,
    merge_events,
    read_durations,
    read_events,
    write_clips,
    write_durations,
    write_events,
    write_weak,
)
from sedflow.report import write_report
from sedflow.runs import NETWORKS, RunFolder
from sedflow.scores import load_scores, save_scores

PAGE = {
    "title": "DCASE 2023 baseline, twice",
    "published": {"psds1": 0.359, "psds2": 0.562},
    "corpora": [{"name": "desed"}],
    "detector": {"encoders": [{"name": "beats"}]},
    "stages": {"frozen": {}, "finetune": {}},
}
SEEDS = (1, 2)
LOG = """step,train/loss,lr/head,validation/student/psds1,validation/teacher/psds1
10,0.7,0.001,,
20,0.5,0.001,0.11,0.10
30,0.45,0.0005,,
40,0.41,0,0.2,0.25
"""
BENCHMARK = (
    "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"
    "61.5\t0:01:01\t812.1\t1\t1\t1\t-\tNA\t180\t110.2\n"
)


@dataclasses.dataclass
class FinishedSystem:
    """Folders and runs of a finished system."""

    root: Path
    runs: list[RunFolder]

    @property
    def manifests(self):
        return self.root / "data/manifests/desed"

    def write(self, out=None, **changes):
        """Write the report, with changes to the system's page; returns its folder."""
        out = out or self.root / "models/baseline/report"
        benchmarks = self.root / "logs/benchmarks"
        write_report(out, PAGE | changes, self.runs, [self.manifests], benchmarks, self.root, draws=40)
        return out


def build_system(reference, root):
    """Two stages of the same real scores, without post-processing and with a median filter."""
    system = FinishedSystem(root, [])
    _write_manifests(reference, system)
    scores, (truth, durations) = load_scores(reference / "scores"), read_truth(reference)
    raw = evaluation.evaluate(scores, truth, durations)
    stages = {"frozen": {"name": "none"}, "finetune": _median(scores["3u1ue_s4"].classes, 0.32)}
    for stage, spec in stages.items():
        processed = postprocess.build(spec).apply(scores)
        metrics, roc = evaluation.evaluate(processed, truth, durations), evaluation.psd_roc(processed, truth, durations)
        for seed in SEEDS:
            # seeds that agree to the last digit would hide a wrong standard deviation
            block = {"raw": raw, "postprocessed": metrics | {"psds1": metrics["psds1"] + 0.01 * seed}}
            folder = root / f"models/baseline/default/{stage}/seed{seed}"
            files = {
                "settings.json": {"stage": stage, "seed": seed, "steps": 40, "corpora": [{"name": "desed"}]},
                "postprocess.json": {"student": spec, "teacher": spec, "chosen": "teacher"},
                "metrics.json": {"student": block, "teacher": block, "chosen": "teacher"},
                "roc.json": roc,
            }
            _write_run(folder, files, scores)
            system.runs.append(RunFolder(folder))
    jobs = ("features/beats-0123-2/desed/weak-0", "train/baseline/default/frozen/seed1", "report/baseline")
    of_another = ("features/atst-4567-2/desed/weak-0", "score_source/other/default/frozen/seed1/student/desed/weak")
    for job in (*jobs, *of_another, "train/other/default/frozen/seed1"):
        path = root / f"logs/benchmarks/{job}.tsv"
        path.parent.mkdir(parents=True)
        path.write_text(BENCHMARK)
    _write_audio(system)
    return system


def _median(classes, seconds):
    settings = {label: {"seconds": seconds} for label in classes}
    return {"name": "median_filter", "settings": settings, "tuned_on": "validation", "objective": "psds1"}


def _write_manifests(reference, system):
    truth, durations = read_truth(reference)
    system.manifests.mkdir(parents=True)
    write_events(system.manifests / "test.tsv", truth)
    write_durations(system.manifests / "test_durations.tsv", durations)
    write_weak(system.manifests / "weak.tsv", {clip: {e.label for e in events} for clip, events in truth.items()})
    clips = [
        Clip(clip, f"data/audio/desed/{source}/{clip}.flac", durations[clip], "0" * 64, source, (clip,))
        for source in ("weak", "test")
        for clip in durations
    ]
    write_clips(system.manifests / "clips.tsv", clips)


def read_truth(reference):
    """Events (same-class ones joined) and durations of the reference clips."""
    events = read_events(reference / "ground_truth.tsv")
    return {clip: merge_events(e) for clip, e in events.items()}, read_durations(reference / "durations.tsv")


def _write_run(folder, files, scores):
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    (folder / "log.csv").write_text(LOG)
    for network in NETWORKS:
        save_scores(folder / f"scores/test_{network}.parquet", scores)
    tensors = {f"{network}.weight": np.zeros((10, 7), np.float32) for network in NETWORKS}
    save_file(tensors, folder / "best.safetensors", {"specification": "{}"})


def _write_audio(system):
    """A sweep for each test clip but the last one, which stays without audio; JAMS beside the first."""
    folder = system.root / "data/audio/desed/test"
    folder.mkdir(parents=True)
    events = read_events(system.manifests / "test.tsv")
    seconds = np.arange(160000) / 16000
    for number, clip in enumerate(sorted(events)[:-1]):
        sweep = 0.3 * np.sin(2 * np.pi * (200 + 20 * number) * seconds * (1 + seconds / 10))
        soundfile.write(folder / f"{clip}.flac", sweep, 16000)
    write_jams(folder / f"{sorted(events)[0]}.jams", events[sorted(events)[0]], snr=15.0)


def write_jams(path, events, snr):
    """What the report reads of a JAMS file."""
    background = {"time": 0, "duration": 10, "value": {"label": "rain", "role": "background", "snr": 0}}
    placed = [
        {"time": e.onset, "duration": e.offset - e.onset, "value": {"label": e.label, "role": "foreground", "snr": snr}}
        for e in events
    ]
    path.write_text(json.dumps({"annotations": [{"namespace": "scaper", "data": [background, *placed]}]}))
