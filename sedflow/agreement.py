"""Check that scores, truth and durations cover the same clips, classes and times, before anything is counted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from sedflow.events import END_SLACK_SECONDS, Event
from sedflow.scores import Scores, no_scores


class EvaluationError(ValueError):
    """Scores and truth cannot be evaluated together; the message counts the faults and names the first ten."""


def check_agreement(
    scores: Mapping[str, Scores], truth: Mapping[str, Iterable[Event]], durations: Mapping[str, float]
) -> None:
    """Refuse scores and truth that disagree.

    ``durations`` names the clips to evaluate. A clip without truth has no events; every clip needs scores.

    Raises
    ------
    EvaluationError    clips missing or unknown, labels without a score column, NaN or +inf, events that end after
                       their clip, same-class events that overlap or touch, scores of another length than their clip
    """
    faults = _clip_faults(scores, truth, durations)
    if not faults:
        faults = _score_faults(scores, durations) + _event_faults(scores, truth, durations)
    if faults:
        raise EvaluationError("scores and truth do not agree:\n" + "\n".join(faults))


def _fault(found: list[str], what: str, cure: str) -> list[str]:
    if not found:
        return []
    more = f" … and {len(found) - 10} more" if len(found) > 10 else ""
    return [f"- {len(found)} {what}: {', '.join(found[:10])}{more}. {cure}"]


def _clip_faults(scores, truth, durations):
    if not durations:
        return ["- the list of durations is empty. It names the clips to evaluate"]
    return [
        *_fault(
            sorted(set(durations) - set(scores)), "clips have no scores", "Score them, or drop them from durations"
        ),
        *_fault(
            sorted(set(scores) - set(durations)), "scored clips have no duration", "Add them, or score fewer clips"
        ),
        *_fault(
            sorted(set(truth) - set(durations) - set(scores)),
            "clips with truth have no scores",
            "Score them, or delete their rows",
        ),
    ]


def _score_faults(scores, durations):
    classes = next(iter(scores.values())).classes
    odd = [clip for clip, s in scores.items() if s.classes != classes]
    broken = [clip for clip, s in scores.items() if no_scores(s.values).any()]
    lengths = []
    for clip, s in scores.items():
        slack = max(END_SLACK_SECONDS, float(np.diff(s.edges).max(initial=0.0)))
        boxes = np.isneginf(s.values).any()  # a table of boxes may begin late and end early
        short = not boxes and (s.edges[0] > slack or s.seconds < durations[clip] - slack)
        if short or s.edges[0] < -slack or s.seconds > durations[clip] + slack:
            lengths.append(f"{clip} ({s.edges[0]:.2f}–{s.seconds:.2f} s scored, {durations[clip]:.2f} s long)")
    return [
        *_fault(odd, f"clips have other classes than {list(classes)}", "Score all clips with one detector"),
        *_fault(broken, "clips have scores that are NaN or +inf", "Score them again"),
        *_fault(lengths, "clips have scores of another length", "Correct the durations, or score the same audio"),
    ]


def _event_faults(scores, truth, durations):
    classes = set(next(iter(scores.values())).classes)
    strangers, beyond, crowded, empty = [], [], [], []
    for clip, events in truth.items():
        ends: dict[str, float] = {}
        for e in sorted(events):
            text = f"{clip} {e.onset:.3f}–{e.offset:.3f} {e.label}"
            if e.label not in classes:
                strangers.append(text)
            if not e.offset > e.onset >= 0:
                empty.append(text)
            if e.ends_behind(durations[clip]):
                beyond.append(text)
            if e.onset <= ends.get(e.label, -1.0):
                crowded.append(text)
            ends[e.label] = max(e.offset, ends.get(e.label, -1.0))
    return [
        *_fault(
            strangers, f"events have labels outside {sorted(classes)}", "Drop them or add aliases to the class list"
        ),
        *_fault(empty, "events do not run from a time ≥ 0 to a later time", "Correct the labels"),
        *_fault(beyond, "events end after their clip", "Correct the labels or the durations"),
        *_fault(
            crowded, "events overlap or touch another event of their class", "Join them (sedflow.events.merge_events)"
        ),
    ]
