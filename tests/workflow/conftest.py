"""A clone of this checkout with a demo so small that the whole pipeline takes a minute."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sedflow.yaml_text import load_yaml

ROOT = Path(__file__).parents[2]
TINY = {"synthetic_strong": 4, "weak": 2, "unlabeled": 2, "validation": 2, "test": 2}
PERSON = {f"GIT_{role}_{what}": "tester@example.org" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


class Clone:
    """A working copy in which commands run as they would for a user."""

    def __init__(self, path):
        self.path = Path(path)

    def __call__(self, *command, check=True):
        """Run a command; returns its output, both streams as one text."""
        search = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environment = {**kept, **PERSON, "PATH": search, "PYTHONPATH": ""}
        done = subprocess.run(
            [str(word) for word in command],
            cwd=self.path,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert not check or done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}"
        return done.stdout

    def sedflow(self, *command, **options):
        """Run a command of ours."""
        return self(sys.executable, "-m", "sedflow.cli", *command, **options)

    def commit(self, message):
        """Commit everything that git does not ignore."""
        self("git", "add", "--all")
        self("git", "commit", "--quiet", "--message", message)

    def change(self, file, path, value):
        """Change one setting of a YAML file; ``path`` is its keys."""
        content = yaml.safe_load((self.path / file).read_text())
        node = content
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = value
        (self.path / file).write_text(yaml.safe_dump(content, sort_keys=False))

    def planned(self):
        """Rules of the jobs that Snakemake would run now, without the targets."""
        lines = self("snakemake", "-n", "--quiet", "host", "progress", "reason").splitlines()
        rules = [
            line.strip().rstrip(":").split()[-1] for line in lines if line.strip().startswith(("rule ", "localrule "))
        ]
        return sorted(rule for rule in rules if rule not in ("all", "demo"))

    def copy(self, path):
        """The clone with everything in it at another place, times kept."""
        shutil.copytree(self.path, path, symlinks=True)
        return Clone(path)

    def choose(self, system, variant):
        """Set the system and the variant that `snakemake` and `dvc repro` make."""
        page = load_yaml((self.path / f"workflow/systems/{system}.yaml").read_text())
        corpora = page["variants"][variant].get("corpora", page["corpora"])
        folders = [spec.get("as", spec["name"]) for spec in corpora]
        for key, value in {"system": system, "variant": variant, "corpora": folders}.items():
            self.change("params.yaml", [key], value)

    def from_audio_to_report(self, system, variant="tiny"):
        """Make a variant with everything it needs; returns its stages' metrics.

        Its report is there, every run of it ends in a detector with finite scores, and nothing is left to do.
        """
        self.choose(system, variant)
        self("snakemake", "--cores", "2", "--nocolor")
        assert "<html" in (self.path / f"models/{system}/report/index.html").read_text()
        found = {}
        for run in sorted((self.path / f"models/{system}/{variant}").glob("*/seed*")):
            assert (run / "detector.safetensors").is_file()
            metrics = json.loads((run / "metrics.json").read_text())
            assert 0 <= metrics[metrics["chosen"]]["postprocessed"]["psds1"] <= 1
            found[run.parent.name] = metrics
        assert self.planned() == []
        return found


def shrink(clone):
    """Make the demo tiny: the same rules on a handful of four-second clips."""
    page = clone.path / "workflow/systems/demo.yaml"
    settings = yaml.safe_load(page.read_text())
    settings["corpora"] = [{"name": "demo", "seconds": 4.0, "shards": 2, **TINY}]
    settings |= {"clip_seconds": 4.0, "feature_shards": 1}
    settings["inference"] |= {"window_seconds": 4.0, "hop_seconds": 2.0}
    settings["detector"]["sequence"] = {"name": "bigru", "width": 8}
    for stage in settings["stages"].values():
        stage |= {"steps": 2, "validate_every": 2, "sources": {"synthetic_strong": 2, "weak": 1, "unlabeled": 1}}
        stage["optimizer"]["warmup_steps"] = 1
        for shift in stage["augment"]:
            shift["max_seconds"] = 2.0
    page.write_text(yaml.safe_dump(settings, sort_keys=False))
    clone.change("params.yaml", ["threads"], 1)


@pytest.fixture(scope="session")
def pristine(tmp_path_factory):
    """A fresh clone, nothing made in it yet. Leave it as it is: copy it."""
    clone = Clone(tmp_path_factory.mktemp("pristine") / "clone")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, capture_output=True, check=True, text=True,
    ).stdout.split("\0")  # fmt: skip
    for name in filter(None, listed):
        source, target = ROOT / name, clone.path / name
        if source.exists() and not name.startswith(("tests/", "bench/")):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)
    clone("git", "init", "--quiet", "--initial-branch", "main")
    shrink(clone)
    clone.commit("a tiny demo")
    return clone


@pytest.fixture(scope="session")
def reproduced(pristine, tmp_path_factory):
    """The clone after `dvc repro`, committed. Leave it as it is: copy it."""
    clone = pristine.copy(tmp_path_factory.mktemp("reproduced") / "clone")
    clone("dvc", "repro")
    clone.commit("reproduced")
    return clone
