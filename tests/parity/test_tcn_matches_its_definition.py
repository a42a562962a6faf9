"""What the TCN head may see, and how its doubled official tensors are read."""

import pytest
import torch

from sedflow.sequence.tcn import TCN
from sedflow.weights import CheckpointError

REACH = 2 * 2 * (1 + 2 + 4)  # two stacks of three blocks, two convolutions each, one frame times the dilation


def small(**settings):
    torch.manual_seed(0)
    return TCN(6, width=8, layers=2, blocks=3, **settings).double().eval()


@torch.no_grad()
@pytest.mark.parametrize(("causal", "first", "last"), [(True, 0, 2 * REACH), (False, -REACH, REACH)])
def test_a_frame_reaches_as_far_as_the_kernels(causal, first, last):
    head = small(causal=causal)
    embeddings = torch.randn(1, 201, 6, dtype=torch.double)
    changed = embeddings.clone()
    changed[:, 100] += 1
    touched = (head(embeddings) != head(changed)).any(-1).squeeze(0).nonzero().squeeze(1) - 100
    assert first <= touched.min() <= 0
    assert touched.max() <= last
    assert touched.max() > 0
    assert (touched.min() < 0) == (not causal)


@torch.no_grad()
@pytest.mark.parametrize("causal", [True, False])
def test_padding_changes_nothing(causal):
    head = small(causal=causal)
    embeddings, padding = torch.randn(2, 2, 20, 6, dtype=torch.double)
    padded = head(torch.cat((embeddings, padding), dim=1), (torch.arange(40) < 20).expand(2, -1))[:, :20]
    torch.testing.assert_close(padded, head(embeddings))


def official(head):
    """The tensors of a head as EfficientSED stores them, each convolution once."""
    spelling = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    tensors = {}
    for name, tensor in head.state_dict().items():
        part, _, rest = name.partition(".")
        if part == "layers":
            stack, block, rest = rest.split(".", 2)
            for ours, theirs in spelling.items():
                rest = rest.replace(ours, theirs)
            tensors[f"1.layers.{stack}.network.{block}.{rest}"] = tensor
        else:
            tensors[f"0.{rest}"] = tensor
    return tensors


def test_convolutions_may_stand_once_or_twice_but_not_differ():
    source, single = small(), small()
    tensors = official(source)
    twins = {
        name.replace("conv1.", "net.0.").replace("conv2.", "net.4."): tensor.clone()
        for name, tensor in tensors.items()
        if "network" in name
    }
    for stored in (tensors, tensors | twins):
        for parameter in single.parameters():
            torch.nn.init.zeros_(parameter)
        single.load_official(stored)
        assert all(torch.equal(a, b) for a, b in zip(source.parameters(), single.parameters(), strict=True))
    name = next(iter(twins))
    with pytest.raises(CheckpointError, match="should be one tensor"):
        single.load_official(tensors | twins | {name: twins[name] + 1})


def test_even_kernels_are_refused():
    with pytest.raises(ValueError, match="kernel must be odd, got 4"):
        TCN(6, kernel=4)
