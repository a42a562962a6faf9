"""Detection in a ten-minute recording: real-time factor and peak memory.

    python bench/detection.py [DETECTOR]

Without a detector file one is drawn at random from the esc10 page: it takes the same time.
"""

import sys
import tempfile
from pathlib import Path

import common
import numpy as np

from sedflow import audio
from sedflow.detector import build_detector
from sedflow.inference import detect
from sedflow.specification import Specification, save_detectors
from sedflow.systems import read_system

MINUTES = 10


def random_detector(path):
    """A detector of the esc10 page with weights nobody trained."""
    page = read_system("esc10").model_dump(mode="json")
    specification = Specification(
        system="esc10", stage="finetune", classes=[f"class {k}" for k in range(7)], sample_rate=page["sample_rate"],
        frame_rate=page["detector"]["frame_rate"], clip_seconds=page["clip_seconds"], detector=page["detector"],
        inference=page["inference"], networks=["student"], seed=0, step=0,
    )  # fmt: skip
    save_detectors(path, {"student": build_detector(page["detector"], 7)}, specification)
    return path


def main():
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        detector = Path(sys.argv[1]) if len(sys.argv) > 1 else random_detector(folder / "detector.safetensors")
        recording = folder / "recording.flac"
        noise = np.random.default_rng(0).normal(size=MINUTES * 60 * 44100).astype(np.float32)
        audio.write(recording, np.clip(0.05 * noise, -1, 1), 44100)
        timings = common.compare(
            {"sedflow detect": lambda: detect(recording, detector)}, lambda a, b: True, items=MINUTES
        )
        peak = common.peak_memory(
            f"from sedflow.inference import detect\ndetect({str(recording)!r}, {str(detector)!r})"
        )
    seconds = timings[0].median
    common.write(
        "detection",
        f"Detection in a recording of {MINUTES} minutes",
        [
            "44.1 kHz, resampled to the detector's rate, windows of 10 s every 5 s.",
            common.surroundings("torch", "soundfile", "soxr"),
            common.table(timings, "minutes of audio"),
            f"Real-time factor {seconds / (60 * MINUTES):.4f}, peak memory {peak:.0f} MiB (imports included).",
        ],
    )


if __name__ == "__main__":
    main()
