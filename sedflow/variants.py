"""Variants of a system side by side: one table and one plot of what is measured on test, over seeds.

Rows are in the order of the page, whatever their numbers.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from sedflow.events import write_table
from sedflow.runs import HEADLINES, Result, RunFolder, mean_sd, plus_minus, results, shown

PLOTTED = ("psds1", "psds2")


def write_comparison(runs: Sequence[RunFolder], settings: Mapping, out: Path) -> None:
    """Write ``table.tsv``, ``table.md``, ``plot.svg`` and ``plot.png``.

    Parameters
    ----------
    runs : sequence of RunFolder    finished runs of one system
    settings : mapping    ``title``; ``groups``: name → variants; ``published``: variant → metric → value;
        ``headlines``: metrics that come first
    out : Path    folder
    """
    collected = [result for result in results(runs) if result.network == "chosen"]
    groups = {
        group: [result for variant in variants for result in collected if result.variant == variant]
        for group, variants in settings["groups"].items()
    }
    headlines = settings.get("headlines", [])
    metrics = shown(collected, headlines)
    write_rows(out / "table.tsv", groups, metrics, settings["published"])
    text = markdown(settings["title"], groups, metrics, settings["published"])
    (out / "table.md").write_text(text, encoding="utf-8")
    for suffix, drawing in plots(settings["title"], groups, (*headlines, *PLOTTED)[:2]).items():
        (out / f"plot.{suffix}").write_bytes(drawing)


def write_rows(path: Path, groups: Mapping[str, list[Result]], metrics: Sequence[str], published: Mapping) -> None:
    """One row per group, variant and stage: seeds, then mean, standard deviation and published value of each metric."""
    numbers = [f"{name}{suffix}" for name in metrics for suffix in ("", "_sd", "_published")]
    rows = []
    for group, members in groups.items():
        for result in members:
            cells = []
            for name in metrics:
                cells += [*mean_sd(result.final.get(name, [math.nan])), published[result.variant].get(name, math.nan)]
            texts = ["" if math.isnan(cell) else f"{cell:.6f}" for cell in cells]
            rows.append((group, result.variant, result.stage, len(result.seeds), *texts))
    write_table(path, ("group", "variant", "stage", "seeds", *numbers), rows)


def markdown(title: str, groups: Mapping[str, list[Result]], metrics: Sequence[str], published: Mapping) -> str:
    """The same as text: mean ± standard deviation over seeds, one table per group."""
    lines = [f"# {title}", ""]
    known = [name for name in metrics if any(name in of_variant for of_variant in published.values())]
    for group, members in groups.items():
        columns = ["variant", "stage", "seeds", *(HEADLINES[name][1] for name in metrics)]
        columns += [f"{HEADLINES[name][1]}, published" for name in known]
        lines += [f"## {group}", "", f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
        for result in members:
            cells = [result.variant, result.stage, str(len(result.seeds))]
            cells += [plus_minus(result.final.get(name, [math.nan])) for name in metrics]
            cells += [plus_minus([published[result.variant].get(name, math.nan)]) for name in known]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    lines.append("Test clips, post-processed as tuned on validation; the network that was better on validation.")
    lines.append("Mean ± standard deviation over seeds; rows in the order of the page.")
    return "\n".join(lines) + "\n"


def plots(title: str, groups: Mapping[str, list[Result]], metrics: Sequence[str] = PLOTTED) -> dict[str, bytes]:
    """The plot as SVG and PNG: mean and standard deviation over seeds, every seed a small dot."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = sum(len({result.variant for result in members}) for members in groups.values())
    heights = [1 + len({result.variant for result in members}) for members in groups.values()]
    with matplotlib.rc_context({"svg.hashsalt": "sedflow", "font.size": 9, "axes.axisbelow": True}):
        figure, axes = pyplot.subplots(
            len(groups), len(metrics), figsize=(9, 1.2 + 0.5 * (rows + len(groups))), sharex="col", squeeze=False,
            gridspec_kw={"height_ratios": heights}, layout="constrained",
        )  # fmt: skip
        for (group, members), of_group in zip(groups.items(), axes, strict=True):
            for metric, axis in zip(metrics, of_group, strict=True):
                _draw(axis, members, metric)
            of_group[0].set_title(group, loc="left", fontweight="bold")
        for metric, axis in zip(metrics, axes[-1], strict=True):
            axis.set_xlabel(f"{HEADLINES[metric][1]} on test")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=max(1, len(labels)), frameon=False)
        figure.suptitle(title)
        drawings = {}
        for suffix, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=suffix, dpi=150, metadata=metadata)
            drawings[suffix] = buffer.getvalue()
        pyplot.close(figure)
    return drawings


def _draw(axis, members: list[Result], metric: str) -> None:
    """One group in one metric: a line of dots per variant, a colour and a height per stage."""
    variants = list(dict.fromkeys(result.variant for result in members))
    stages = list(dict.fromkeys(result.stage for result in members))
    for k, stage in enumerate(stages):
        of_stage = [result for result in members if result.stage == stage]
        places = [variants.index(result.variant) + 0.22 * (k - (len(stages) - 1) / 2) for result in of_stage]
        values = [result.final.get(metric, [math.nan]) for result in of_stage]
        means, sds = zip(*map(mean_sd, values), strict=True)
        bars = [0.0 if math.isnan(sd) else sd for sd in sds]
        axis.errorbar(means, places, xerr=bars, fmt="o", color=f"C{k}", markersize=5, capsize=3, label=stage)
        for place, of_result in zip(places, values, strict=True):
            axis.plot(of_result, [place] * len(of_result), ".", color=f"C{k}", alpha=0.4, markersize=4)
    axis.set_yticks(range(len(variants)), variants)
    axis.set_ylim(len(variants) - 0.5, -0.5)
    axis.grid(axis="x", linewidth=0.5)
