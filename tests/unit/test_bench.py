"""The frame of the benchmarks keeps its promises."""

import importlib
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from bench import common


def test_unequal_candidates_are_not_timed():
    calls = []
    candidates = {"ours": lambda: calls.append("ours") or 1, "peer": lambda: calls.append("peer") or 2}
    with pytest.raises(common.UnequalError, match="peer does not give the result of ours"):
        common.compare(candidates, equal=lambda ours, theirs: ours == theirs)
    assert calls == ["ours", "peer"]


def test_candidates_take_turns_after_one_warm_up():
    calls = []
    candidates = {"ours": lambda: calls.append("a"), "peer": lambda: calls.append("b")}
    ours, peer = common.compare(candidates, equal=lambda *_: True, items=3, rounds=5)
    assert "".join(calls) == "ab" * 6
    assert len(ours.seconds) == len(peer.seconds) == 5 and peer.items == 3


def test_fewer_than_five_rounds_are_refused():
    with pytest.raises(ValueError, match="at least 5"):
        common.compare({"ours": int}, equal=lambda *_: True, rounds=3)


def test_a_ratio_is_only_claimed_when_the_rounds_do_not_overlap():
    ours = common.Timing("ours", (1.0, 1.1, 1.2), 6)
    clear = common.Timing("clear", (2.0, 2.2, 2.4), 6)
    vague = common.Timing("vague", (1.1, 1.3, 1.4), 6)
    rows = common.table([ours, clear, vague], "clips").splitlines()
    assert rows[2].endswith("|  |") and rows[3].endswith("| 2.00× |") and rows[4].endswith("| about 1.18× |")
    assert "| 5.455 |" in rows[2]


def test_a_page_names_the_machine_and_is_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(common, "RESULTS", tmp_path / "results")
    common.write("page", "Title", [common.surroundings("numpy"), "text"])
    page = (tmp_path / "results" / "page.md").read_text()
    assert page.strip() == capsys.readouterr().out.strip()
    assert page.startswith("# Title\n\n- ") and "numpy " in page and "load " in page and "OMP_NUM_THREADS=" in page


def test_memory_is_the_peak_of_a_process_of_its_own():
    held = bytearray(300 * 2**20)
    small, large = common.peak_memory(""), common.peak_memory("block = bytearray(200 * 2**20)")
    assert small < 100 and large > small + 150 and len(held)


@pytest.fixture
def encoders(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(common.__file__).parent))
    return importlib.import_module("encoders")


class Told(torch.nn.Linear):
    """A layer, or an encoder, that says under which circumstances it is called."""

    def __init__(self):
        super().__init__(8, 8)
        self.seen = set()

    def forward(self, features):
        self.seen.add((torch.is_grad_enabled(), torch.backends.cudnn.allow_tf32))
        return features


def test_the_ceiling_of_products_is_measured_as_encoders_multiply(encoders):
    layer = Told()
    assert encoders.product_teraflops(types.SimpleNamespace(fc1=layer), "cpu") > 0
    assert {gradients for gradients, _ in layer.seen} == {False}


def test_encoders_are_compared_in_full_float32(encoders, monkeypatch):
    encoder = Told()
    monkeypatch.setattr(encoders, "network", lambda *_: encoder)
    for way in ("sedflow, float32", "plain, float32"):
        monkeypatch.setitem(encoders.PLAIN, "beats", Told.forward)
        encoders.reading("beats", way, 1, "cpu")()
    assert encoder.seen == {(False, False)}


def test_every_script_and_what_it_runs_for_its_memory_starts_by_itself(tmp_path):
    """As `python bench/<script>.py` does where sedflow is installed: beside a script lie the others, and no more."""
    folder = Path(common.__file__).parent
    (tmp_path / "sedflow").symlink_to(folder.parent / "sedflow")
    names = sorted(path.stem for path in folder.glob("*.py"))
    starts = "for script in (encoders, encoder_mobilenet): exec(script.MEMORY.split('encoder = ')[0].split('with ')[0])"
    run = subprocess.run(
        [sys.executable, "-P", "-c", f"import sys; sys.path.insert(0, 'bench'); import {', '.join(names)}\n{starts}"],
        cwd=folder.parent,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert run.returncode == 0, run.stderr
