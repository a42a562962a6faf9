"""Where the parts of DESED are: in the user's folder, in the mirror, on Zenodo."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from sedflow import audio, synthesis
from sedflow.corpora import Piece
from sedflow.download import DownloadError
from sedflow.events import ClassSet, Event, clip_id, read_events, read_table, read_weak
from sedflow.files import below
from sedflow.zenodo import fetch_record, unpacked

Table = Mapping[str, "list[Event] | tuple[str, ...]"]


@dataclasses.dataclass(frozen=True)
class Part:
    """A set of clips: its ``table`` and ``audio`` folder below DESED's root, and where Zenodo has it.

    ``archive`` holds table and audio, ``tables`` only the table.
    """

    table: str
    audio: str
    archive: tuple[int, str] | None = None
    tables: tuple[int, str] | None = None


_SYNTHETIC, _TABLES = (6026841, "dcase_synth.zip"), (4639776, "audioset_metadata.tar.gz")
_TRAIN, _VALIDATION = "train/synthetic21_train/soundscapes", "validation/synthetic21_validation/soundscapes"
SETS = {
    "synthetic": Part(f"metadata/{_TRAIN}.tsv", f"audio/{_TRAIN}", archive=_SYNTHETIC),
    "synthetic_validation": Part(f"metadata/{_VALIDATION}.tsv", f"audio/{_VALIDATION}", archive=_SYNTHETIC),
    "real_strong": Part(
        "metadata/train/audioset_strong.tsv", "audio/train/strong_label_real", tables=(6444477, "audioset_strong.tsv")
    ),
    # the split of ATST-SED's repository, train/val_utils: no archive has it
    "real_strong_atst": Part("metadata/train/audioset_strong_train.tsv", "audio/train/strong_label_real"),
    "real_validation": Part("metadata/train/audioset_strong_val.tsv", "audio/train/strong_label_real"),
    # CP-JKU's list of further clips of AudioSet Strong, of the release of their code: no archive has it either
    "external": Part("metadata/train/external_strong_train.tsv", "audio/train/external_strong"),
    "external_validation": Part("metadata/train/external_strong_val.tsv", "audio/train/external_strong"),
    "weak": Part("metadata/train/weak.tsv", "audio/train/weak", tables=_TABLES),
    "unlabeled": Part("metadata/train/unlabel_in_domain.tsv", "audio/train/unlabel_in_domain", tables=_TABLES),
    "validation": Part("metadata/validation/validation.tsv", "audio/validation/validation", tables=_TABLES),
    "public": Part("metadata/eval/public.tsv", "audio/eval/public", archive=(4560759, "DESED_public_eval.tar.gz")),
}
ROLES = ("background", "foreground")
SOUNDBANK = (4307908, "DESED_synth_soundbank.tar.gz")
_NO_EDGE = re.compile("(_nOn)?(_nOff)?$")  # marks of recordings that begin or end within an event


def roots(path: Path | None, mirror: Path | None) -> list[Path]:
    """Folders to look in, the user's first; some keep the synthetic set one level deeper."""
    if path is not None and not path.is_dir():
        raise DownloadError(f"{path}: no such folder; set `path` of desed to your copy, or leave it out")
    found = [path] if path else []
    found += [mirror / name for name in ("desed", "desed_metadata")] if mirror else []
    return [part for root in found for part in (root, root / "dcase_synth") if part.is_dir()]


def fetch_table(part: Part, name: str, folders: Sequence[Path], raw: Path) -> Path:
    """Bring the table of a set to ``raw/metadata/<name>.tsv``."""
    out = raw / "metadata" / f"{name}.tsv"
    source = find_table(part, folders)
    if source is None and part.archive:
        source = _locate(unpacked(*part.archive, raw / "official", folders), part.table)
    elif source is None and part.tables and part.tables[1].endswith(".tsv"):
        source = fetch_record(*part.tables, raw / "official", folders)
    elif source is None and part.tables:
        source = _locate(unpacked(*part.tables, raw / "official", folders), part.table)
    if source is None:
        raise DownloadError(
            f"desed: no {part.table} in {[str(folder) for folder in folders]}; put it there (ATST-SED's split is in "
            "its repository, train/val_utils; CP-JKU's external clips in the release of cpjku_dcase24, or set "
            "`external: false`)"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, out)
    return out


def find_table(part: Part, folders: Sequence[Path]) -> Path | None:
    """The table of a set in the first folder that has it."""
    return next(filter(None, (_locate(folder, part.table) for folder in folders)), None)


def audio_folders(part: Part, folders: Sequence[Path], raw: Path) -> list[Path]:
    """Folders that may hold the audio of a set, resampled copies first; fetched where that is possible."""
    places = [folder / (part.audio + suffix) for folder in folders for suffix in ("_16k", "")]
    found = [place for place in places if place.is_dir()]
    if not found and part.archive:
        content = unpacked(*part.archive, raw / "official", folders)
        tail = Path(part.audio).parts
        found = [
            path for path in sorted(content.rglob(tail[-1])) if path.is_dir() and path.parts[-len(tail) :] == tail
        ] or [content]
    return found


def read_set(path: Path, name: str, classes: ClassSet) -> Table:
    """Clip → its events, its weak labels, or nothing, by the kind of the set; in the order of the table."""
    if name == "unlabeled":
        return {clip_id(row["filename"]): () for _, row in read_table(path, ("filename",))}
    return read_weak(path, classes) if name == "weak" else read_events(path, classes)


def fetch_soundbank(folders: Sequence[Path], raw: Path) -> None:
    """Write to ``raw/soundbank.txt`` where backgrounds and foregrounds are, after fetching what no folder has."""
    banks = [folder / "audio" / "train" / "soundbank" for folder in folders]
    found = _roles(banks)
    if len(found) < len(ROLES):
        content = unpacked(*SOUNDBANK, raw / "official", folders)
        packed = [path.parent for role in ROLES for path in sorted(content.rglob(role)) if "train" in path.parts]
        banks = [*banks, *packed, content]
        found = _roles(banks)
    if absent := [role for role in ROLES if role not in found]:
        raise DownloadError(
            f"desed: no recordings of the soundbank's {' and '.join(absent)} in {[str(bank) for bank in banks]}; its "
            "backgrounds are published separately (SINS, zenodo 1247102): put them into "
            f"{(banks[0] / 'background').resolve()}/<scene>"
        )
    (raw / "soundbank.txt").write_text("".join(f"{found[role]}\n" for role in ROLES), encoding="utf-8")


def _roles(banks: Sequence[Path]) -> dict[str, Path]:
    """Role → its folder in the first soundbank that has recordings for it."""
    return {role: bank / role for bank in reversed(banks) for role in ROLES if audio.recordings(bank / role)}


def soundbank_pieces(raw: Path, out: Path, classes: ClassSet, recipe: synthesis.Recipe) -> list[Piece]:
    """Copy the soundbank at the recipe's rate; a tenth of its recordings is for validation.

    Recordings are Freesound's (``<id>_<part>.wav``); a sum of their id decides, so that parts stay together.
    """
    from tqdm import tqdm

    folders = (raw / "soundbank.txt").read_text(encoding="utf-8").splitlines()
    found = [(role, path) for role, folder in zip(ROLES, folders, strict=True) for path in audio.recordings(folder)]
    pieces = []
    for role, path in tqdm(found, desc="soundbank", unit="recording", disable=None):
        label = _NO_EDGE.sub("", path.parent.name)
        if role == "foreground" and label not in classes:
            continue  # sounds that no label names would be taught as silence
        recording = f"freesound/{path.stem.split('_')[0]}" if role == "foreground" else f"desed/{path.stem}"
        split = "validation" if _tenth(recording) else "train"
        piece = Piece(f"{path.parent.name}_{path.stem}", role, label, 0.0, "", recording, split, split)
        waveform = audio.read(path, recipe.sample_rate)
        if role == "background" and len(waveform) < recipe.seconds * recipe.sample_rate:
            waveform = synthesis.loop(waveform, round(2 * recipe.seconds * recipe.sample_rate), recipe.sample_rate // 2)
        pieces.append(synthesis.write_piece(out, piece, waveform, recipe.sample_rate))
    return pieces


def _tenth(recording: str) -> bool:
    return hashlib.sha256(recording.encode()).digest()[0] < 26


def _locate(folder: Path, table: str) -> Path | None:
    """The table below a folder, at its own path or where its longest tail fits one file."""
    parts = Path(table).parts
    for start in range(len(parts)):
        tail = "/".join(parts[start:])
        if (folder / tail).is_file():
            return folder / tail
    found = [path for path in sorted(below(folder)) if path.parts[-2:] == parts[-2:]]
    return found[0] if found else None
