"""Label files of other tools → events: DCASE's TSV (strong or soft), Audacity labels, Raven selection tables."""

from __future__ import annotations

from pathlib import Path

from sedflow.events import ClassSet, Event, LabelError, clip_id, parse_event, read_events
from sedflow.recordings import sounding
from sedflow.tables import read_header, read_table, read_text

RAVEN_SUFFIX = ".Table.1.selections.txt"
RAVEN_LABELS = ("Annotation", "Label", "Species", "Common Name", "Class", "Tags")
RAVEN_TIMES = ("Begin Time (s)", "End Time (s)")
RAVEN_FILE, RAVEN_OFFSET = "Begin File", "File Offset (s)"


def read_any_labels(path, classes: ClassSet | None = None) -> dict[str, list[Event]]:
    """Read true events in any supported format: clip id → events. Of soft labels see `recordings.sounding`.

    Parameters
    ----------
    path : TSV with ``filename onset offset event_label`` (and ``confidence``), or a file or folder of Audacity labels
        (``<clip>.txt``) or Raven selection tables (``Begin Time (s)`` in the first line)
    classes : ClassSet, optional    labels outside it are refused

    Raises
    ------
    LabelError    no such file, or an impossible label; with file, row and cure
    """
    path = Path(path)
    first = min(path.glob("*.txt"), default=None) if path.is_dir() else path
    if first is None or not first.is_file():
        raise LabelError(f"{path}: no such label file; expected a .tsv, or a file or folder of .txt labels")
    header = read_header(first)
    if RAVEN_TIMES[0] in header:
        return read_raven(path, classes=classes)
    if path.is_dir() or (first.suffix == ".txt" and "filename" not in header):
        return read_audacity(path, classes)
    events = read_events(path, classes)
    return {clip: sounding(of_clip) for clip, of_clip in events.items()} if "confidence" in header else events


def read_audacity(path, classes: ClassSet | None = None) -> dict[str, list[Event]]:
    """Read Audacity labels, one file or a folder of ``<clip>.txt``: clip id → events.

    Raises
    ------
    LabelError    point labels, labels without a name, numbers with a decimal comma; with file and row
    """
    events = {}
    for file in _files(path, but=RAVEN_SUFFIX):
        of_clip = []
        for number, line in enumerate(read_text(file).splitlines(), start=1):
            if not line.strip() or line.startswith("\\"):  # a backslash row holds the frequencies of the label before
                continue
            cells = [cell.strip() for cell in line.split("\t")]
            if len(cells) < 2:
                raise LabelError(f"{file}:{number}: {line!r} has no onset, offset and label separated by tabs")
            of_clip.append(parse_event(file, number, *[*cells, ""][:3], classes))
        events[clip_id(file.stem)] = sorted(of_clip)
    return events


def read_raven(path, classes: ClassSet | None = None) -> dict[str, list[Event]]:
    """Read Raven selection tables, one file or a folder: clip id → events.

    Clips are named by the column ``Begin File`` if there is one and a row, else by the file; classes by the first of
    ``RAVEN_LABELS`` that the file has. A selection that is listed for several views counts once. Of recordings that
    were opened as one sequence Raven's times count from the start of the first; ``File Offset (s)`` tells those within.

    Raises
    ------
    LabelError    no such column, several recordings without ``File Offset (s)``, or an impossible label; with file and
                  row
    """
    events: dict[str, list[Event]] = {}
    for file in _files(path):
        header = read_header(file)
        column = next((name for name in RAVEN_LABELS if name in header), None)
        if column is None:
            raise LabelError(
                f"{file}:1: none of the columns {list(RAVEN_LABELS)}; rename the column with the class to one of them"
            )
        stem = file.name.removesuffix(RAVEN_SUFFIX).removesuffix(".txt").removesuffix(".selections")
        seen = set()
        rows = read_table(file, (*RAVEN_TIMES, column))
        if RAVEN_FILE not in header or not rows:
            events.setdefault(clip_id(stem), [])
        several = len({row.get(RAVEN_FILE) for _, row in rows}) > 1
        for number, row in rows:
            selection = row.get("Selection", str(number))
            if selection in seen:
                continue
            seen.add(selection)
            clip = clip_id(row.get(RAVEN_FILE) or stem)
            if several and not row.get(RAVEN_OFFSET):
                raise LabelError(
                    f"{file}:{number}: the table covers several recordings, and {RAVEN_TIMES[0]!r} counts from the "
                    f"start of the first; add the measurement {RAVEN_OFFSET!r} in Raven and save the table again"
                )
            event = parse_event(file, number, *_raven_times(row), row[column], classes)
            events.setdefault(clip, []).append(event)
    return {clip: sorted(of_clip) for clip, of_clip in events.items()}


def _raven_times(row: dict[str, str]) -> tuple[str, str]:
    """Onset and offset of a selection within its recording."""
    begin, end = (row[name] for name in RAVEN_TIMES)
    onset = row.get(RAVEN_OFFSET)
    if not onset:
        return begin, end
    try:
        return onset, str(round(float(onset) + float(end) - float(begin), 9))
    except ValueError:
        return onset, end  # refused by parse_event


def _files(path, but: str | None = None) -> list[Path]:
    path = Path(path)
    files = sorted(f for f in path.glob("*.txt") if not (but and f.name.endswith(but))) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise LabelError(f"{path}: no label files (*.txt) there")
    return files
