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
    """Run a command; an expected error gives one message and exit code 1, without a traceback."""
    try:
        commands()
    except (ValueError, RuntimeError, OSError) as error:
        from sedflow.files import explain

        foreseen = type(error).__module__.startswith("sedflow.") or isinstance(error, OSError)
        if not foreseen or os.environ.get("SEDFLOW_DEBUG"):
            raise
        sys.exit(f"error: {explain(error) if isinstance(error, OSError) else error}")


def _to_write(path: Path | None) -> Path | None:
    """Refuse an output path that cannot be written, before anything is computed."""
    if path is not None and path.is_dir():
        raise typer.BadParameter(f"{path} is a folder; name a file to write")
    if path is not None and (files := [parent for parent in path.parents if parent.is_file()]):
        raise typer.BadParameter(f"{files[0]} is a file where a folder is needed; name another path")
    return path


@commands.command()
def evaluate(  # noqa: PLR0913
    scores: Annotated[Path, typer.Argument(help=".parquet, or a folder of TSV files as sed_scores_eval writes them")],
    truth: Annotated[Path, typer.Argument(help="a TSV, Audacity labels or Raven tables; one file or a folder")],
    durations: Annotated[Path | None, typer.Argument(help="TSV: filename duration; default: length of scores")] = None,
    threshold: Annotated[float, typer.Option(help="decision threshold for the F1 scores and the error rate")] = 0.5,
    classes: Annotated[str | None, typer.Option(help="evaluate only these: a file in data/classes, or a,b,c")] = None,
    drop_silent_clips: Annotated[bool, typer.Option(help="leave out clips without events")] = False,
    psds: Annotated[
        list[str],
        typer.Option(help="add a PSDS with other parameters, e.g. name:dtc=0.5,gtc=0.5,max_efpr=50; repeatable"),
    ] = [],  # noqa: B006
    intervals: Annotated[int, typer.Option(min=0, help="bootstrap draws for confidence intervals, e.g. 1000")] = 0,
    clips: Annotated[Path | None, typer.Option(help="clips.tsv: clips of one recording are drawn together")] = None,
    windows: Annotated[bool, typer.Option(help="join windows <recording>-<onset>-<offset> first (MAESTRO)")] = False,
    out: Annotated[Path | None, typer.Option(help="metrics.json", callback=_to_write)] = None,
):
    """Evaluate SCORES against the true events and print a table."""
    from sedflow import bootstrap, judge_files, metric_table
    from sedflow.evaluation import Rules
    from sedflow.files import write_json

    files = judge_files.Files(scores, truth, durations, clips, windows)
    chosen = judge_files.read_class_list(classes) if classes else None
    rules = Rules(threshold, chosen, drop_silent_clips, judge_files.read_criteria(psds))
    metrics = judge_files.judge_files(files, rules, intervals, bootstrap.processors())
    if out:
        write_json(out, metrics)
    metric_table.print_metrics(metrics)


@commands.command()
def compare(
    systems: Annotated[list[Path], typer.Argument(help="models/<system>/<variant>/<stage>[/seed<k>], or score files")],
    manifests: Annotated[Path | None, typer.Option(help="data/manifests/<corpus>; default: those of the runs")] = None,
    truth: Annotated[Path | None, typer.Option(help="true events, if there are no manifests")] = None,
    durations: Annotated[Path | None, typer.Option(help="TSV: filename duration; default: length of scores")] = None,
    split: Literal["test", "validation"] = "test",
    draws: Annotated[int, typer.Option(min=1, help="bootstrap draws over recordings")] = 1000,
    out: Annotated[Path | None, typer.Option(help="page.html or table.json", callback=_to_write)] = None,
):
    """Evaluate SYSTEMS on the same clips and show which differences from the first are significant."""
    from sedflow import compare_files

    if manifests and truth:
        raise typer.BadParameter("give --manifests or --truth, not both")
    if durations and not truth:
        raise typer.BadParameter("--durations needs --truth; manifests already contain the durations of their clips")
    compare_files.compare_files(systems, compare_files.Clips(manifests, truth, durations, split), draws, out)


@commands.command()
def summary(system: str):
    """Print the metrics of a finished system and the path of its report."""
    from sedflow.report import print_summary

    print_summary(Path("models") / system / "report" / "metrics.json")


@commands.command()
def detect(
    audio: Path,
    checkpoint: Annotated[Path, typer.Option(help="detector.safetensors of a finished run")],
    out: Annotated[
        Path | None,
        typer.Option(help="output file (for audacity and raven also a folder); a TSV is printed without it"),
    ] = None,
    format: Literal["tsv", "json", "audacity", "raven", "picture"] = "tsv",
):
    """Find the events in a recording of any rate and length."""
    from sedflow.detections import PICTURES, check_target, draw_recording, write_detections
    from sedflow.inference import detect

    if not (format in ("audacity", "raven") and out and out.is_dir()):
        _to_write(out)
    if format == "picture" and (out is None or out.suffix not in PICTURES):
        raise typer.BadParameter(f"a picture needs --out, a file name ending in one of {', '.join(PICTURES)}")
    if format != "tsv" and out is None:
        raise typer.BadParameter(f"{format} needs --out; only a TSV is printed")
    if out:
        check_target(out, audio, format)
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
    """Describe a checkpoint, ours or an official one, without executing anything in it."""
    from sedflow.convert import describe

    print(describe(checkpoint))


@commands.command()
def convert(
    checkpoint: Annotated[Path, typer.Argument(help="official checkpoint")],
    out: Annotated[Path, typer.Argument(help="output file, ….safetensors", callback=_to_write)],
    classes: Annotated[
        Path | None, typer.Option(help="class names, one per line, in the order of the checkpoint")
    ] = None,
    settings: Annotated[
        dict | None,
        typer.Option(parser=settings_with(), help='what the tensors do not show: {"heads": 4, "pooling": …}'),
    ] = None,
):
    """Write an official checkpoint as safetensors with a specification: a detector, or an encoder for `weights:`."""
    from sedflow.convert import convert

    print(f"{out}: {convert(checkpoint, out, classes, settings)}")


@commands.command()
def doctor():
    """Check whether this machine can run the pipeline."""
    from sedflow import doctor

    findings = list(doctor.diagnose())
    doctor.show(findings)
    sys.exit(doctor.exit_code(findings))


@commands.command()
def sync(what: Literal["record", "adopt", "check"]):
    """Keep the records of Snakemake and DVC consistent.

    record: update DVC after a plain snakemake run. adopt: update Snakemake after a checkout, clone or pull.
    check: verify that neither has anything left to do.
    """
    from sedflow import sync

    {"record": sync.record, "adopt": sync.adopt, "check": sync.check}[what]()


if __name__ == "__main__":
    app()
