"""What a system's numbers cost, for the report: the jobs behind its runs, as Snakemake measured them."""

from __future__ import annotations

import csv
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

from sedflow.runs import RunFolder, stage_order
from sedflow.stage_plugins import listeners

WATTS_PER_CORE = 10
OF_RUNS = ("train", "score", "tune", "evaluate", "export")  # <system>/<variant>/<stage>/seed<k>
OF_TEACHERS = ("train", "score_source")
# a comparison is of other variants; the report is only measured when it is finished, and must not change with that
LEFT_OUT = ("comparison", "report")


@dataclasses.dataclass(frozen=True)
class Counted:
    """Whose jobs are counted.

    Parameters
    ----------
    runs : set of str    ``<system>/<variant>/<stage>/seed<k>``, those reported
    teachers : set of str    runs that these start from or learn from
    pseudo_labels : set of str    ``<system>/<ensemble>/seed<k>``
    names : set of str    corpora, encoders and weights
    """

    runs: set[str]
    teachers: set[str]
    pseudo_labels: set[str]
    names: set[str]

    @classmethod
    def by(cls, page: dict, runs: Sequence[RunFolder], names: set[str]) -> Counted:
        """The jobs of runs, of whom they learn from by the stages and ensembles of their page, and of their data."""
        reported = {"/".join(Path(run.path).parts[-4:]) for run in runs}
        teachers, pseudo_labels, waiting = set(), set(), [*reported]
        while waiting:
            found, ensemble = _teachers(page, waiting.pop())
            pseudo_labels |= ensemble
            waiting += found - teachers
            teachers |= found
        return cls(reported, teachers, pseudo_labels, names)

    def has(self, rule: str, parts: Sequence[str]) -> bool:
        """Whether a job counts; ``parts`` of its path are behind the rule's name."""
        if rule in (*OF_RUNS, *OF_TEACHERS):
            run = "/".join([*parts[:3], *(part.split("_")[0] for part in parts[3:4])])  # seed1_student
            return (rule in OF_RUNS and run in self.runs) or (rule in OF_TEACHERS and run in self.teachers)
        if rule == "pseudo_labels":
            return "/".join(parts[:3]) in self.pseudo_labels
        encoder = parts[0].rsplit("-", 2)[0]  # data/features/<encoder>-<digest>-<shards>
        # corpora stand in other systems' paths too, behind the name of an encoder of theirs
        of_data = parts[0] in self.names or (encoder in self.names and bool(self.names & set(parts[1:2])))
        return rule not in LEFT_OUT and of_data


def _teachers(page: dict, run: str) -> tuple[set[str], set[str]]:
    """Runs that a run starts from or learns from, and the pseudo-labels that it reads."""
    system, variant, stage, seed = run.split("/")
    settings = page.get("stages", {}).get(stage, {})
    start, ensemble = settings.get("start_from"), settings.get("pseudo_labels")
    listening = [Path(file).parts for file in listeners(settings.get("losses", []))]
    found = {"/".join(parts[1:5]) for parts in listening if len(parts) == 6 and parts[:2] == ("models", system)}
    if start:
        found.add(f"{system}/{variant}/{start}/{seed}")
    if ensemble:
        members = page["ensembles"][ensemble]["members"]
        found |= {f"{system}/{member['variant']}/{member['stage']}/{seed}" for member in members}
    return found, {f"{system}/{ensemble}/{seed}"} if ensemble else set()


def cost_section(benchmarks: Path, names: set[str], page: dict, runs: Sequence[RunFolder]) -> dict:
    """Time, CPU and memory per step from Snakemake's benchmark files; empty when there are none.

    Parameters
    ----------
    benchmarks : Path    ``<rule>/<system or corpus>/…/<stage>/….tsv``
    names : set of str    corpora, encoders and weights: other data's jobs are other systems'
    page : dict    the system's settings; jobs of different stages are different steps
    runs : sequence of RunFolder    those reported: other variants and seeds are no part of what these cost
    """
    stages, counted = stage_order(page), Counted.by(page, runs, names)
    jobs: dict[str, list[dict[str, float]]] = {}
    for path in sorted(Path(benchmarks).rglob("*.tsv")):
        rule, *parts = path.relative_to(benchmarks).with_suffix("").parts
        if counted.has(rule, parts):
            step = " ".join([rule, *(stage for stage in stages if stage in parts)])
            with open(path, newline="", encoding="utf-8") as file:
                jobs.setdefault(step, []).extend(_numbers(row) for row in csv.DictReader(file, delimiter="\t"))
    rules = sorted((rule for rule in jobs if jobs[rule]), key=lambda rule: -sum(job["s"] for job in jobs[rule]))
    total = {rule: sum(job["s"] for job in jobs[rule]) for rule in rules}
    cpu = {rule: sum(job["cpu_time"] for job in jobs[rule]) for rule in rules}
    costs = [
        {
            "rule": rule,
            "jobs": len(jobs[rule]),
            "total": clock(total[rule]),
            "longest": clock(max(job["s"] for job in jobs[rule])),
            "cpu": clock(cpu[rule]),
            "memory": f"{max(job['max_rss'] for job in jobs[rule]):,.0f} MB",
        }
        for rule in rules
    ]
    longest = max(total.values(), default=1) or 1
    rows = [
        {
            "name": r,
            "bars": [
                {"name": "time", "style": "s1", "percent": round(100 * total[r] / longest, 2), "text": clock(total[r])}
            ],
        }
        for r in rules
    ]
    watt_hours = sum(cpu.values()) * WATTS_PER_CORE / 3600
    energy = (
        f"{clock(sum(cpu.values()))} of CPU time: about {watt_hours:.1f} Wh if a busy core draws {WATTS_PER_CORE} W."
    )
    return {"costs": costs, "cost_chart": {"title": "Time by step", "rows": rows}, "energy": energy}


def _numbers(row: dict[str, str]) -> dict[str, float]:
    """The columns of a benchmark line that are used; what Snakemake could not measure (``NA``, ``-``) is 0."""
    numbers = {}
    for column in ("s", "cpu_time", "max_rss"):
        try:
            value = float(row.get(column) or 0)
        except ValueError:
            value = 0.0
        numbers[column] = value if math.isfinite(value) else 0.0
    return numbers


def clock(seconds: float) -> str:
    """A duration as people read it: 4.2 s, 3 min 20 s, 1 h 05 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 10:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"
