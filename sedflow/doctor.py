"""Can this machine run the pipeline? One verdict for each dependency, system library and resource.

``diagnose`` collects findings, ``show`` prints them; a required thing that fails makes ``exit_code`` 1.
"""

from __future__ import annotations

import configparser
import contextlib
import dataclasses
import importlib
import io
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

MALICIOUS = {"lightning": ("2.6.2", "2.6.3")}  # GHSA-w37p-236h-pfx3
REINSTALL = "rm -r .venv && make install"
GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Finding:
    """One verdict: ``ok``, ``note`` (works, but worth knowing) or ``problem`` (something required fails)."""

    subject: str
    verdict: str
    detail: str
    cure: str = ""


def diagnose() -> list[Finding]:
    """Look at everything the pipeline needs; never raises for what it finds."""
    return [*installation(), *gpu(), *processor(), *memory(), *shared_memory(), *disk(), *mirror(), *git(), *dvc()]


def installation() -> list[Finding]:
    """Only what `make install` put there."""
    try:
        metadata.version("sedflow")
    except metadata.PackageNotFoundError:
        cure = "make install, or pip install -e ."
        return [Finding("sedflow", "problem", "not installed, so its requirements are unknown", cure)]
    return [*python_version(), *dependencies(), *torch_pair(), *system_libraries()]


def python_version() -> Iterable[Finding]:
    """The interpreter against ``requires-python``."""
    from packaging.specifiers import SpecifierSet

    wanted = metadata.metadata("sedflow")["Requires-Python"]
    found = ".".join(map(str, sys.version_info[:3]))
    good = SpecifierSet(wanted).contains(found)
    yield Finding("Python", "ok" if good else "problem", f"{found} (wanted {wanted})", "" if good else REINSTALL)


def dependencies() -> Iterable[Finding]:
    """Every dependency of pyproject.toml, those of the extras too: version in range, and importable."""
    modules: dict[str, list[str]] = {}
    for module, distributions in metadata.packages_distributions().items():
        for distribution in distributions:
            modules.setdefault(canonicalize_name(distribution), []).append(module)
    for line in metadata.requires("sedflow") or []:
        requirement = Requirement(line)
        yield dependency(requirement, modules.get(canonicalize_name(requirement.name), []))


def dependency(requirement: Requirement, modules: list[str]) -> Finding:
    """Verdict on one dependency; a malicious release is named and never imported."""
    extra = str(requirement.marker).split('"')[1] if requirement.marker else ""
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        if extra:
            return Finding(requirement.name, "note", f"not installed, extra {extra}", f"pip install -e '.[{extra}]'")
        return Finding(requirement.name, "problem", f"not installed, wanted {requirement.specifier}", REINSTALL)
    if version in MALICIOUS.get(requirement.name, ()):
        cure = f"pip uninstall {requirement.name}; change every password and token this machine holds; {REINSTALL}"
        return Finding(requirement.name, "problem", f"{version} IS A MALICIOUS RELEASE", cure)
    if not requirement.specifier.contains(version, prereleases=True):
        return Finding(requirement.name, "problem", f"{version}, wanted {requirement.specifier}", REINSTALL)
    own = canonicalize_name(requirement.name)
    module = min(modules, key=lambda name: canonicalize_name(name) != own, default=requirement.name)
    reason = import_error(module)
    if reason:
        return Finding(requirement.name, "problem", f"{version} does not import: {reason}", REINSTALL)
    return Finding(requirement.name, "ok", version + (f", extra {extra}" if extra else ""))


def import_error(module: str) -> str:
    """Why a module cannot be imported; empty when it can. Whatever it prints or warns is swallowed."""
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            importlib.import_module(module)
    except Exception as error:  # a broken library can raise anything: OSError, RuntimeError, its own
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return ""


def torch_pair() -> Iterable[Finding]:
    """Torch and torchaudio are compiled for each other: same release, same CUDA build."""
    try:
        torch, torchaudio = metadata.version("torch"), metadata.version("torchaudio")
    except metadata.PackageNotFoundError:
        return
    match = torch.split(".")[:2] == torchaudio.split(".")[:2]
    detail = f"torch {torch}, torchaudio {torchaudio}"
    yield Finding("torch pair", "ok" if match else "problem", detail, "" if match else REINSTALL)


def system_libraries() -> Iterable[Finding]:
    """The sox program and libsox, which soxbindings is linked against."""
    cure = "apt-get install sox libsox-dev, or conda install -c conda-forge sox; then " + REINSTALL
    program = shutil.which("sox")
    yield Finding("sox", "ok" if program else "problem", program or "not on the PATH", "" if program else cure)
    reason = import_error("soxbindings")
    yield Finding("libsox", "problem" if reason else "ok", reason or "soxbindings loads it", cure if reason else "")


def gpu() -> Iterable[Finding]:
    """GPUs torch can use; a card that only the driver sees is worth a note."""
    if import_error("torch"):
        return
    import torch

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            card = torch.cuda.get_device_properties(index)
            bf16 = "bf16" if card.major >= 8 else "no bf16"
            yield Finding(f"GPU {index}", "ok", f"{card.name}, {card.total_memory / GIB:.0f} GiB, {bf16}")
    elif shutil.which("nvidia-smi"):
        detail = f"a driver is installed, but torch {torch.__version__} cannot use the card"
        yield Finding("GPU", "note", detail, f"a driver for CUDA {torch.version.cuda} or later")
    else:
        yield Finding("GPU", "note", "none: the demo and esc10 run on the CPU, the large systems need one")


def processor() -> Iterable[Finding]:
    """Cores, and the instructions that make bf16 fast."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text().split() if cpuinfo.is_file() else []
    fast = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    bf16 = "bf16 is fast" if {"avx512_bf16", "amx_bf16"} & set(fast) else "bf16 is slow here: keep precision 32"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("CPU", "ok", f"{cores} cores; {' '.join(fast) or 'no AVX2'}; {bf16}")


def memory() -> Iterable[Finding]:
    """Physical memory; stage 2 of esc10 needs about 6 GiB."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    short = total < 6
    yield Finding("memory", "note" if short else "ok", f"{total:.1f} GiB", "smaller batches" if short else "")


def shared_memory(folder: str = "/dev/shm") -> Iterable[Finding]:
    """What the processes that read batches hand them over in; containers begin with 64 MiB, then these die."""
    if Path(folder).is_dir():
        total = shutil.disk_usage(folder).total / GIB
        cure = "docker run --shm-size=8g …; otherwise `workers: 0` in the stages of a page" if total < 1 else ""
        yield Finding("shared memory", "note" if cure else "ok", f"{total:.2f} GiB in {folder}", cure)


def disk(folder: str = ".") -> Iterable[Finding]:
    """Free space where data and models are written."""
    free = shutil.disk_usage(folder).free / GIB
    verdict = "problem" if free < 1 else "note" if free < 10 else "ok"
    cure = "" if verdict == "ok" else "free some space; data/features can be deleted and will be recomputed"
    yield Finding("free disk", verdict, f"{free:.1f} GiB", cure)


def mirror() -> Iterable[Finding]:
    """The folder of raw corpora and weights that is searched before downloading."""
    path = os.environ.get("SEDFLOW_MIRROR", "")
    if not path:
        yield Finding("mirror", "note", "SEDFLOW_MIRROR is not set: downloads come from the network")
    elif not Path(path).is_dir():
        yield Finding("mirror", "problem", f"SEDFLOW_MIRROR={path} is not a folder", "correct it, or unset it")
    else:
        holds = [f"{part.name} ({_files(part)} files)" for part in sorted(Path(path).iterdir()) if part.is_dir()]
        yield Finding("mirror", "ok" if holds else "note", f"{path}: {', '.join(holds) or 'empty'}")


def git() -> Iterable[Finding]:
    """The checkout that results are versioned in."""
    try:
        revision = _output("git", "describe", "--always", "--dirty=, with uncommitted changes")
        yield Finding("git", "ok", revision)
    except FileNotFoundError:
        yield Finding("git", "problem", "not installed", "apt-get install git")
    except subprocess.CalledProcessError:
        cure = "work in a clone; otherwise `git init` and a first commit"
        yield Finding(
            "git", "note", "this folder is not a git repository with a commit, so DVC cannot version it", cure
        )


def dvc() -> Iterable[Finding]:
    """DVC's project and how its cache links files: a copying cache makes Snakemake see changes that are none."""
    settings = Path(".dvc/config")
    if not settings.is_file():
        yield Finding("DVC project", "note", "no .dvc/config in this folder", "run from the repository's root")
        return
    config = configparser.ConfigParser(strict=False)
    config.read_string("\n".join(line.strip() for line in settings.read_text().splitlines()))
    links = config.get("cache", "type", fallback="reflink,copy").strip("\"'")
    good = links.startswith("hardlink")
    state = "results recorded in dvc.lock" if Path("dvc.lock").is_file() else "nothing recorded yet"
    cure = "" if good else "dvc config cache.type hardlink,copy"
    yield Finding("DVC project", "ok" if good else "note", f"cache.type {links}; {state}", cure)


def show(findings: Iterable[Finding]) -> None:
    """Print a table: subject, verdict, what was found and what to do about it."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    colours = {"ok": "green", "note": "yellow", "problem": "bold red"}
    table = Table("", "verdict", "found", "cure", box=None, pad_edge=False)
    for finding in findings:
        verdict = f"[{colours[finding.verdict]}]{finding.verdict}[/]"
        table.add_row(escape(finding.subject), verdict, escape(finding.detail), escape(finding.cure))
    Console().print(table)


def exit_code(findings: Iterable[Finding]) -> int:
    """1 when something required fails, else 0."""
    return int(any(finding.verdict == "problem" for finding in findings))


def _files(folder: Path) -> int:
    return sum(path.is_file() for path in folder.rglob("*"))


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
