"""The command line: what a user types, and the workflow's steps. Paths in, paths out, no logic.

A command imports what it needs in its own body, so that ``sedflow --help`` is quick.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from sedflow.steps import settings_with, steps

commands = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="A reproducible training pipeline for sound event detection.",
)
commands.add_typer(steps)


def app() -> None:
    """Run a command; an error that sedflow foresaw is one message and exit code 1, without a traceback."""
    try:
        commands()
    except (ValueError, RuntimeError, OSError) as error:
        from sedflow.files import told

        foreseen = type(error).__module__.startswith("sedflow.") or isinstance(error, OSError)
        if not foreseen or os.environ.get("SEDFLOW_DEBUG"):
            raise
        sys.exit(f"error: {told(error) if isinstance(error, OSError) else error}")


def _to_write(path: Path | None) -> Path | None:
    """Refuse, before anything is computed, a file that could not be written at the end."""
    if path is not None and path.is_dir():
        raise typer.BadParameter(f"{path} is a folder; name a file to write")
    if path is not None and (files := [parent for parent in path.parents if parent.is_file()]):
        raise typer.BadParameter(f"{files[0]} is a file where a folder is needed; name another path")
    return path


@commands.command()
def evaluate(  # noqa: PLR0913
    scores: Annotated[Path, typer.Argument(help=".parquet, or a folder of TSV files as sed_scores_eval writes them")],
    truth: Annotated[Path, typer.Argument(help="TSV, or Audacity labels or Raven tables: one file, or a folder")],
    durations: Annotated[Path | None, typer.Argument(help="TSV: filename duration; else as long as scored")] = None,
    threshold: Annotated[float, typer.Option(help="of the F1 scores and the error rate")] = 0.5,
    classes: Annotated[str | None, typer.Option(help="judge these only: a file of data/classes, or a,b,c")] = None,
    drop_silent_clips: Annotated[bool, typer.Option(help="leave out clips without events")] = False,
    psds: Annotated[list[str], typer.Option(help="one more: name:dtc=0.5,gtc=0.5,max_efpr=50")] = [],  # noqa: B006
    intervals: Annotated[int, typer.Option(min=0, help="bootstrap draws for confidence intervals, say 1000")] = 0,
    clips: Annotated[Path | None, typer.Option(help="clips.tsv: those of one recording are drawn together")] = None,
    windows: Annotated[bool, typer.Option(help="join windows <recording>-<onset>-<offset> first (MAESTRO)")] = False,
    out: Annotated[Path | None, typer.Option(help="metrics.json", callback=_to_write)] = None,
):
    """Judge SCORES against the true events, and print a table."""
    from sedflow import judge_files, metric_table
    from sedflow.evaluation import Rules
    from sedflow.files import write_json

    files = judge_files.Files(scores, truth, durations, clips, windows)
    chosen = judge_files.read_class_list(classes) if classes else None
    rules = Rules(threshold, chosen, drop_silent_clips, judge_files.read_criteria(psds))
    metrics = judge_files.judge_files(files, rules, intervals, judge_files.processors())
    if out:
        write_json(out, metrics)
    metric_table.print_metrics(metrics)


@commands.command()
def compare(
    systems: Annotated[list[Path], typer.Argument(help="models/<system>/<variant>/<stage>[/seed<k>], or scores")],
    manifests: Annotated[Path | None, typer.Option(help="data/manifests/<corpus>; else the runs' own")] = None,
    truth: Annotated[Path | None, typer.Option(help="true events, where there are no manifests")] = None,
    durations: Annotated[Path | None, typer.Option(help="TSV: filename duration; else as long as scored")] = None,
    split: Literal["test", "validation"] = "test",
    draws: Annotated[int, typer.Option(min=1, help="of the bootstrap over recordings")] = 1000,
    out: Annotated[Path | None, typer.Option(help="page.html or table.json", callback=_to_write)] = None,
):
    """Judge SYSTEMS on the same clips, and say which differences to the first are significant."""
    from sedflow import compare_files

    if manifests and truth:
        raise typer.BadParameter("give --manifests or --truth, not both")
    if durations and not truth:
        raise typer.BadParameter("--durations goes with --truth; manifests have the durations of their clips")
    compare_files.compare_files(systems, compare_files.Clips(manifests, truth, durations, split), draws, out)


@commands.command()
def summary(system: str):
    """Print the metrics of a finished system and where its report lies."""
    from sedflow.report import print_summary

    print_summary(Path("models") / system / "report" / "metrics.json")


@commands.command()
def detect(
    audio: Path,
    checkpoint: Annotated[Path, typer.Option(help="detector.safetensors of a finished run")],
    out: Annotated[
        Path | None, typer.Option(help="file to write, for audacity and raven a folder or ….txt; a TSV is printed")
    ] = None,
    format: Literal["tsv", "json", "audacity", "raven", "picture"] = "tsv",
):
    """Find the events in a recording of any rate and length."""
    from sedflow.detections import PICTURES, draw_recording, write_detections
    from sedflow.inference import detect

    if not (format in ("audacity", "raven") and out and out.is_dir()):
        _to_write(out)
    if format == "picture" and (out is None or out.suffix not in PICTURES):
        raise typer.BadParameter(f"a picture needs --out, a file that ends in one of {', '.join(PICTURES)}")
    if format != "tsv" and out is None:
        raise typer.BadParameter(f"{format} needs --out, where to write it; without it a TSV is printed")
    events = detect(audio, checkpoint)
    if format == "picture":
        return draw_recording(out, audio, events)
    if out:
        return write_detections(out, {audio.stem: events}, format)
    print("onset\toffset\tevent_label")
    for event in events:
        print(f"{event.onset:.3f}\t{event.offset:.3f}\t{event.label}")


@commands.command()
def inspect(checkpoint: Path):
    """Say what a checkpoint holds, ours or an official one; nothing in it is run."""
    from sedflow.convert import describe

    print(describe(checkpoint))


@commands.command()
def convert(
    checkpoint: Annotated[Path, typer.Argument(help="official checkpoint")],
    out: Annotated[Path, typer.Argument(help="….safetensors to write", callback=_to_write)],
    classes: Annotated[
        Path | None, typer.Option(help="names of the classes, one per line, in the file's order")
    ] = None,
    settings: Annotated[
        dict | None, typer.Option(parser=settings_with(), help='what tensors do not tell: {"heads": 4, "pooling": …}')
    ] = None,
):
    """Write an official checkpoint as safetensors with a specification: a detector, or an encoder for `weights:`."""
    from sedflow.convert import convert

    print(f"{out}: {convert(checkpoint, out, classes, settings)}")


@commands.command()
def doctor():
    """Say whether this machine is fit to run the pipeline."""
    from sedflow import doctor

    findings = list(doctor.diagnose())
    doctor.show(findings)
    sys.exit(doctor.exit_code(findings))


@commands.command()
def sync(what: Literal["record", "adopt", "check"]):
    """Keep the ledgers of Snakemake and DVC telling one story.

    record: after a bare snakemake run, tell DVC. adopt: after a checkout, clone or pull, tell Snakemake.
    check: is there nothing left to do for either?
    """
    from sedflow import sync

    {"record": sync.record, "adopt": sync.adopt, "check": sync.check}[what]()


if __name__ == "__main__":
    app()
