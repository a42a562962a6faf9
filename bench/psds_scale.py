"""PSDS1 and PSDS2 of a large set, class by class: time, peak memory, cost of cross triggers.

By default a tenth of AudioSet Strong's classes and clips; ``--full`` writes random scores of 17,000 clips × 407 classes
× 250 frames (7 GB) to a folder that must have the room. They are judged in a process of its own.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from common import peak_memory, surroundings, write

SECONDS = 10.0
EVENTS = 8  # a clip
BATCH = 250  # clips in memory while writing

JUDGE = """
import pickle, time
from pathlib import Path
from rich.progress import track
from sedflow.psds import CRITERIA, psd_rocs, psds_of
from sedflow.scores import ScoreColumns
from sedflow.stretches import Frames
folder = Path({folder!r})
truth, durations = pickle.loads((folder / "truth.pickle").read_bytes())
start = time.perf_counter()
wanted = {{name: CRITERIA[name] for name in {wanted!r}}}
rocs = psd_rocs(Frames.reading(ScoreColumns(folder / "scores.parquet")), truth, durations, wanted, track)
values = {{name: psds_of(rocs[name], wanted[name])[0] for name in wanted}}
reached = [f"{{name}} {{value:.4f}}" for name, value in values.items()]
(folder / "told.txt").write_text(", ".join([f"{{time.perf_counter() - start:.1f}}", *reached]))
"""


def generate(folder: Path, clips: int, classes: int, frames: int) -> None:
    """Write scores, truth and durations, a batch of clips at a time."""
    import pickle

    import pyarrow as pa
    import pyarrow.parquet as pq

    from sedflow.events import Event, merge_events

    rng = np.random.default_rng(0)
    labels = [f"class{k}" for k in range(classes)]
    edges = np.arange(frames + 1) * (SECONDS / frames)
    truth, writer = {}, None
    for begin in range(0, clips, BATCH):
        names = [f"clip{number:06}" for number in range(begin, min(begin + BATCH, clips))]
        logits = rng.standard_normal((len(names), frames, classes), dtype=np.float32) / 2 - 5
        logits += rng.standard_normal((len(names), 1, classes), dtype=np.float32)  # clips differ more than their frames
        for row, name in enumerate(names):
            times = np.sort(np.round(rng.uniform(0, SECONDS, size=(EVENTS, 2)), 3), axis=1)
            # some classes are a hundred times as frequent as others
            events = [Event(a, b, labels[int(classes * rng.random() ** 2)]) for a, b in times if b > a]
            truth[name] = merge_events(events, max_gap=0.01)
            for event in truth[name]:
                touched = (edges[1:] > event.onset) & (edges[:-1] < event.offset)
                logits[row, touched, labels.index(event.label)] += 5
        columns = {
            "filename": pa.DictionaryArray.from_arrays(np.repeat(np.arange(len(names), dtype=np.int32), frames), names),
            "onset": np.tile(edges[:-1], len(names)),
            "offset": np.tile(edges[1:], len(names)),
        }
        columns |= {label: logits[:, :, k].ravel() for k, label in enumerate(labels)}
        batch = pa.table(columns)
        writer = writer or pq.ParquetWriter(folder / "scores.parquet", batch.schema, compression="none")
        writer.write_table(batch)
    writer.close()
    (folder / "truth.pickle").write_bytes(pickle.dumps((truth, dict.fromkeys(truth, SECONDS))))


def main() -> None:
    """Generate, judge with and without cross triggers, write the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--clips", type=int, default=1_700)
    options.add_argument("--classes", type=int, default=41)
    options.add_argument("--frames", type=int, default=250)
    options.add_argument("--full", action="store_true", help="17,000 clips × 407 classes")
    options.add_argument("--folder", type=Path, help="where to put the scores; a temporary folder if not given")
    options = options.parse_args()
    if options.full:
        options.clips, options.classes = 17_000, 407
    rows = ["| | seconds, result | peak memory, MiB |", "|---|---|---|"]
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        start = time.perf_counter()
        generate(Path(name), options.clips, options.classes, options.frames)
        print(f"scores written in {time.perf_counter() - start:.0f} s")
        for wanted in (["psds1"], ["psds2"], ["psds1", "psds2"]):
            memory = peak_memory(JUDGE.format(folder=name, wanted=wanted))
            rows.append(f"| {' + '.join(wanted)} | {(Path(name) / 'told.txt').read_text()} | {memory:.0f} |")
    size = f"{options.clips:,} clips × {options.classes} classes × {options.frames} frames, {EVENTS} events a clip."
    cost = "PSDS2 counts cross triggers, which compares every detection with the events of all classes."
    write("psds_scale", "PSDS of a large set", [surroundings("numpy", "pyarrow"), size, "\n".join(rows), cost])


if __name__ == "__main__":
    main()
