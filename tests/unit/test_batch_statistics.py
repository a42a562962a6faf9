"""Batch norms and means of processes that share a batch: what two compute from a half each, and one from the whole."""

import datetime
import functools

import pytest
import torch
from torch import nn

from sedflow.batch_statistics import SharedBatchNorm, SharedStatistics
from sedflow.layers import BatchNorm2d
from sedflow.losses import frame_mean

PARTS = {"maps": (slice(0, 3), slice(3, 6)), "rows": (slice(0, 30), slice(30, 100))}  # as many rows as frames are real
MEETING_SECONDS = 60

assert_close = functools.partial(torch.testing.assert_close, check_dtype=False, rtol=1e-4, atol=1e-4)


class _Networks(nn.Module):
    """Each kind of norm that our networks have, behind one another and on its own."""

    def __init__(self, norm):
        super().__init__()
        self.maps = nn.Sequential(
            nn.Conv2d(2, 4, 3, bias=False), norm(4, momentum=0.3), nn.Hardswish(),
            nn.Conv2d(4, 5, 1, bias=False), nn.BatchNorm2d(5, eps=1e-3), nn.Hardswish(),
            nn.Flatten(2), nn.BatchNorm1d(5),
        )  # fmt: skip
        self.rows = nn.BatchNorm1d(3)


def networks(norm=BatchNorm2d) -> _Networks:
    torch.manual_seed(0)
    drawn = _Networks(norm)
    for parameter in drawn.parameters():
        nn.init.uniform_(parameter, 0.2, 1)
    return drawn


def batches() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    scale = torch.arange(1.0, 7.0).view(6, 1, 1, 1)  # the halves have statistics of their own
    return {"maps": scale * torch.randn(6, 2, 12, 9) + scale, "rows": torch.randn(100, 3).cumsum(0)}


def trained(owner: _Networks, dtype=torch.float32, part=None) -> dict[str, torch.Tensor]:
    """Outputs and gradients of two passes over the batches, or over one part of each, and statistics afterwards."""
    results = {}
    for kind, whole in batches().items():
        own = slice(None) if part is None else PARTS[kind][part]
        for turn in range(2):
            network, inputs = getattr(owner, kind), (whole * (1 + turn))[own].to(dtype).requires_grad_()
            outputs = network(inputs)
            pull = torch.randn((len(whole), *outputs.shape[1:]), generator=torch.Generator().manual_seed(turn))
            outputs.backward(pull[own].to(dtype))
            results |= {f"{kind} {turn} outputs": outputs.detach(), f"{kind} {turn} gradient": inputs.grad}
    weights = {f"{name} gradient": parameter.grad for name, parameter in owner.named_parameters()}
    return results | weights | dict(owner.named_buffers())


def mean(part=slice(None), processes: int = 1) -> dict[str, torch.Tensor]:
    """Frame means where the halves have unlike numbers of frames, or of clips that count at all."""
    values = torch.randn((6, 20, 3), generator=torch.Generator().manual_seed(2))
    known = torch.tensor([[True, True, False]] * 2 + [[True, True, True]] * 4)
    valid = torch.arange(20) < torch.tensor([20, 5, 9, 20, 20, 20]).unsqueeze(1)
    late, never = torch.arange(6).unsqueeze(1) > 2, torch.zeros(6, 1, dtype=torch.bool)
    rows = {"all": valid, "of the second": valid & late, "none": valid & never}
    return {
        name: frame_mean(values[part], known[part], chosen[part], processes=processes) for name, chosen in rows.items()
    }


def one_of_two(rank: int, folder) -> None:
    torch.set_num_threads(1)
    limit = datetime.timedelta(seconds=MEETING_SECONDS)
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", limit, world_size=2, rank=rank)
    owner = SharedStatistics().apply(networks())
    results = trained(owner, part=rank) | {"means": mean(PARTS["maps"][rank], 2)}
    if rank == 0:  # nobody would answer it
        results |= {"scored": owner.eval().maps(batches()["maps"])}
    torch.save(results, folder / str(rank))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(one_of_two, (folder,), nprocs=2)
    return [torch.load(folder / str(rank)) for rank in range(2)]


def test_two_processes_norm_their_halves_as_one_norms_the_whole(halves):
    exact = trained(networks(nn.BatchNorm2d).double(), torch.float64)
    together = {}
    for name in exact:
        first, second = (half[name] for half in halves)
        if " " not in name:
            assert first.equal(second), name  # running statistics
            together[name] = first
        else:  # of clips, or of a weight, whose gradients DDP adds up
            together[name] = first + second if "." in name else torch.cat((first, second))
    assert_close(together, exact)


def test_a_half_alone_would_have_given_something_else(halves):
    alone = trained(networks(), part=0)
    assert not torch.allclose(alone["maps 0 outputs"], halves[0]["maps 0 outputs"], atol=0.1)
    assert not torch.allclose(alone["rows 0 gradient"], halves[0]["rows 0 gradient"], atol=1e-3)


def test_a_network_that_scores_waits_for_nobody(halves):
    owner = networks(nn.BatchNorm2d).double()
    trained(owner, torch.float64)
    assert_close(halves[0]["scored"], owner.eval().maps(batches()["maps"].double()))


def test_two_processes_average_to_the_mean_over_all_that_counts(halves):
    for name, expected in mean().items():
        torch.testing.assert_close((halves[0]["means"][name] + halves[1]["means"][name]) / 2, expected)
    alone = [mean(part)["all"] for part in PARTS["maps"]]
    assert abs(sum(alone) / 2 - mean()["all"]) > 1e-3


def test_norms_keep_their_tensors_and_get_their_class_back():
    owner, sharing = networks(), SharedStatistics()
    before, kinds = owner.state_dict(keep_vars=True), [type(part) for part in owner.modules()]
    odd = nn.BatchNorm1d(3, affine=False)
    sharing.apply(nn.ModuleList([owner, odd, owner]))
    assert sum(isinstance(part, SharedBatchNorm) for part in owner.modules()) == 4
    assert type(odd) is nn.BatchNorm1d
    assert all(tensor is before[name] for name, tensor in owner.state_dict(keep_vars=True).items())
    sharing.revert(owner)
    assert [type(part) for part in owner.modules()] == kinds
