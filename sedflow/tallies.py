"""Tallies: counts of right and wrong answers per clip and score, and the numbers that follow from them.

A tally holds one class. Whatever the metric counts (events, seconds, clips), a row records how many more are found
and how many more false, in which clip, once the threshold falls past ``level``. Every number below is a function of a
tally and of a weight per clip: all ones for the metric itself, how often a clip was drawn for a bootstrap sample.

- F1 = 2 · precision · recall / (precision + recall), at a threshold or at the best one.
- ROC: found / positives over false / negatives. ``auroc`` takes its area up to ``max_fpr``, divided by ``max_fpr``, as
  a staircase (ties count against the detector); ``d_prime`` is √2 · Φ⁻¹(area) of the whole ROC, ties counting half.
- ``average_precision``: mean precision over the recalls that are reached.

Source: sed_scores_eval 0.0.4, ``base_modules.precision_recall`` and ``base_modules.roc``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np


@dataclasses.dataclass(frozen=True)
class Tally:
    """Answers of one class.

    Parameters
    ----------
    level : (rows,) float    falling
    clip : (rows,) int
    found, false : (rows,) int    changes; negative when detections grow together
    positives : (clips,) int    what there is to find
    negatives : (clips,) int    what can be false, where that is bounded (seconds, clips), else 0
    """

    level: np.ndarray
    clip: np.ndarray
    found: np.ndarray
    false: np.ndarray
    positives: np.ndarray
    negatives: np.ndarray

    @classmethod
    def of(cls, level, clip, found, false, positives, negatives=None) -> Tally:
        """Sort the rows by falling level; what cancels within a clip (a detection that only grows) is dropped."""
        level, clip = np.asarray(level), np.asarray(clip)
        order = np.lexsort((clip, -level))
        level, clip = level[order], clip[order]
        firsts = np.flatnonzero(np.append(True, (level[1:] != level[:-1]) | (clip[1:] != clip[:-1]))[: len(level)])
        changes = [
            np.add.reduceat(np.asarray(c)[order], firsts) if len(firsts) else np.zeros(0) for c in (found, false)
        ]
        stays = (changes[0] != 0) | (changes[1] != 0)
        rows = [values[stays] for values in (level[firsts], clip[firsts], *changes)]
        return cls(*rows, positives, np.zeros_like(positives) if negatives is None else negatives)

    def totals(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Levels, found and false once the threshold is past each level; first nothing at infinity."""
        of_row = weights[self.clip]
        last = np.append(self.level[1:] != self.level[:-1], True)[: len(self.level)]
        sums = [np.cumsum(of_row * change)[last] for change in (self.found, self.false)]
        return np.append(np.inf, self.level[last]), *(np.append(0.0, values) for values in sums)

    def at(self, threshold: float, weights: np.ndarray) -> np.ndarray:
        """(found, false, positives) of scores above a threshold."""
        rows = slice(0, np.searchsorted(-self.level, -threshold))
        of_row = weights[self.clip[rows]]
        return np.array([of_row @ self.found[rows], of_row @ self.false[rows], weights @ self.positives])

    def at_best(self, weights: np.ndarray) -> tuple[np.ndarray, float]:
        """(found, false, positives) where F1 is highest, and the threshold halfway to the next lower level."""
        level, found, false = self.totals(weights)
        positives = weights @ self.positives
        best = int(np.argmax(f1(np.stack([found, false, np.full_like(found, positives)]))))
        just_below = np.nextafter(level[best], -np.inf)
        threshold = (level[best] + level[best + 1]) / 2 if best + 1 < len(level) else just_below
        return np.array([found[best], false[best], positives]), float(threshold)

    def auroc(self, weights: np.ndarray, max_fpr: float = 1.0, ties: float = 0.0) -> float:
        """Area under the ROC up to ``max_fpr``; ``ties`` is the share of a tie that counts (0 staircase, ½ d′)."""
        _, found, false = self.totals(weights)
        positives, negatives = weights @ self.positives, weights @ self.negatives
        if positives == 0 or negatives == 0:
            return float("nan")
        tpr, fpr = found / positives, np.minimum(false / negatives, max_fpr)
        height = tpr[:-1] + ties * np.diff(tpr)
        return float((height @ np.diff(fpr) + tpr[-1] * (max_fpr - fpr[-1])) / max_fpr)

    def average_precision(self, weights: np.ndarray) -> float:
        """Mean precision over recalls."""
        _, found, false = self.totals(weights)
        positives = weights @ self.positives
        if positives == 0:
            return float("nan")
        precision = found / np.maximum(found + false, 1e-12)
        return float(precision[1:] @ np.diff(found) / positives)

    def d_prime(self, weights: np.ndarray) -> float:
        """Distance of two unit normal distributions with the same area under their ROC.

        An area of 1, whose distance is infinite, counts as half a wrong pair of clips; 0 alike. Left out, a class that
        is told perfectly would lower the mean over classes.
        """
        from scipy.special import ndtri

        pairs = (weights @ self.positives) * (weights @ self.negatives)
        area = self.auroc(weights, ties=0.5)
        return float(np.sqrt(2.0) * ndtri(np.clip(area, 0.5 / pairs, 1 - 0.5 / pairs))) if pairs else float("nan")


def f1(counts: np.ndarray) -> np.ndarray:
    """F1 of (3, …) found, false and positives; nothing detected has precision 1."""
    found, false, positives = counts
    detected = found + false
    precision = np.where(detected == 0, 1.0, found / np.maximum(detected, 1e-12))
    recall = found / np.maximum(positives, 1e-12)
    return 2 * precision * recall / np.maximum(precision + recall, 1e-15)


def f1_table(counts: Mapping[str, np.ndarray]) -> dict[str, float]:
    """F1 per class, ``macro_average`` (classes weigh alike) and ``micro_average`` (counts pooled).

    Classes with nothing to find (in a bootstrap sample) count for the micro average only.
    """
    per_class = {label: float(f1(of_class)) for label, of_class in counts.items() if of_class[2] > 0}
    macro = float(np.mean(list(per_class.values()))) if per_class else float("nan")
    return per_class | {"macro_average": macro, "micro_average": float(f1(sum(counts.values())))}
