"""The conformer head against torchaudio's Conformer: recorded outputs, and the installed code itself."""

import pytest
import torch
import torchaudio
from vectors import find_vectors

from sedflow.sequence.conformer import Conformer
from sedflow.weights import CheckpointError

VARIANTS = [(False, False), (False, True), (True, False), (True, True)]


def from_config(config, **settings):
    return Conformer(
        config["input_dim"],
        width=config["input_dim"],
        layers=config["num_layers"],
        heads=config["num_heads"],
        feed_forward=config["ffn_dim"],
        kernel=config["depthwise_conv_kernel_size"],
        dropout=config["dropout"],
        group_norm=config["use_group_norm"],
        convolution_first=config["convolution_first"],
        **settings,
    )


def small(group_norm, convolution_first, **settings):
    sizes = {"width": 16, "layers": 2, "heads": 2, "feed_forward": 24, "kernel": 7, "dropout": 0.0}
    return Conformer(16, **sizes, group_norm=group_norm, convolution_first=convolution_first, **settings)


@pytest.fixture(scope="module")
def all_vectors(golden_dir):
    return find_vectors(golden_dir, lambda about: "depthwise_conv_kernel_size" in about.get("config", {}))


@torch.no_grad()
def test_recorded_outputs(all_vectors):
    for vectors in all_vectors:
        head = from_config(vectors.config, padding_leaks=True).eval()
        head.load_official(vectors.weights)
        first = []
        last_of_first = head.conformer.conformer_layers[0].final_layer_norm
        last_of_first.register_forward_hook(lambda norm, given, output, first=first: first.append(output))
        for case, embeddings in vectors.inputs("/x").items():
            lengths = vectors.tensors[f"in/{case}/lengths"]
            padding_mask = torch.arange(embeddings.shape[1]) < lengths.unsqueeze(1)
            output = head(embeddings, padding_mask)
            vectors.check(f"{case}/layer0", first.pop())
            vectors.check(f"{case}/out", output)


@pytest.mark.parametrize(("group_norm", "convolution_first"), VARIANTS)
def test_installed_code_in_training(group_norm, convolution_first):
    torch.manual_seed(0)
    ours = small(group_norm, convolution_first, padding_leaks=True).train()
    theirs = torchaudio.models.Conformer(16, 2, 24, 2, 7, 0.0, group_norm, convolution_first).train()
    ours.load_official(theirs.state_dict())
    embeddings, lengths = torch.randn(3, 30, 16), torch.tensor([30, 12, 25])
    padding_mask = torch.arange(30) < lengths.unsqueeze(1)
    torch.testing.assert_close(ours(embeddings, padding_mask), theirs(embeddings, lengths)[0])


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("group_norm", "convolution_first"), VARIANTS)
def test_padding_changes_nothing(group_norm, convolution_first, training):
    torch.manual_seed(0)
    head = small(group_norm, convolution_first).double().train(training)
    embeddings = torch.randn(2, 20, 16, dtype=torch.double)
    padding = 100 * torch.randn(2, 15, 16, dtype=torch.double)
    padding_mask = (torch.arange(35) < 20).expand(2, -1)
    padded = head(torch.cat((embeddings, padding), dim=1), padding_mask)[:, :20]
    torch.testing.assert_close(padded, head(embeddings))


def test_a_projection_is_not_left_to_chance():
    with pytest.raises(CheckpointError, match=r"missing: project\.bias, project\.weight"):
        Conformer(8, width=16, heads=2, feed_forward=24, kernel=7).load_official(
            torchaudio.models.Conformer(16, 2, 24, 2, 7).state_dict()
        )
