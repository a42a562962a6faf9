"""Scores: how strongly each class sounds in each frame of a clip, before any threshold.

On disk a set of clips is one Parquet file with the columns of sed_scores_eval (``filename onset offset <class>…``,
seconds); a folder of sed_scores_eval's TSV files is read and written too.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from sedflow.events import clip_id
from sedflow.files import check_writable, replacing
from sedflow.tables import compose

TIME_COLUMNS = ("onset", "offset")


class ScoreError(ValueError):
    """A score file or a set of scores cannot be used; the message names the file, the clip and the cure."""


@dataclasses.dataclass(frozen=True)
class Scores:
    """Scores of one clip.

    Parameters
    ----------
    values : (frames, classes) float    any range: probabilities, logits, box confidences; −inf means never detected
    edges : (frames + 1,) float    frame boundaries in seconds, rising
    classes : tuple of str    column order
    """

    values: np.ndarray
    edges: np.ndarray
    classes: tuple[str, ...]

    def __post_init__(self):
        if self.values.ndim != 2 or self.values.shape[1] != len(self.classes):
            raise ScoreError(
                f"scores of shape {self.values.shape} do not fit the {len(self.classes)} classes {self.classes}"
            )
        if len(self.edges) != len(self.values) + 1:
            raise ScoreError(f"{len(self.values)} frames need {len(self.values) + 1} edges, got {len(self.edges)}")

    @property
    def seconds(self) -> float:
        """End of the last frame."""
        return float(self.edges[-1])

    def column(self, label: str) -> np.ndarray:
        """Scores of one class, shape (frames,)."""
        return self.values[:, self.classes.index(label)]

    def with_values(self, values: np.ndarray) -> Scores:
        """The same frames and classes with other values."""
        return dataclasses.replace(self, values=values)

    def table(self):
        """The pandas table sed_scores_eval works on: ``onset offset <class>…``."""
        import pandas as pd

        columns = {"onset": self.edges[:-1], "offset": self.edges[1:]}
        columns |= {label: self.values[:, k].astype(np.float64) for k, label in enumerate(self.classes)}
        return pd.DataFrame(columns)


def check_target(path, clips: Iterable[str]) -> None:
    """Refuse, before anything is computed, a path to which `save_scores` cannot write these clips.

    Raises
    ------
    ScoreError    a file in the way, a folder called ``….parquet``, TSV files of other clips, a file without scores
    OSError    no right to write there, a name that is too long
    """
    path = Path(path)
    to_folder = path.suffix != ".parquet"
    for part in (path, *path.parents) if to_folder else path.parents:
        if part.is_file():
            raise ScoreError(f"{part}: a file where a folder is needed; name another path, or a file ….parquet")
    if not to_folder and path.is_dir():
        raise ScoreError(f"{path}: a folder; name a file to write")
    if others := sorted({file.name for file in path.glob("*.tsv")} - {f"{clip}.tsv" for clip in clips}):
        raise ScoreError(
            f"{path}: {len(others)} .tsv files of other clips are here, e.g. {others[:10]}, and would be read as "
            "scores of this set; delete them or name another folder"
        )
    files = [path / f"{clip}.tsv" for clip in clips] if to_folder else [path]
    for file in files:
        if file.is_file() and not (_holds_scores(file) if to_folder else _is_score_table(file)):
            raise ScoreError(f"{file}: this is not a score file and would be replaced by one; name another path")
    if longest := max(files, key=lambda file: len(str(file)), default=None):
        check_writable(longest)


def _holds_scores(file: Path) -> bool:
    """Whether a TSV has times and classes in its header and numbers below it."""
    with file.open(encoding="utf-8-sig", errors="replace") as lines:
        header, row = (lines.readline().rstrip("\r\n").split("\t") for _ in range(2))
    try:
        numbers = [float(cell) for cell in row]
    except ValueError:
        return False
    return header[:2] == [*TIME_COLUMNS] and len(header) == len(numbers) > 2


def _is_score_table(file: Path) -> bool:
    """Whether a file is Parquet with the columns of scores."""
    import pyarrow.parquet as pq

    try:
        return {"filename", *TIME_COLUMNS} <= {*pq.read_schema(file).names}
    except (OSError, ValueError):
        return False


def save_scores(path, scores: Mapping[str, Scores]) -> None:
    """Write a set of clips as one Parquet file (``….parquet``) or as a folder of TSV files (any other path)."""
    path = Path(path)
    if not scores:
        raise ScoreError(f"nothing to write to {path}: the set of scores is empty")
    check_target(path, scores)
    if path.suffix != ".parquet":
        for clip, of_clip in scores.items():
            save_clip(path, clip, of_clip)
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    clips = sorted(scores)
    classes = scores[clips[0]].classes
    _same_classes(path, scores, classes)
    lengths = [len(scores[clip].values) for clip in clips]
    values = np.concatenate([scores[clip].values for clip in clips]).astype(np.float32)
    names = pa.DictionaryArray.from_arrays(np.repeat(np.arange(len(clips), dtype=np.int32), lengths), clips)
    columns = {
        "filename": names,
        "onset": np.concatenate([scores[clip].edges[:-1] for clip in clips]),
        "offset": np.concatenate([scores[clip].edges[1:] for clip in clips]),
    }
    table = pa.table(columns | {label: values[:, k] for k, label in enumerate(classes)})
    table = table.replace_schema_metadata({"sedflow": json.dumps({"classes": list(classes)})})
    with replacing(path) as unfinished:
        pq.write_table(table, unfinished, compression="zstd")


def save_clip(folder, clip: str, scores: Scores) -> None:
    """Write the TSV file of one clip."""
    with replacing(Path(folder) / f"{clip}.tsv") as unfinished:
        scores.table().to_csv(unfinished, sep="\t", index=False)


def delete_clips(folder, clips: Iterable[str]) -> None:
    """Delete scores that are about to be replaced: what breaks off leaves no mixture of two detectors."""
    for clip in clips:
        (Path(folder) / f"{clip}.tsv").unlink(missing_ok=True)


def load_scores(path) -> dict[str, Scores]:
    """Read a Parquet file of ours or a folder in the sed_scores_eval format.

    Raises
    ------
    ScoreError    nothing there, not a score file, gaps between frames, NaN, +inf
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(path.glob("*.tsv"))
        if not files:
            raise ScoreError(f"{path}: no .tsv score files in this folder")
        scores = {clip_id(file.stem): _read_tsv(file) for file in files}
    elif path.is_file():
        scores = _read_parquet(path)
    else:
        raise ScoreError(f"{path}: no such score file or folder")
    _same_classes(path, scores, next(iter(scores.values())).classes)
    return scores


class ScoreColumns:
    """A Parquet score file read class by class, for sets that do not fit into memory.

    Parameters
    ----------
    path : Path    ``….parquet``

    Attributes
    ----------
    clips, classes : tuple of str
    clip : (frames,) int    index into ``clips``
    onset, offset : (frames,) float    seconds
    """

    def __init__(self, path):
        import pyarrow.parquet as pq

        self._file, self._path = pq.ParquetFile(path), Path(path)
        self.classes = tuple(n for n in self._file.schema_arrow.names if n not in ("filename", *TIME_COLUMNS))
        table = self._file.read(["filename", *TIME_COLUMNS]).unify_dictionaries()
        names = table["filename"].combine_chunks()
        names = names if hasattr(names, "indices") else names.dictionary_encode()
        self.clips = tuple(clip_id(name) for name in names.dictionary.to_pylist())
        self.clip = names.indices.to_numpy()
        self.onset, self.offset = (table[column].to_numpy() for column in TIME_COLUMNS)
        if np.any(np.diff(self.clip) < 0):
            raise ScoreError(f"{path}: the rows are not grouped by clip; write the file with `sedflow score`")

    def column(self, label: str) -> np.ndarray:
        """Scores of one class, shape (frames,)."""
        values = self._file.read([label])[label].to_numpy()
        if (odd := no_scores(values)).any():
            row = int(np.argmax(odd))
            raise _odd_score(f"{self._path}, clip {self.clips[self.clip[row]]}", values[row], label, self.onset[row])
        return values


def no_scores(values: np.ndarray) -> np.ndarray:
    """Where values cannot be ranked: NaN, and +inf, which every threshold would find."""
    return np.isnan(values) | np.isposinf(values)


def _odd_score(where: str, value: float, label: str, onset: float) -> ScoreError:
    cure = "score the clip again" if np.isnan(value) else "write probabilities, or logits of a probability below 1"
    return ScoreError(f"{where}: {value} for {label!r} at {onset:.3f} s; {cure}")


def _read_parquet(path: Path) -> dict[str, Scores]:
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (OSError, ValueError) as error:
        raise ScoreError(
            f"{path}: not a readable Parquet file ({error}); write it again with `sedflow score`"
        ) from None
    labels = tuple(name for name in table.column_names if name not in ("filename", *TIME_COLUMNS))
    missing = [name for name in ("filename", *TIME_COLUMNS) if name not in table.column_names]
    if missing or not labels or not len(table):
        raise ScoreError(
            f"{path}: a score table needs filename, onset, offset, classes and rows; it has {table.column_names}"
        )
    words = [name for name in (*TIME_COLUMNS, *labels) if table[name].type in ("string", "large_string")]
    if words:
        raise ScoreError(f"{path}: the columns {words} hold text, not numbers; write it again with `sedflow score`")
    names = np.asarray(table["filename"].to_pylist(), dtype=object)
    starts = np.flatnonzero(np.r_[True, names[1:] != names[:-1]])
    values = np.stack([table[label].to_numpy() for label in labels], axis=1)
    onsets, offsets = table["onset"].to_numpy(), table["offset"].to_numpy()
    scores = {}
    for begin, end in zip(starts, [*starts[1:], len(names)], strict=True):
        clip = clip_id(names[begin])
        if clip in scores:
            raise ScoreError(f"{path}: the rows of clip {clip!r} are not contiguous")
        scores[clip] = _one_clip(
            f"{path}, clip {clip}", values[begin:end], onsets[begin:end], offsets[begin:end], labels
        )
    return scores


def _read_tsv(file: Path) -> Scores:
    import pandas as pd

    try:
        table = pd.read_csv(file, sep="\t", dtype=np.float64, encoding="utf-8-sig")
        header = file.open(encoding="utf-8-sig").readline().rstrip("\r\n").split("\t")
    except ValueError as error:  # no header, a row with other cells than it, a cell that is no number, another encoding
        raise ScoreError(f"{file}: not a table of numbers ({error}); write it again with `sedflow score`") from None
    if len(set(header)) < len(header):
        raise ScoreError(f"{file}: a column appears twice in the header: {header}; rename or delete it")
    missing = [name for name in TIME_COLUMNS if name not in table.columns]
    if missing or len(table.columns) < 3 or not len(table):
        raise ScoreError(
            f"{file}: a score file needs the columns onset, offset and classes, and rows; it has {list(table)}"
        )
    labels = tuple(str(name) for name in table.columns if name not in TIME_COLUMNS)
    values = table[list(labels)].to_numpy(dtype=np.float64)
    return _one_clip(str(file), values, table["onset"].to_numpy(), table["offset"].to_numpy(), labels)


def _one_clip(where: str, values, onsets, offsets, labels) -> Scores:
    if (odd := no_scores(values)).any():
        row, column = np.argwhere(odd)[0]
        raise _odd_score(where, values[row, column], labels[column], onsets[row])
    broken = np.r_[False, ~np.isclose(onsets[1:], offsets[:-1], rtol=0, atol=1e-6)] | ~(offsets > onsets)
    if broken.any():
        row = int(np.argmax(broken))
        raise ScoreError(
            f"{where}: frame {row} ({onsets[row]:.3f}–{offsets[row]:.3f} s) does not follow the one before it"
        )
    return Scores(values, np.r_[onsets, offsets[-1]].astype(np.float64), tuple(map(compose, labels)))


def _same_classes(path, scores: Mapping[str, Scores], classes: Iterable[str]) -> None:
    odd = [clip for clip, of_clip in scores.items() if of_clip.classes != tuple(classes)]
    if odd:
        raise ScoreError(f"{path}: {len(odd)} clips have other classes than the first, e.g. {odd[:10]}")
