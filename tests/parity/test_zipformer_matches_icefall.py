"""The zipformer head against icefall's Zipformer2: every recorded layer, and what our own default does with padding."""

import itertools

import pytest
import torch
from vectors import find_vectors

from sedflow.sequence.zipformer import Zipformer
from sedflow.weights import CheckpointError

NAMES = {
    "downsampling": "downsampling_factor",
    "widths": "encoder_dim",
    "layers": "num_encoder_layers",
    "heads": "num_heads",
    "feed_forward": "feedforward_dim",
    "kernels": "cnn_module_kernel",
    "query_dims": "query_head_dim",
    "position_dims": "pos_head_dim",
    "value_dims": "value_head_dim",
}


def settings_of(config):
    settings = {ours: tuple(config["encoder"][theirs]) for ours, theirs in NAMES.items()}
    return settings | {
        "position_dim": config["encoder"]["pos_dim"],
        "output_downsampling": config["output_downsampling_factor"],
    }


def from_config(config, **settings):
    embed = config["encoder_embed"]
    channels = tuple(embed[f"layer{k}_channels"] for k in (1, 2, 3))
    return Zipformer(embed["in_channels"], channels=channels, **settings_of(config), **settings)


@pytest.fixture(scope="module")
def all_vectors(golden_dir):
    return find_vectors(golden_dir, lambda about: "encoder_unmasked_dim" in about.get("config", {}).get("encoder", {}))


def record(head):
    """Let the parts of a head write what they give into a dictionary with the names of the vectors."""
    seen = {}

    def remember(name):
        return lambda part, given, output: seen.update({name: output})

    head.encoder_embed.convnext.register_forward_hook(remember("convnext"))
    for k, stack in enumerate(head.encoder.encoders):
        stack.register_forward_hook(remember(f"stack{k}"))
        for n, layer in enumerate(getattr(stack, "encoder", stack).layers):
            layer.register_forward_hook(remember(f"stack{k}_layer{n}"))
            layer.self_attn_weights.register_forward_hook(remember(f"stack{k}_layer{n}_attn_weights"))
    return seen


@torch.no_grad()
def test_recorded_outputs(all_vectors):
    for vectors in all_vectors:
        head = from_config(vectors.config, padding_leaks=True).eval()
        assert head.load_official(vectors.weights) == vectors.about["weights_without_effect"]
        seen = record(head)
        for case, features in vectors.inputs("/feats").items():
            embedded = head.encoder_embed(features)
            lengths = vectors.output(f"{case}/embed_lens")
            padding_mask = torch.arange(embedded.shape[1]) < lengths.unsqueeze(1)
            seen["encoder_out"] = head.encoder(embedded, padding_mask)
            seen["embed"] = embedded
            for name in vectors.about["outputs"]:
                part = name.removeprefix(f"{case}/")
                if part != name and not part.endswith("_lens"):
                    vectors.check(name, seen[part].transpose(0, 1) if part.endswith("weights") else seen[part])


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 2, 23, 40])
@pytest.mark.parametrize("convolutional", [False, True])
def test_padding_changes_nothing(all_vectors, convolutional, frames):
    config = all_vectors[0].config
    dim = config["encoder_embed"]["in_channels"]
    head = (from_config(config) if convolutional else Zipformer(dim, **settings_of(config))).double().eval()
    torch.manual_seed(0)
    embeddings = torch.randn(1, frames, dim, dtype=torch.double)
    padded = torch.cat((embeddings, 100 * torch.randn(1, 17, dim, dtype=torch.double)), dim=1)
    padding_mask = torch.arange(frames + 17).unsqueeze(0) < frames
    assert head(embeddings).shape == (1, frames, head.dim)
    torch.testing.assert_close(head(padded, padding_mask)[:, :frames], head(embeddings))


def test_a_linear_input_leaves_the_convolutional_one_out_and_says_so(all_vectors):
    vectors = all_vectors[0]
    head = Zipformer(20, **settings_of(vectors.config))
    ignored = head.load_official(vectors.weights)
    assert {name.partition(".")[0] for name in ignored if name not in vectors.about["weights_without_effect"]} == {
        "encoder_embed"
    }
    assert len(ignored) + len(head.encoder.state_dict()) == len(vectors.weights)


def test_missing_and_foreign_tensors_are_listed(all_vectors):
    vectors = all_vectors[0]
    weights = dict(vectors.weights)
    lost = next(name for name in weights if name.endswith("out_combiner.bypass_scale"))
    weights["joiner.weight"] = weights.pop(lost)
    with pytest.raises(CheckpointError, match=rf"(?s)missing: {lost}.*unexpected: joiner\.weight"):
        from_config(vectors.config).load_official(weights)


def test_widest_outputs_win_from_the_last_stack_on():
    head = Zipformer(
        8, downsampling=(1, 1, 1), widths=(24, 16, 8), layers=(1,), heads=(4,), feed_forward=(16,), kernels=(3,)
    )
    seen = []
    for stack in head.encoder.encoders:
        stack.register_forward_hook(lambda part, given, output: seen.append(output))
    result = head.eval()(torch.randn(1, 5, 8))
    first, second, third = seen
    torch.testing.assert_close(result, torch.cat((third, second[..., 8:], first[..., 16:]), dim=-1))


def test_regularisers_rest_unless_asked_for():
    sizes = {"downsampling": (1, 2), "widths": (16,), "layers": (1,), "heads": (4,), "feed_forward": (16,)}
    sizes |= {"kernels": (3,), "dropout": 0.0, "skip": 0.0}
    gradients = {}
    for regularise, training in itertools.product([False, True], [False, True]):
        torch.manual_seed(0)
        head = Zipformer(8, **sizes, regularise=regularise).train(training)
        embeddings = torch.randn(2, 12, 8)
        output = head(embeddings)
        output.square().sum().backward()
        gradients[regularise, training] = output, torch.cat([p.grad.flatten() for p in head.encoder.parameters()])
    assert all(torch.equal(output, gradients[False, False][0]) for output, _ in gradients.values())
    assert torch.equal(gradients[True, False][1], gradients[False, False][1])
    assert not torch.equal(gradients[True, True][1], gradients[False, True][1])
