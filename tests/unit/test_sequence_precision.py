"""Every head in half precision, on silence, on much too large embeddings, on a clip of padding alone."""

import contextlib

import pytest
import torch

from sedflow import plugins

DIM = 20
HEADS = plugins.names("sequence")
PRECISIONS = {
    "float32": contextlib.nullcontext,
    "bfloat16": lambda: torch.autocast("cpu", torch.bfloat16),
    "float16": lambda: torch.autocast("cpu", torch.float16),
}


def head_of(name, **settings):
    if "width" in plugins.settings_of("sequence", name):
        settings["width"] = 64
    torch.manual_seed(0)
    return plugins.build("sequence", {"name": name, **settings}, DIM)


def embeddings_of(frames=60):
    return torch.randn(2, frames, DIM, generator=torch.Generator().manual_seed(1))


def likeness(one, other):
    """Smallest cosine of any frame."""
    return torch.nn.functional.cosine_similarity(one.float(), other.float(), dim=-1).min()


@torch.no_grad()
@pytest.mark.parametrize("name", HEADS)
def test_evaluation_is_deterministic(name):
    head = head_of(name).eval()
    assert torch.equal(head(embeddings_of()), head(embeddings_of()))


@torch.no_grad()
@pytest.mark.parametrize("name", HEADS)
def test_bfloat16_weights_stay_close(name):
    head = head_of(name).eval()
    expected = head(embeddings_of())
    actual = head.bfloat16()(embeddings_of().bfloat16())
    assert actual.dtype == torch.bfloat16
    assert likeness(actual, expected) > 0.995


@torch.no_grad()
@pytest.mark.parametrize("name", ["attention", "transformer"])
def test_bfloat16_weights_stay_close_far_into_a_recording(name):
    head = head_of(name).eval()
    for part in head.modules():
        if hasattr(part, "to_qkv"):
            torch.nn.init.normal_(part.to_qkv.weight, std=0.2)  # attention that is not almost flat, as if trained
    expected = head(embeddings_of(2_500))
    assert likeness(head.bfloat16()(embeddings_of(2_500).bfloat16()), expected) > 0.995


@torch.no_grad()
@pytest.mark.parametrize("name", HEADS)
def test_mixed_precision_stays_close(name):
    head = head_of(name).eval()
    expected = head(embeddings_of())
    with torch.autocast("cpu", torch.bfloat16):
        assert likeness(head(embeddings_of()), expected) > 0.995


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e3])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", HEADS)
def test_output_and_gradients_are_finite(name, precision, scale):
    head = head_of(name).train()
    embeddings = (scale * embeddings_of()).requires_grad_()
    padding_mask = torch.arange(60) < torch.tensor([[60], [33]])
    with PRECISIONS[precision]():
        output = head(embeddings, padding_mask)
    assert output.isfinite().all()
    if precision == "float16":
        return  # its gradients need a scaler, which skips a step that overflows
    output[padding_mask].float().square().mean().backward()
    gradients = {n: p.grad for n, p in head.named_parameters() if p.requires_grad}
    assert embeddings.grad.isfinite().all()
    assert [n for n, gradient in gradients.items() if gradient is None or not gradient.isfinite().all()] == []


@pytest.mark.parametrize(
    "spec", [{"name": name} for name in HEADS if name != "identity"] + [{"name": "conformer", "group_norm": True}]
)
def test_a_clip_of_padding_alone_stays_finite(spec):
    head = head_of(**spec).train()
    padding_mask = torch.tensor([[True], [False]]).expand(-1, 60)
    output = head(embeddings_of(), padding_mask)
    assert output.isfinite().all()
    output[padding_mask].square().mean().backward()
    assert all(p.grad.isfinite().all() for p in head.parameters() if p.grad is not None)


@torch.no_grad()
@pytest.mark.parametrize("settings", [{}, {"group_norm": True}, {"group_norm": True, "convolution_first": True}])
def test_a_conformer_of_bfloat16_weights_takes_padded_clips(settings):
    head = head_of("conformer", **settings).eval()
    mask = torch.arange(60) < torch.tensor([[60], [37]])
    expected = head(embeddings_of(), mask)
    actual = head.bfloat16()(embeddings_of().bfloat16(), mask)
    assert actual.dtype == torch.bfloat16
    assert likeness(actual[mask], expected[mask]) > 0.995


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("padded", [False, True])
def test_autocast_leaves_torchs_recurrent_layers_alone(monkeypatch, padded, half):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)  # a compiled head takes the way of a GPU
    head, embeddings = head_of("bigru"), embeddings_of()
    mask = torch.arange(embeddings.shape[1]).expand(len(embeddings), -1) < 50 if padded else None
    exact, seen = head(embeddings, mask), []
    head.gru.register_forward_pre_hook(lambda module, given: seen.append(torch.is_autocast_enabled("cpu")))
    with torch.autocast("cpu", half):
        halved = head(embeddings.to(half), mask)
        assert torch.equal(head(embeddings, mask), exact)
    assert halved.dtype == half and (halved.float() - exact).abs().max() < 0.02
    assert seen == [False, False]
