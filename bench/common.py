"""The frame every benchmark stands in: the same results first, then rounds in turn, then a table that says where."""

from __future__ import annotations

import dataclasses
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


class UnequalError(AssertionError):
    """Two candidates give different results, so there is nothing to time."""


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds of each round of one candidate; ``items`` is how much work one round does."""

    name: str
    seconds: tuple[float, ...]
    items: float

    @property
    def median(self) -> float:
        """Seconds of the middle round."""
        return statistics.median(self.seconds)


def compare(
    candidates: Mapping[str, Callable[[], Any]],
    equal: Callable[[Any, Any], bool],
    items: float = 1,
    rounds: int = 5,
) -> list[Timing]:
    """Time candidates in turn, once each has given the result of the first.

    Parameters
    ----------
    candidates : mapping name → function without arguments    the first is ours, the others are peers
    equal : function of two results    whether a peer's result is ours; not called when there is one candidate
    items : float    clips, reads, seconds of audio … that one call works through
    rounds : int    timed rounds after the warm-up, at least 5

    Raises
    ------
    UnequalError    before anything is timed
    """
    if rounds < 5:
        raise ValueError(f"a median of {rounds} rounds says little; use at least 5")
    results = {name: run() for name, run in candidates.items()}  # the warm-up
    first = next(iter(results))
    for name, result in results.items():
        if name != first and not equal(results[first], result):
            raise UnequalError(f"{name} does not give the result of {first}; not timed")
    del results
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, run in candidates.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return [Timing(name, tuple(spent), items) for name, spent in seconds.items()]


def table(timings: Sequence[Timing], unit: str) -> str:
    """Markdown: seconds, items per second, and how much faster the first candidate is than each other."""
    ours = timings[0]
    lines = [f"| | median s | fastest–slowest s | {unit} per s | ours is faster by |", "|---|---|---|---|---|"]
    for timing in timings:
        ratio = timing.median / ours.median
        sure = max(ours.seconds) < min(timing.seconds) or min(ours.seconds) > max(timing.seconds)
        factor = "" if timing is ours else f"{'' if sure else 'about '}{ratio:.2f}×"
        span = f"{min(timing.seconds):.4g}–{max(timing.seconds):.4g}"
        lines.append(
            f"| {timing.name} | {timing.median:.4g} | {span} | {timing.items / timing.median:.4g} | {factor} |"
        )
    return "\n".join(lines)


def surroundings(*distributions: str) -> str:
    """Markdown: machine, threads, load, and the versions of the distributions that matter."""
    cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    model = next(
        (line.split(":")[1].strip() for line in cpuinfo.splitlines() if line.startswith("model name")),
        platform.machine(),
    )
    flags = [flag for flag in INSTRUCTIONS if flag in cpuinfo.split()]
    versions = [f"Python {platform.python_version()}", *(f"{name} {metadata.version(name)}" for name in distributions)]
    return "\n".join(
        [
            f"- {model}, {len(os.sched_getaffinity(0))} cores, {' '.join(flags)}",
            f"- {', '.join(versions)}",
            f"- {', '.join(f'{name}={os.environ.get(name, chr(45))}' for name in THREADS)}",
            f"- load {', '.join(f'{load:.1f}' for load in os.getloadavg())} (1, 5, 15 minutes)",
        ]
    )


def write(name: str, title: str, sections: Sequence[str]) -> None:
    """Print a page of Markdown and keep it as ``bench/results/<name>.md``."""
    page = "\n\n".join([f"# {title}", *sections]) + "\n"
    print(page)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(page, encoding="utf-8")


def peak_memory(code: str) -> float:
    """MiB that Python code needs at its peak, in a process of its own.

    Read from the kernel's VmHWM: getrusage would also count what this process held when it forked.
    """
    report = "\nprint(next(row for row in open('/proc/self/status') if row.startswith('VmHWM')))"
    run = subprocess.run([sys.executable, "-c", code + report], stdout=subprocess.PIPE, text=True, check=True)
    return int(run.stdout.split()[-2]) / 1024  # VmHWM: … kB
