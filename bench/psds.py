"""PSDS1 and PSDS2 of a set of DESED's size, against sed_scores_eval (exact) and the 50-threshold way (psds_eval).

sed_scores_eval must give our numbers to 1e-9. Fifty thresholds approximate: their number may be lower by up to 0.1.
"""

from __future__ import annotations

import argparse
import contextlib
import types
import warnings

import numpy as np
from common import compare, surroundings, table, write

from sedflow.compat import prepare_sed_scores_eval
from sedflow.evaluation import psds
from sedflow.events import Event, merge_events
from sedflow.psds import CRITERIA
from sedflow.scores import Scores

CLASSES, FRAMES, SECONDS, EVENTS = 10, 156, 10.0, 4


def make(clips: int, seed: int = 0):
    """Scores of a detector that is right most of the time, with truth and durations."""
    rng = np.random.default_rng(seed)
    classes = tuple(f"class{k}" for k in range(CLASSES))
    edges = np.arange(FRAMES + 1) * (SECONDS / FRAMES)
    scores, truth = {}, {}
    for number in range(clips):
        times = np.sort(np.round(rng.uniform(0, SECONDS, size=(EVENTS, 2)), 3), axis=1)
        events = merge_events((Event(on, off, rng.choice(classes)) for on, off in times if off > on), max_gap=0.15)
        logits = rng.normal(-3, 1, (FRAMES + 4, CLASSES))
        logits = np.lib.stride_tricks.sliding_window_view(logits, 5, axis=0).mean(axis=-1)  # smooth as a network's
        for event in events:
            logits[(edges[1:] > event.onset) & (edges[:-1] < event.offset), classes.index(event.label)] += rng.normal(
                3, 1.5
            )
        scores[f"clip{number}"] = Scores(1 / (1 + np.exp(-logits)), edges, classes)
        truth[f"clip{number}"] = events
    return scores, truth, dict.fromkeys(scores, SECONDS)


def peers(scores, truth, durations):
    """The two other ways, on inputs that are already in their format."""
    warnings.simplefilter("ignore")
    prepare_sed_scores_eval()
    import psds_eval.psds
    from sed_scores_eval import intersection_based

    # psds_eval 0.5.3 turns a (1, 1) array into an int, which NumPy 2.4 refuses
    psds_eval.psds.np = types.SimpleNamespace(**vars(np))
    psds_eval.psds.np.argwhere = lambda condition: np.argwhere(condition).squeeze()
    tables = {clip: s.table() for clip, s in scores.items()}
    events = {clip: [(e.onset, e.offset, e.label) for e in of_clip] for clip, of_clip in truth.items()}

    def judged(function, value):
        found = {}
        for name in ("psds1", "psds2"):
            criteria = CRITERIA[name]
            with contextlib.redirect_stdout(None):  # psds_eval counts its thresholds aloud
                result = function(
                    tables,
                    events,
                    durations,
                    dtc_threshold=criteria.dtc,
                    gtc_threshold=criteria.gtc,
                    cttc_threshold=criteria.cttc,
                    alpha_ct=criteria.alpha_ct,
                    alpha_st=criteria.alpha_st,
                    max_efpr=criteria.max_efpr,
                )
            found[name] = float(value(result))
        return found

    exact = lambda: judged(intersection_based.psds, lambda result: result[0])  # noqa: E731
    fifty = lambda: judged(intersection_based.reference.approximate_psds, lambda result: result[0])  # noqa: E731
    return {"sed_scores_eval 0.0.4": exact, "psds_eval 0.5.3, 50 thresholds": fifty}


def same(ours, theirs) -> bool:
    """Exact ways agree to 1e-9; fifty thresholds may miss some of the area."""
    return all(abs(ours[name] - theirs[name]) < 1e-9 or 0 < ours[name] - theirs[name] < 0.1 for name in ours)


def main() -> None:
    """Compare on a part of the set, then ours alone on all of it."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--clips", type=int, default=1168)
    options.add_argument("--peer-clips", type=int, default=40, help="fifty thresholds take about 0.3 s a clip")
    options.add_argument("--full", action="store_true", help="the peers judge all clips too")
    options = options.parse_args()
    options.peer_clips = options.clips if options.full else options.peer_clips
    scores, truth, durations = make(options.clips)
    some = [{clip: what[clip] for clip in list(scores)[: options.peer_clips]} for what in (scores, truth, durations)]
    candidates = {"sedflow": lambda: psds(*some), **peers(*some)}
    values = [f"{name}: {', '.join(f'{k} {v:.4f}' for k, v in run().items())}" for name, run in candidates.items()]
    part = compare(candidates, same, items=len(some[0]))
    whole = compare({"sedflow": lambda: psds(scores, truth, durations)}, same, items=len(scores))
    write(
        "psds",
        "PSDS1 and PSDS2",
        [
            surroundings("numpy", "pandas", "sed_scores_eval", "psds_eval"),
            f"{CLASSES} classes, {FRAMES} frames a clip; both scores a round. Peer's shim: `argwhere` of psds_eval on "
            "NumPy 2.4. " + "; ".join(values) + ".",
            f"{len(some[0])} clips:\n\n" + table(part, "clips"),
            f"{len(scores)} clips:\n\n" + table(whole, "clips"),
        ],
    )


if __name__ == "__main__":
    main()
