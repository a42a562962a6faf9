"""Corpora: raw recordings → clips with labels. One file is one corpus.

A file here is a plugin: its one public class has

``sources``
    dict: source name → kind of its labels, ``strong`` (events), ``soft`` (events with a confidence), ``weak`` (labels
    of the whole clip) or ``none``. ``validation`` and ``test`` are strong and never trained on.
``classes``
    `ClassSet`; every label of the corpus is in it.
``shards``
    int: in how many jobs `prepare` runs; the result does not depend on it.
``uses_soundbank``
    bool: whether clips are synthesised from pieces that `soundbank` cuts.
``download(raw, mirror)``
    Fetch and verify the raw files into the folder ``raw``.
``soundbank(raw, audio) → list of Piece``
    Cut the recordings; only called where ``uses_soundbank``.
``prepare(raw, audio, shard) → Prepared``
    Write the audio of one shard under ``audio``; ``raw`` is the soundbank's manifest where ``uses_soundbank``, else the
    raw folder.
``labelled``
    Optional; list of str, or dict source → list of str: the classes that its labels cover, by default all of
    ``classes``. A clip says nothing about classes of other corpora, unless they are listed here or in ``copies``.
``copies``
    Optional; dict: own label → labels of other corpora that it also stands for (MAESTRO's "people talking" is DESED's
    Speech). Training reads such events under each of these labels; the tables on disk keep the original labels.
``label_files``, ``audio_files``
    Optional; list of Path: the user's files that the workflow watches for changes.

A setting called ``path`` names the user's folders: the workflow notices when recordings are added, removed or changed.

Building a corpus imports neither librosa nor scaper nor torch, so that Snakemake can do it while parsing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from sedflow.events import Clip, Event, read_table, write_table


@dataclasses.dataclass(frozen=True)
class Piece:
    """One sound of a soundbank, cut from a recording.

    ``role`` is ``foreground`` or ``background``; ``recording`` names the original, ``fold`` its fold and
    ``split`` who may use it: ``train``, ``validation`` or ``test``.
    """

    path: str
    role: str
    label: str
    seconds: float
    sha256: str
    recording: str
    fold: str
    split: str


@dataclasses.dataclass
class Prepared:
    """What one shard holds: its clips, strong labels by clip, weak labels by clip."""

    clips: list[Clip] = dataclasses.field(default_factory=list)
    strong: dict[str, list[Event]] = dataclasses.field(default_factory=dict)
    weak: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

    def add(self, other: Prepared) -> None:
        """Take in the clips and labels of another part."""
        self.clips += other.clips
        self.strong |= other.strong
        self.weak |= other.weak


PIECE_COLUMNS = tuple(field.name for field in dataclasses.fields(Piece))


def read_pieces(path) -> list[Piece]:
    """Read a soundbank's manifest."""
    return [Piece(**row | {"seconds": float(row["seconds"])}) for _, row in read_table(path, PIECE_COLUMNS)]


def write_pieces(path, pieces: Iterable[Piece]) -> None:
    """Write a soundbank's manifest in order of path."""
    ordered = sorted(pieces, key=lambda piece: piece.path)
    rows = [dataclasses.astuple(dataclasses.replace(piece, seconds=f"{piece.seconds:.6f}")) for piece in ordered]
    write_table(path, PIECE_COLUMNS, rows)
