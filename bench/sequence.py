"""Sequence heads: parallel scans against sequential ones, and the cost of every head at four lengths.

Contestants of one scan are checked to agree first, then run in turn; the medians stand in the tables.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time

import common
import torch

from sedflow import plugins
from sedflow.memory import keep_pages
from sedflow.precision import full_float32
from sedflow.sequence.hybrid import _Recurrence
from sedflow.sequence.mamba import _chunked_scan

FRAMES = (250, 500, 1_000, 2_500)
SCAN_FRAMES = (250, 2_500)
BATCH = 4
# fmn10 with heads of the published middle width
DIM, WIDTH = 960, {"width": 256}
# the identity costs nothing
NAMES = [name for name in plugins.names("sequence") if name != "identity"]
HEADS = {name: {} if name == "zipformer" else WIDTH for name in NAMES}


MEMORY = """
import torch
from sedflow import plugins
head = plugins.build("sequence", {settings}, {dim})
head(torch.randn({clips}, {frames}, {dim})).square().mean().backward()
"""


@full_float32()
def main() -> None:
    """Run all comparisons on one device."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    keep_pages()  # as training does, for all forms alike
    device = torch.device(options.device)
    page = "sequence" if device.type == "cpu" else f"sequence_{device.type}"
    time_in_turn = functools.partial(medians, device=device, repeats=options.repeats)
    sections = [common.surroundings("torch", "torchaudio")]
    sections += ["## Scans", markdown(compare_scans(device, time_in_turn))]
    costs = measure_heads(device, time_in_turn)
    plot(common.RESULTS / f"{page}.png", costs, device)
    sections += [
        f"## Heads at their defaults, width {WIDTH['width']}, {BATCH} clips",
        f"![]({page}.png)",
        markdown(costs),
    ]
    if device.type == "cpu":
        sections += [f"## Peak memory of a training step, {FRAMES[0]} frames", markdown(measure_memory())]
    common.write(page, "Sequence heads", sections)


def compare_scans(device, time_in_turn) -> list[dict]:
    """Each parallel scan beside its plain definition, forward alone and with its gradient."""
    rows = []
    for frames in SCAN_FRAMES:
        for scan, inputs, contestants in (mamba_scans(frames, device), min_gru_scans(frames, device)):
            expected = contestants["sequential"](*inputs)
            for name, contestant in contestants.items():
                error = (contestant(*inputs) - expected).abs().max() / expected.abs().max()
                assert error < 2e-3, f"{scan}, {name}: {error} away from the sequential scan"
            forward = {name: functools.partial(contestant, *inputs) for name, contestant in contestants.items()}
            trained = {name: functools.partial(with_gradient, part, inputs) for name, part in contestants.items()}
            for mode, contestants_now in (("forward", forward), ("forward and backward", trained)):
                seconds = time_in_turn(contestants_now)
                rows += [
                    {
                        "scan": scan,
                        "form": name,
                        "frames": frames,
                        "mode": mode,
                        "ms": f"{1e3 * seconds[name]:.2f}",
                        "faster than sequential": f"{seconds['sequential'] / seconds[name]:.2f}",
                    }
                    for name in contestants
                ]
    return rows


def mamba_scans(frames, device):
    """Mamba-2 at width 256: 8 heads of 64 channels, state 64."""
    torch.manual_seed(0)
    signal = torch.randn(BATCH, frames, 8, 64, device=device)
    log_decay = -0.3 * torch.rand(BATCH, frames, 8, device=device)
    write_vectors, read_vectors = torch.randn(2, BATCH, frames, 64, device=device)
    contestants = {"sequential": sequential_state_space, "chunks of 64": functools.partial(_chunked_scan, chunk=64)}
    return "mamba", (signal, log_decay, write_vectors, read_vectors), contestants


def min_gru_scans(frames, device):
    """Gates and candidates of a minGRU at width 256."""
    torch.manual_seed(0)
    gate, candidate = torch.randn(2, BATCH, frames, 256, device=device)
    contestants = {"sequential": sequential_min_gru, "published, in logarithms": logarithmic_min_gru}
    return "minGRU", (gate, candidate), contestants | {"composed pairwise": composed_min_gru}


def sequential_state_space(signal, log_decay, write_vectors, read_vectors):
    """S_t = decay_t S_{t-1} + signal_t write_tᵀ; y_t = S_t read_t."""
    state = signal.new_zeros(*signal[:, 0].shape, write_vectors.shape[-1])
    outputs = []
    for t in range(signal.shape[1]):
        gained = signal[:, t].unsqueeze(-1) * write_vectors[:, t, None, None]
        state = log_decay[:, t].exp()[..., None, None] * state + gained
        outputs.append((state * read_vectors[:, t, None, None]).sum(-1))
    return torch.stack(outputs, dim=1)


def sequential_min_gru(gate, candidate):
    """h_t = (1 - z_t) h_{t-1} + z_t g(candidate_t)."""
    update = gate.sigmoid()
    gain = update * torch.where(candidate >= 0, candidate + 0.5, candidate.sigmoid())
    hidden = [gain[:, 0]]
    for t in range(1, gate.shape[1]):
        hidden.append((1 - update[:, t]) * hidden[-1] + gain[:, t])
    return torch.stack(hidden, dim=1)


def logarithmic_min_gru(gate, candidate):
    """The published parallel form."""
    softplus = torch.nn.functional.softplus
    log_g = torch.where(candidate >= 0, (candidate.relu() + 0.5).log(), -softplus(-candidate))
    summed = (-softplus(gate)).cumsum(1)
    return (summed + (-softplus(-gate) + log_g - summed).logcumsumexp(1)).exp()


def composed_min_gru(gate, candidate):
    """What the hybrid head does."""
    gain = gate.sigmoid() * torch.where(candidate >= 0, candidate + 0.5, candidate.sigmoid())
    return _Recurrence.apply(gate.neg().sigmoid(), gain)


def with_gradient(contestant, inputs):
    """Forward and backward."""
    leaves = [part.detach().requires_grad_() for part in inputs]
    return torch.autograd.grad(contestant(*leaves).sum(), leaves)


def measure_heads(device, time_in_turn) -> list[dict]:
    """Every head at its defaults, evaluation and one training step."""
    rows = []
    heads = {name: plugins.build("sequence", {"name": name, **s}, DIM).to(device) for name, s in HEADS.items()}
    for frames in FRAMES:
        embeddings = torch.randn(BATCH, frames, DIM, device=device)
        evaluated = time_in_turn({name: functools.partial(evaluate, head, embeddings) for name, head in heads.items()})
        trained = time_in_turn({name: functools.partial(train_once, head, embeddings) for name, head in heads.items()})
        rows += [
            {
                "head": name,
                "parameters": sum(parameter.numel() for parameter in head.parameters()),
                "frames": frames,
                "ms per clip": f"{1e3 * evaluated[name] / BATCH:.2f}",
                "ms per clip in training": f"{1e3 * trained[name] / BATCH:.2f}",
            }
            for name, head in heads.items()
        ]
    return rows


@torch.no_grad()
def evaluate(head, embeddings):
    """Forward in evaluation."""
    return head.eval()(embeddings)


def train_once(head, embeddings):
    """Forward and backward in training."""
    head.zero_grad(set_to_none=True)
    head.train()(embeddings).square().mean().backward()


def medians(contestants: dict, *, device, repeats: int) -> dict:
    """Median seconds of each contestant, run in turn after one unmeasured round."""
    seconds = {name: [] for name in contestants}
    for measured in [False] + [True] * repeats:
        for name, contestant in contestants.items():
            synchronise(device)
            start = time.perf_counter()
            contestant()
            synchronise(device)
            if measured:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def synchronise(device) -> None:
    """Wait for the accelerator, if there is one."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_memory() -> list[dict]:
    """Peak of a process of its own for every head; a process that only imports torch needs about 300 MiB."""
    rows = []
    for name, settings in HEADS.items():
        peaks = {}
        for clips in (1, 8):
            code = MEMORY.format(settings={"name": name, **settings}, dim=DIM, clips=clips, frames=FRAMES[0])
            peaks[f"MiB at batch {clips}"] = f"{common.peak_memory(code):.0f}"
        rows.append({"head": name, **peaks})
    return rows


def markdown(rows: list[dict]) -> str:
    """Rows of one kind as a table."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(map(str, row.values()) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plot(path, costs: list[dict], device) -> None:
    """Milliseconds per clip over frames, one line per head."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharex=True, layout="constrained")
    for axis, column in zip(axes, ("ms per clip", "ms per clip in training"), strict=True):
        for name in HEADS:
            own = [row for row in costs if row["head"] == name]
            axis.loglog([row["frames"] for row in own], [float(row[column]) for row in own], marker="o", label=name)
        axis.set_xticks(FRAMES, [str(frames) for frames in FRAMES])
        axis.minorticks_off()
        axis.set(xlabel="frames", ylabel=column)
    axes[0].legend()
    figure.suptitle(f"Sequence heads on {device.type}, batch {BATCH}, width {WIDTH['width']}, from {DIM}")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
