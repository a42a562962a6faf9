"""How much of the training each kind of source makes up, compared with what BEATs-SED's README recommends."""

from __future__ import annotations

from collections.abc import Mapping

# shares of the training audio; of unlabeled clips there may be more ("30-50%+")
MIX = {"real_strong": (0.03, 0.10), "synthetic_strong": (0.20, 0.40), "weak": (0.20, 0.40), "unlabeled": (0.30, 1.0)}
SYNTHETIC_TIMES = (3, 10)  # as much as real_strong


def mix_doubts(amounts: Mapping[str, float], what: str) -> list[str]:
    """Doubts about how much of ``what`` each of the four sources makes up; none unless all four are there.

    Parameters
    ----------
    amounts : source → clips of a batch, or seconds
    """
    if not all(amounts.get(source) for source in MIX):
        return []
    whole = sum(amounts.values())
    doubts = []
    for source, (low, high) in MIX.items():
        share = amounts[source] / whole
        if not low <= share <= high:
            doubts.append(f"{source}: {share:.1%} of {what}, {low:.0%} to {high:.0%} are recommended")
    times = amounts["synthetic_strong"] / amounts["real_strong"]
    if not SYNTHETIC_TIMES[0] <= times <= SYNTHETIC_TIMES[1]:
        doubts.append(
            f"synthetic_strong: {times:.1f} times as much of {what} as real_strong, {SYNTHETIC_TIMES[0]} to "
            f"{SYNTHETIC_TIMES[1]} times are recommended"
        )
    return doubts
