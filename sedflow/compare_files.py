"""Runs or score files → a table with significance, and a page: what ``sedflow compare`` does."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from sedflow import bootstrap, files, judge
from sedflow.comparison import Contender, compare, comparison_table, contenders, corpus_of, describe_classes
from sedflow.events import read_clips, read_durations
from sedflow.judge_files import durations_of, read_truth

SUFFIXES = (".html", ".json")


@dataclasses.dataclass(frozen=True)
class Clips:
    """What systems are compared on.

    Parameters
    ----------
    manifests : Path, optional    ``data/manifests/<corpus>``; without it and ``truth`` the corpus that the runs name
    truth : Path, optional    anything that ``labels.read_any_labels`` reads
    durations : Path, optional    of the clips of ``truth``; without it they last as long as the first system's scores
    split : str    ``test``, or ``validation`` while a system is not finished
    """

    manifests: Path | None = None
    truth: Path | None = None
    durations: Path | None = None
    split: str = "test"

    def read(self, systems: Sequence[Contender]):
        """Scores by system and seed, truth, durations, and the recording of each clip that has one."""
        scores = {system.name: system.scores(self.split) for system in systems}
        if self.truth is not None:
            first, path = scores[systems[0].name][0], systems[0].paths[0]
            durations = read_durations(self.durations) if self.durations else durations_of(first, path)
            return scores, read_truth(self.truth, first), durations, {}
        folder = self.manifests or corpus_of(systems, self.split)
        known = bootstrap.recordings_of(read_clips(Path(folder) / "clips.tsv"))
        sets = {name: [judge.of_corpus(folder, self.split, of) for of in seeds] for name, seeds in scores.items()}
        _, truth, durations = next(iter(sets.values()))[0]
        return {name: [own for own, _, _ in seeds] for name, seeds in sets.items()}, truth, durations, known


def compare_files(paths: Sequence[Path], clips: Clips, draws: int, out: Path | None = None) -> None:
    """Print the table; write it as JSON or as a page.

    Raises
    ------
    EvaluationError    fewer than two systems, scores that do not fit the clips, a file of another kind to write
    """
    if out is not None and out.suffix not in SUFFIXES:
        raise judge.EvaluationError(
            f"{out}: cannot write {out.suffix!r}; name a file that ends in {' or '.join(SUFFIXES)}"
        )
    systems = contenders(paths)
    scores, truth, durations, known = clips.read(systems)
    how = {"jobs": bootstrap.processors(), "progress": bootstrap.progress_bar}
    rows = compare(scores, truth, durations, samples=draws, recordings=known, **how)
    drawn = bootstrap.describe_draws(tuple(durations), known)
    on = "; ".join(filter(None, [clips.split, f"{draws} draws of {drawn}", describe_classes(rows[0], clips.split)]))
    print_comparison(rows, f"{len(durations)} clips, {on}")
    if out is not None and out.suffix == ".json":
        files.write_json(out, {"systems": rows, "draws": draws, "drawn": drawn})
    elif out is not None:
        from sedflow.comparison_page import write_comparison_page

        write_comparison_page(out, systems, scores, truth, durations, rows, on)


def print_comparison(rows: Sequence[dict], title: str) -> None:
    """Print ``comparison.comparison_table``."""
    from rich.console import Console
    from rich.table import Table

    (_, *names), *lines = comparison_table(rows)
    headings = [f"{name}\n{row['seeds']} seed{'s' * (row['seeds'] > 1)}" for name, row in zip(names, rows, strict=True)]
    table = Table("metric", *headings, title=title)
    for line in lines:
        table.add_row(*line, end_section=True)
    Console().print(table)
    Console().print("± over seeds; [middle 95 % of draws]; below: difference to the first", markup=False)
