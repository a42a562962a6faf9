"""Keep two records consistent: Snakemake's ``.snakemake/metadata`` and DVC's ``dvc.lock``.

``record``: Snakemake is up to date, so DVC takes what it made into its lock file and its cache.
``adopt``: the files are as ``dvc.lock`` says (a checkout, a clone, a pull, DVC's run cache), so Snakemake is updated.
``check``: neither has anything left to do.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from base64 import urlsafe_b64decode
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path

import yaml

from sedflow import dvc_digests, systems
from sedflow.events import read_table
from sedflow.files import sha256, write_text
from sedflow.yaml_text import load_yaml

METADATA = Path(".snakemake/metadata")
INCOMPLETE = Path(".snakemake/incomplete")
MADE = Path(".snakemake/made.json")
LOCK = Path("dvc.lock")
# what DVC never touches
UNVERSIONED = ("data/raw/", "data/features/", "data/logits/", "data/pseudo/", "models/pretrained/")
SETTINGS = (Path("params.yaml"), Path("workflow/systems"))


class SyncError(RuntimeError):
    """The records cannot be reconciled; the message says what to do first."""


def foreign_outputs() -> list[str]:
    """Files that are not what Snakemake recorded.

    Its record of an output holds the file's time: another time means that DVC or git put another version there, unless
    the content is the one that was made. A clone that has files of ``dvc.lock`` but no records is foreign as a whole.
    What a job was making when it was killed, or makes now, is its own: Snakemake makes it again.
    """
    records = _records()
    if not records:
        return [out for out in _locked_outputs() if os.path.exists(out)]
    made = _made()
    return sorted(out for out, ended in records.items() if _is_another(out, ended) and not _is_equal(out, ended, made))


def unrecorded_runs(names: Iterable[str]) -> list[str]:
    """Finished runs of these systems, if Snakemake has no records at all and so would take them for up to date."""
    runs = [str(file.parent) for name in names for file in Path("models", name).glob("*/*/seed*/settings.json")]
    return [] if any(_record_files()) else sorted(runs)


def remember(adopted: bool = False) -> None:
    """Note the content of what was made, since DVC replaces an output by its older equal in the cache.

    Parameters
    ----------
    adopted : bool    the files are right whatever their times say (equal ones share a link, and so their time)
    """
    made = {output: note for output, note in _made().items() if os.path.exists(output)}
    followed = {output: ended for output, ended in _records().items() if not output.startswith(UNVERSIONED)}
    for output, ended in followed.items():
        noted = made.get(output, [None])[0] == ended
        if not noted and os.path.isfile(output) and (adopted or not _is_another(output, ended)):
            made[output] = [ended, sha256(output)]
    write_text(MADE, json.dumps(made, indent=0, sort_keys=True))


def record() -> None:
    """Write what Snakemake made into ``dvc.lock`` and DVC's cache.

    Raises
    ------
    SyncError    jobs are left, or there are files that no rule makes any more and DVC would version
    """
    if _jobs_left():
        raise SyncError("Snakemake still has jobs to run: run `snakemake` to the end, then record")
    if stale := list(_stale_files()):
        raise SyncError(
            f"{len(stale)} files belong to no current output (left from earlier settings?) and would be versioned; "
            f"delete them first: {' '.join(stale[:5])}"
        )
    _look_again()
    _run("dvc", "commit", "--force", "--no-relink", "--quiet")


def adopt() -> None:
    """Bring the files of ``dvc.lock`` to disk and make Snakemake's records describe them.

    Raises
    ------
    SyncError    results on disk are in no cache yet, or the files differ from ``dvc.lock``
    """
    if not LOCK.is_file():
        raise SyncError("there is no dvc.lock, so there is nothing to adopt: run `snakemake` or `dvc repro`")
    if _run("dvc", "checkout", "--quiet", check=False).returncode:
        raise SyncError(
            "dvc checkout refused: results on disk are in no cache yet (record or delete them), or the cache lacks "
            "files (dvc pull)"
        )
    _look_again()
    if differing := _differing():
        raise SyncError(
            f"these differ from dvc.lock, so it is unknown what produced them: {differing}. Run `dvc repro`"
        )
    _forget_other_features()
    with tempfile.TemporaryDirectory() as folder:
        _locked_settings(Path(folder))
        _run("snakemake", "--cores", "1", "--touch", "--forceall", "--quiet", "all", "--config", f"settings={folder}")
    remember(adopted=True)


def check() -> None:
    """Raise SyncError unless neither Snakemake nor DVC has anything left to do."""
    if _jobs_left():
        raise SyncError("Snakemake has jobs to run: `snakemake -n` lists them")
    _look_again()
    if _run("dvc", "status", "--quiet", check=False).returncode:
        raise SyncError("DVC sees changes: `dvc status` lists them; after a snakemake run, `sedflow sync record`")


def _look_again() -> None:
    """Note what code and, if it is here, the user's own data are now: DVC does not ask while settings stay."""
    choices = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    there = dvc_digests.own_files_are_there(systems.sketch(choices["system"], choices["variant"]))
    _run("dvc", "repro", "--single-item", *(["--force"] if there else []), "--quiet", "code")


def _record_files() -> Iterator[Path]:
    """Snakemake's records of finished jobs; until all those of a job are written, marks of their names stand beside."""
    for path in METADATA.rglob("*") if METADATA.is_dir() else ():
        if path.is_file() and not (INCOMPLETE / path.relative_to(METADATA)).is_file():
            yield path


def _records() -> dict[str, float]:
    """Outputs → their times in Snakemake's records; a record's name is the output's in base64."""
    records = {}
    for path in _record_files():
        name = "".join(part.removeprefix("@") for part in path.relative_to(METADATA).parts)
        ended = json.loads(path.read_text(encoding="utf-8"))["endtime"]
        records[urlsafe_b64decode(name).decode()] = ended
    return records


def _made() -> dict[str, list]:
    return json.loads(MADE.read_text(encoding="utf-8")) if MADE.is_file() else {}


def _is_another(output: str, ended: float) -> bool:
    return os.path.exists(output) and abs(os.lstat(output).st_mtime - ended) > 1e-3


def _is_equal(output: str, ended: float, made: Mapping) -> bool:
    return output in made and made[output] == [ended, sha256(output)]


def _locked_stages() -> dict[str, dict]:
    return yaml.safe_load(LOCK.read_text(encoding="utf-8"))["stages"] if LOCK.is_file() else {}


def _locked_outputs() -> list[str]:
    return [out["path"] for stage in _locked_stages().values() for out in stage.get("outs", [])]


def _locked_settings(folder: Path) -> None:
    """Copy ``params.yaml`` and the pages, with the values that the locked files were made with."""
    for source in SETTINGS:
        target = folder / source
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    for stage in _locked_stages().values():
        for file, values in stage.get("params", {}).items():
            content = load_yaml((folder / file).read_text(encoding="utf-8"))
            for key, value in values.items():
                _put(content, key.split("."), value)
            (folder / file).write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def _put(content: dict, keys: list[str], value) -> None:
    for key in keys[:-1]:
        content = content.setdefault(key, {})
    content[keys[-1]] = value


def _differing() -> list[str]:
    """Outputs and code or data dependencies that are not those of ``dvc.lock``; settings may differ."""
    status = json.loads(_run("dvc", "status", "--json", capture_output=True).stdout)
    found = []
    for changes in status.values():
        for change in changes:
            if isinstance(change, Mapping):
                found += change.get("changed outs", {})
                found += [dep for dep, what in change.get("changed deps", {}).items() if not isinstance(what, Mapping)]
            else:
                found.append(change)
    return sorted(set(found))


def _forget_other_features() -> None:
    """Delete shards of the cache, which DVC does not version, unless the locked runs were made with them."""
    for inventory in (out for out in _locked_outputs() if fnmatch(out, "data/inventory/*/features/*.tsv")):
        for _, row in read_table(inventory, ("path", "sha256")):
            path = Path(row["path"])
            if path.is_file() and sha256(path) != row["sha256"]:
                path.unlink()


def _stale_files() -> Iterator[str]:
    """Files in the folders DVC versions as a whole which neither a rule makes nor a manifest names."""
    rows = _run("snakemake", "--cores", "1", "--summary", capture_output=True).stdout.splitlines()[1:]
    known = {row.split("\t")[0] for row in rows}
    choices = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    runs = Path("models", choices["system"], choices["variant"])
    folders = [*runs.glob("*/seed*/scores")]
    for corpus in choices["corpora"]:
        manifests = Path("data/manifests", corpus)
        folders += [manifests, Path("data/audio", corpus)]
        for table in ("clips.tsv", "soundbank.tsv", "inventory.tsv"):
            known |= set(_paths(manifests / table))
    for path in sorted(path for folder in folders for path in folder.rglob("*") if path.is_file()):
        if str(path) not in known and str(path.with_suffix(".flac")) not in known:  # JAMS beside their soundscape
            yield str(path)


def _paths(table: Path) -> list[str]:
    return [row["path"] for _, row in read_table(table, ("path",))] if table.is_file() else []


def _jobs_left() -> bool:
    found = _run("snakemake", "--cores", "1", "--dry-run", capture_output=True, check=False)
    if found.returncode:
        raise SyncError(f"snakemake cannot plan:\n{found.stderr.strip() or found.stdout.strip()}")
    return "Nothing to be done" not in found.stdout + found.stderr


def _run(*command: str, check: bool = True, **options) -> subprocess.CompletedProcess:
    """Run snakemake or dvc of this environment, whether or not it is activated."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(command, text=True, env={**os.environ, "PATH": path}, **options)
    if check and done.returncode:
        raise SyncError(f"`{' '.join(command)}` failed: {(done.stderr or '').strip()}")
    return done
