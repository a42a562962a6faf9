"""The commands of the workflow's rules, one per rule. Paths in, paths out, no logic.

A command imports what it needs in its own body: ``sedflow --help`` is quick, and ``digest.py`` reads from these
imports which code a rule depends on.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

steps = typer.Typer()


def settings_with(*names: str) -> Callable[[str], dict]:
    """Return a parser of JSON settings that refuses input without one of these names."""

    def read(text: str) -> dict:
        try:
            settings = json.loads(text)
        except json.JSONDecodeError as error:
            raise typer.BadParameter(f"{text!r} is not valid JSON: {error}") from None
        if not isinstance(settings, dict):
            raise typer.BadParameter(
                f"{text!r} is not a JSON object; write {{name: value, …}} with quotes around the names"
            )
        if missing := [name for name in names if name not in settings]:
            raise typer.BadParameter(f"{text!r} lacks {missing}; see the system's page")
        return settings

    return read


Json = Annotated[dict, typer.Argument(parser=settings_with(), metavar="JSON", help="settings as JSON")]
Manifests = Annotated[list[Path], typer.Option(help="data/manifests/<corpus>; once per corpus")]
Mirror = Annotated[Path | None, typer.Option(envvar="SEDFLOW_MIRROR", help="folder searched before downloading")]
Out = Annotated[Path, typer.Option(help="file or folder to write")]
Checkpoint = Annotated[Path, typer.Option(help="….safetensors")]


@steps.command()
def download(corpus: Json, out: Out, mirror: Mirror = None):
    """Fetch and verify the raw files of a corpus."""
    from sedflow import plugins

    plugins.build("corpora", corpus).download(out, mirror)


@steps.command()
def weights(name: str, out: Out, mirror: Mirror = None):
    """Fetch and verify official weights, by their name in data/pretrained.yaml."""
    from sedflow.download import fetch_weights

    fetch_weights(name, out, mirror)


@steps.command()
def soundbank(corpus: Json, raw: Path, audio: Path, out: Out):
    """Cut the recordings of a corpus into the pieces that soundscapes are made of."""
    from sedflow import plugins
    from sedflow.corpora import write_pieces

    write_pieces(out, plugins.build("corpora", corpus).soundbank(raw, audio))


@steps.command()
def prepare(corpus: Json, raw: Path, audio: Path, shard: Annotated[int, typer.Option()], out: Out):
    """Make the audio and labels of one shard; RAW is the soundbank's table or the folder of raw files."""
    from sedflow import plugins
    from sedflow.collect import write_shard

    write_shard(out, shard, plugins.build("corpora", corpus).prepare(raw, audio, shard))


@steps.command()
def collect(corpus: Json, manifests: Path):
    """Join the shards of a corpus, check them, and verify that nothing leaks from test into training."""
    from sedflow import plugins
    from sedflow.collect import collect

    built = plugins.build("corpora", corpus)
    collect(manifests, built.shards, built.sources, built.classes)
    tables = ["clips", *built.sources, *(f"{split}_durations" for split in ("validation", "test"))]
    found = [path for table in tables if (path := manifests / f"{table}.tsv").is_file()]
    inventory(manifests / "inventory.tsv", found)


@steps.command()
def inventory(out: Out, files: Annotated[list[Path], typer.Argument()] = []):  # noqa: B006
    """List files with their sha256: DVC compares this list instead of folders that several systems share."""
    from sedflow.events import write_table
    from sedflow.files import sha256

    write_table(out, ("path", "sha256"), [(path, sha256(path)) for path in sorted(files)])


@steps.command()
def features(
    settings: Json,
    clips: Path,
    source: Annotated[str, typer.Option()],
    shard: Annotated[int, typer.Option()],
    out: Out,
    weights: Path | None = None,
):
    """Compute one shard of the cache of a frozen encoder."""
    from sedflow.features import extract

    extract(settings["encoder"], weights, clips, source, shard, settings["shards"], out,
            clip_seconds=settings["clip_seconds"], root=Path())  # fmt: skip


@steps.command()
def train(  # noqa: PLR0913 (one rule's inputs)
    settings: Json,
    seed: Annotated[int, typer.Option()],
    manifests: Manifests,
    work: Annotated[Path, typer.Option(help="folder for the resume state")],
    out: Out,
    features: Annotated[list[str], typer.Option(help="encoder=cache folder")] = [],  # noqa: B006
    weights: Annotated[list[str], typer.Option(help="encoder=file")] = [],  # noqa: B006
    pseudo_labels: Annotated[list[Path], typer.Option(help="….npy; once per source")] = [],  # noqa: B006
    start_from: Path | None = None,
):
    """Train one stage with one seed; after an interruption, the same command resumes it."""
    from sedflow.train import train

    train(settings, seed, manifests, _by_encoder(features), _by_encoder(weights), start_from, work, out,
          pseudo_labels=pseudo_labels)  # fmt: skip


@steps.command()
def score(
    checkpoint: Checkpoint,
    out: Out,
    folder: Annotated[Path | None, typer.Argument(help="audio files of any rate and length")] = None,
    raw: Annotated[bool, typer.Option(help="skip the detector's own post-processing")] = False,
    manifests: Manifests = [],  # noqa: B006
    network: Annotated[
        str | None, typer.Option(help="student or teacher; default: the one a finished detector contains")
    ] = None,
):
    """Score a FOLDER of audio, or validation and test of a corpus (--manifests) with one --network of a checkpoint."""
    from sedflow.inference import score_folder, score_splits

    if folder is not None and manifests:
        raise typer.BadParameter("give a folder of audio or --manifests, not both")
    if folder is None and not (manifests and network):
        raise typer.BadParameter("give a folder of audio, or --manifests and --network")
    if folder is None and raw:
        raise typer.BadParameter("--raw is for a folder of audio; scores for --manifests are never post-processed")
    if folder is not None:
        score_folder(folder, checkpoint, out, raw, network)
    else:
        score_splits(checkpoint, manifests, ["validation", "test"], out, network)


@steps.command()
def score_source(
    checkpoint: Checkpoint,
    clips: Path,
    source: Annotated[str, typer.Option()],
    network: Annotated[str, typer.Option()],
    out: Out,
):
    """Write the logits of one member of an ensemble for the clips of a source."""
    from sedflow import ensemble

    ensemble.score_source(checkpoint, network, clips, source, out)


@steps.command()
def pseudo_labels(members: list[Path], out: Out):
    """Average the logits of an ensemble's members: the pseudo-labels of a source."""
    from sedflow import ensemble

    ensemble.average_logits(members, out)


@steps.command()
def tune(
    scores: list[Path],
    settings: Annotated[dict, typer.Option(parser=settings_with("postprocess", "objective"), help="as JSON")],
    manifests: Manifests,
    out: Out,
):
    """Tune post-processing on validation scores, and choose between student and teacher."""
    from sedflow import files, judge

    files.write_json(out, judge.tune_run(scores, manifests, settings["postprocess"], settings["objective"]))


@steps.command()
def evaluate_run(
    scores: list[Path],
    postprocess: Annotated[Path, typer.Option()],
    manifests: Manifests,
    roc: Annotated[Path, typer.Option()],
    out: Out,
):
    """Evaluate the test scores of a run's networks, before and after their tuned post-processing."""
    from sedflow import files, judge

    metrics, curves = judge.evaluate_run(scores, manifests, json.loads(postprocess.read_text(encoding="utf-8")))
    files.write_json(roc, curves)
    files.write_json(out, metrics)


@steps.command()
def export(checkpoint: Checkpoint, postprocess: Annotated[Path, typer.Option()], out: Out):
    """Write the file that detect and score use: the chosen network, its specification and post-processing."""
    from sedflow.export import export

    export(checkpoint, postprocess, out)


@steps.command()
def report(
    page: Json,
    runs: list[Path],
    manifests: Manifests,
    benchmarks: Annotated[Path, typer.Option()],
    out: Out,
):
    """Write the page of a system, and the small files that DVC compares."""
    from sedflow.report import write_report
    from sedflow.runs import RunFolder

    write_report(out, page, [RunFolder(run) for run in runs], manifests, benchmarks, Path())


@steps.command()
def comparison(settings: Json, runs: list[Path], out: Out):
    """Write the table and the plot of a system's variants."""
    from sedflow.runs import RunFolder
    from sedflow.variants import write_comparison

    write_comparison([RunFolder(run) for run in runs], settings, out)


@steps.command()
def code(system: str, variant: str, out: Out):
    """Write digests of the code that each step of a system runs, for DVC to track; comments do not count."""
    from sedflow import dvc_digests, systems

    page = systems.read_system(system, variant)
    dvc_digests.check(system, page)
    for step, digests in dvc_digests.code_digests(page).items():
        out.mkdir(parents=True, exist_ok=True)
        (out / f"{step}.txt").write_text(digests, encoding="utf-8")


def _by_encoder(pairs: list[str]) -> dict[str, Path]:
    return {name: Path(path) for name, path in (pair.split("=", 1) for pair in pairs)}
