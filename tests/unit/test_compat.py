"""The shims, tried on the libraries they serve."""

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sedflow import compat


@pytest.fixture
def soundbank(tmp_path):
    import soundfile

    rng = np.random.default_rng(1)
    for role, label, seconds in (("foreground", "beep", 0.5), ("background", "hiss", 3.0)):
        folder = tmp_path / role / label
        folder.mkdir(parents=True)
        soundfile.write(folder / "one.wav", 0.1 * rng.standard_normal(int(16000 * seconds)), 16000)
    return tmp_path


def test_scaper_makes_a_soundscape_after_the_shim(soundbank):
    compat.prepare_scaper()
    import scaper

    scene = scaper.Scaper(2.0, str(soundbank / "foreground"), str(soundbank / "background"), random_state=1)
    scene.sr, scene.ref_db = 16000, -50
    scene.add_background(("const", "hiss"), ("choose", []), ("const", 0))
    scene.add_event(
        label=("const", "beep"),
        source_file=("choose", []),
        source_time=("const", 0),
        event_time=("truncnorm", 1, 0.3, 0.2, 1.4),
        event_duration=("const", 0.4),
        snr=("uniform", 6, 12),
        pitch_shift=("uniform", -1, 1),
        time_stretch=("uniform", 0.9, 1.1),
    )
    audio, annotation, _, _ = scene.generate(audio_path=None, jams_path=None, disable_instantiation_warnings=True)
    labels = [event.value["label"] for event in annotation.annotations.search(namespace="scaper")[0].data]
    assert sorted(labels) == ["beep", "hiss"]
    assert len(audio) == 32000 and np.isfinite(audio).all() and np.abs(audio).max() > 0


def test_scaper_still_needs_the_shim():
    """When this fails, Scaper has moved on and ``prepare_scaper`` can go."""
    assert metadata.version("scaper") == "1.6.5"
    assert "np.Inf" in Path(metadata.distribution("scaper").locate_file("scaper/core.py")).read_text()


def test_sed_scores_eval_computes_psds_with_the_pinned_pandas_and_setuptools():
    compat.prepare_sed_scores_eval()
    from sed_scores_eval import intersection_based

    edges = np.arange(11.0)
    sure = np.where((edges[:-1] >= 2) & (edges[:-1] < 5), 0.9, 0.1)
    scores = {"clip": pd.DataFrame({"onset": edges[:-1], "offset": edges[1:], "beep": sure})}
    psds, *_ = intersection_based.psds(
        scores,
        {"clip": [(2.0, 5.0, "beep")]},
        {"clip": 10.0},
        dtc_threshold=0.7,
        gtc_threshold=0.7,
        cttc_threshold=None,
        alpha_ct=0.0,
        alpha_st=0.0,
        max_efpr=100.0,
    )
    assert psds == pytest.approx(1.0)


@pytest.mark.parametrize(
    "shim, library", [("prepare_scaper", "scaper"), ("prepare_sed_scores_eval", "sed_scores_eval")]
)
def test_shims_are_silent(shim, library):
    code = f"from sedflow import compat; compat.{shim}(); import {library}"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout + run.stderr == ""


def test_importing_compat_imports_no_library():
    code = "import sys, sedflow.compat; print([m for m in ('numpy', 'pandas', 'scaper', 'torch') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_torchaudio_imports_beside_the_pinned_torch():
    import torch
    import torchaudio

    assert torchaudio.__version__.split(".")[:2] == torch.__version__.split(".")[:2]
    assert torchaudio.functional.melscale_fbanks(201, 0.0, 8000.0, 40, 16000).shape == (201, 40)
