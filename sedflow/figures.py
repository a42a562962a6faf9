"""Charts as plain numbers for the page's templates: everything is placed in percent of the drawing.

The templates draw shapes in a stretched SVG and write text as HTML beside it, so that letters keep their size on a
phone, on paper and on a wide screen.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

STYLES, GREY = ("s1", "s2", "s3", "s4", "s5"), "s0"  # CSS classes of the pages
MOST_CLASSES = 24  # a figure shows no more
MOST_POINTS = 400
_PALETTE = np.array([[0, 0, 4], [60, 15, 112], [140, 41, 129], [222, 73, 104], [254, 159, 109], [252, 253, 191]])
_LOWEST_HZ = 50.0
_DYNAMIC_RANGE_DB = 75.0


def styles_of(names: Iterable, styles: Sequence[str]) -> dict:
    """A style per name, in order; the last one serves all that are left."""
    return {name: styles[min(k, len(styles) - 1)] for k, name in enumerate(names)}


def most_frequent(classes: Iterable[str], counts: Mapping[str, int]) -> list[str]:
    """The classes that a figure shows, in their order: those that sound, the ``MOST_CLASSES`` of the largest counts.

    A class that ``counts`` lacks does not sound.
    """
    sounding = [label for label in classes if counts.get(label)]
    kept = set(sorted(sounding, key=lambda label: -counts[label])[:MOST_CLASSES])
    return [label for label in sounding if label in kept]


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of a chart; ``style`` is a CSS class of the page (``s0``–``s5``, ``dashed``, ``faint``, ``steps``)."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    style: str = "s0"


@dataclasses.dataclass(frozen=True)
class Axis:
    """Range and label of an axis, with round numbers to write beside it."""

    label: str
    low: float
    high: float

    @classmethod
    def around(cls, label: str, values: Sequence[float], low: float | None = None, high: float | None = None) -> Axis:
        """The axis that shows all values, unless its ends are given."""
        finite = [value for value in values if math.isfinite(value)]
        low = min(finite, default=0.0) if low is None else low
        high = max(finite, default=1.0) if high is None else high
        if high > low:
            return cls(label, low, high)
        margin = max(abs(low) * 0.1, 1e-3)
        return cls(label, low - margin, low + margin)

    def percent(self, values) -> np.ndarray:
        """Place on the axis, 0–100."""
        return (np.asarray(values, dtype=float) - self.low) / (self.high - self.low) * 100

    def ticks(self, about: int = 4) -> list[dict]:
        """Round numbers inside the range with their place: ``{"place": percent, "text": …}``."""
        raw = (self.high - self.low) / about
        power = 10 ** math.floor(math.log10(raw))
        step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
        numbers = np.arange(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1) * step
        return [{"place": round(float(self.percent(n)), 2), "text": short(n + 0.0)} for n in numbers]


def short(number: float) -> str:
    """A tick label: 1.5k, 200, 0.25."""
    if abs(number) >= 1000:
        return f"{number / 1000:g}k"
    return f"{number:.4g}" if number else "0"


def line_chart(title: str, lines: Sequence[Line], x: Axis, y: Axis, diagonal: bool = False) -> dict:
    """A chart of lines; points that are not numbers leave a gap."""
    drawn = [{"name": line.name, "style": line.style, "path": _path(line, x, y)} for line in lines]
    return {"title": title, "x": x, "y": y, "lines": [line for line in drawn if line["path"]], "diagonal": diagonal}


def _path(line: Line, x: Axis, y: Axis) -> str:
    across, up = thin(np.asarray(line.x, dtype=float), np.asarray(line.y, dtype=float))
    places = np.round(np.stack([x.percent(across), 100 - y.percent(up)], axis=1), 2)
    places = np.clip(places, -20, 120)
    commands, pen_down = [], False
    for right, down in places:
        if not (math.isfinite(right) and math.isfinite(down)):
            pen_down = False
            continue
        if not pen_down:
            commands.append(f"M{right:g} {down:g}")
        elif "steps" in line.style:
            commands.append(f"H{right:g}V{down:g}")
        else:
            commands.append(f"L{right:g} {down:g}")
        pen_down = True
    # a single point gets a stroke of no length, which round line ends turn into a dot
    return commands[0] + "h0" if len(commands) == 1 else "".join(commands)


def thin(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most ``MOST_POINTS`` points, evenly taken, ends kept."""
    if len(x) <= MOST_POINTS:
        return x, y
    kept = np.unique(np.linspace(0, len(x) - 1, MOST_POINTS).round().astype(int))
    return x[kept], y[kept]


def roc_line(name: str, efpr: Sequence[float], tpr: Sequence[float], end: float, style: str) -> Line:
    """A PSD-ROC as a staircase that holds its last rate until ``end``; no line where no class sounds."""
    return Line(name, [*efpr, *[end] * bool(len(efpr))], [*tpr, *tpr[-1:]], f"{style} steps")


def learning_charts(quantities: Mapping[str, Sequence[Line]]) -> list[dict]:
    """A chart per quantity over steps, those of validation first."""
    charts = []
    for quantity in sorted(quantities, key=lambda name: (not name.startswith("validation"), name)):
        lines = quantities[quantity]
        x = Axis.around("step", [step for line in lines for step in line.x], low=0)
        charts.append(line_chart(quantity, lines, x, Axis.around("", [value for line in lines for value in line.y])))
    return charts


def bar(name: str, value: float, style: str) -> dict:
    """One bar of a chart of numbers from 0 to 1; NaN is a dash."""
    known = math.isfinite(value)
    text = f"{value:.2f}" if known else "–"
    return {"name": name, "style": style, "percent": round(100 * value, 2) if known else 0, "text": text}


def interval_chart(
    title: str, rows: Sequence[tuple[str, float, Sequence[float], str, str]], zero: bool = False
) -> dict:
    """Ranges above each other: (name, middle, (low, high), text, style) each; ``zero`` is marked and in the picture."""
    known = [row for row in rows if all(map(math.isfinite, (row[1], *row[2])))]
    ends = [end for _, middle, bounds, _, _ in known for end in (middle, *bounds)] + [0.0] * zero
    margin = 0.04 * (max(ends, default=1.0) - min(ends, default=0.0))
    axis = Axis.around("", ends, min(ends, default=0.0) - margin, max(ends, default=1.0) + margin)

    def place(value):
        return round(float(axis.percent(value)), 2)

    drawn = [
        {"name": name, "low": place(low), "width": round(place(high) - place(low), 2), "middle": place(middle)}
        | {"text": text, "style": style}
        for name, middle, (low, high), text, style in known
    ]
    return {"title": title, "rows": drawn, "zero": place(0.0) if zero else None}


def heatmap(title: str, rows: Sequence[str], columns: Sequence[str], counts: np.ndarray, by_row: bool = True) -> dict:
    """A table of counts, shaded by the share of its row (or of the largest count)."""
    whole = counts.sum(axis=1, keepdims=True) if by_row else np.full((len(counts), 1), counts.max(initial=0))
    shares = counts / np.maximum(whole, 1)
    cells = [
        {"name": name, "cells": [{"count": int(c), "share": round(float(s), 3)} for c, s in zip(*row, strict=True)]}
        for name, *row in zip(rows, counts, shares, strict=True)
    ]
    return {"title": title, "columns": list(columns), "rows": cells}


def score_path(shares: np.ndarray) -> str:
    """Area under the scores (0–1) of equally long frames, in a drawing of 1000 × 100."""
    heights = np.round(100 - 100 * shares, 1)
    begins = np.flatnonzero(np.r_[True, heights[1:] != heights[:-1]])
    ends = np.r_[begins[1:], len(heights)] / len(heights) * 1000
    steps = [f"V{height:g}H{end:.1f}" for height, end in zip(heights[begins], ends, strict=True)]
    return "M0 100" + "".join(steps) + "V100Z"


def spectrogram(samples: np.ndarray, sample_rate: int, columns: int = 500, rows: int = 96) -> str:
    """A picture of the sound as a PNG data address: time to the right, log frequency upwards, 75 dB deep.

    Parameters
    ----------
    samples : (samples,) float
    """
    window = 2 ** round(math.log2(sample_rate * 0.05))
    centres = np.linspace(0, max(len(samples) - 1, 0), columns).astype(int)
    padded = np.pad(samples.astype(np.float32), window // 2)
    frames = padded[centres[:, None] + np.arange(window)] * np.hanning(window).astype(np.float32)
    power = np.abs(np.fft.rfft(frames)) ** 2  # (columns, window/2 + 1)
    bins = np.geomspace(_LOWEST_HZ, sample_rate / 2, rows + 1) * window / sample_rate
    summed = np.concatenate([np.zeros((columns, 1)), np.cumsum(power, axis=1)], axis=1)
    at_bins = np.stack([np.interp(bins, np.arange(summed.shape[1]), row) for row in summed])
    level = 10 * np.log10(np.diff(at_bins, axis=1) / np.diff(bins) + 1e-12)
    shade = np.clip((level - level.max()) / _DYNAMIC_RANGE_DB + 1, 0, 1)
    return _picture((shade.T[::-1] * 255).astype(np.uint8))


def _picture(shade: np.ndarray) -> str:
    from PIL import Image

    anchors = np.linspace(0, 255, len(_PALETTE))
    colours = np.stack([np.interp(np.arange(256), anchors, _PALETTE[:, k]) for k in range(3)], axis=1)
    picture = Image.fromarray(shade // 4 * 4, mode="P")  # 64 shades: half the bytes, no visible difference
    picture.putpalette(colours.round().astype(np.uint8).tobytes())
    stream = io.BytesIO()
    picture.save(stream, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def player(samples: np.ndarray, sample_rate: int) -> str:
    """The sound as an MP3 data address, brought to full level: any browser plays it, equal sound is equal bytes."""
    import soundfile

    stream = io.BytesIO()
    loud = samples / max(float(np.abs(samples).max(initial=0)), 1e-4) * 0.9
    soundfile.write(stream, loud, sample_rate, format="MP3", compression_level=0.6)
    return "data:audio/mpeg;base64," + base64.b64encode(stream.getvalue()).decode()
