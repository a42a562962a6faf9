"""What every sequence head in the folder holds."""

import pytest
import torch

from sedflow import plugins

NAMES = plugins.names("sequence")
DIM = 24


@pytest.fixture(params=NAMES)
def head(request):
    torch.manual_seed(0)
    return plugins.build("sequence", {"name": request.param}, DIM).eval()


@pytest.fixture(params=[name for name in NAMES if name != "identity"])
def trained_head(request):
    torch.manual_seed(0)
    return plugins.build("sequence", {"name": request.param}, DIM).eval()


def embeddings(clips, frames, seed=0):
    return torch.randn(clips, frames, DIM, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 2, 7, 63, 250])
def test_as_many_frames_come_out_as_go_in(head, frames):
    sequence = head(embeddings(2, frames))
    assert sequence.shape == (2, frames, head.dim)
    assert sequence.isfinite().all()


@torch.no_grad()
def test_what_stands_in_the_padding_does_not_change_a_clip(head):
    real = 37
    mask = torch.arange(50).expand(3, -1) < torch.tensor([[real], [50], [1]])
    padded = embeddings(3, 50)
    otherwise = torch.where(mask.unsqueeze(-1), padded, 100 * embeddings(3, 50, seed=1))
    expected, changed = head(padded, mask)[mask], head(otherwise, mask)[mask]
    torch.testing.assert_close(changed, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_padded_clip_is_scored_as_it_is_alone(head):
    real = 40
    mask = (torch.arange(64) < real).expand(2, -1)
    padded = embeddings(2, 64)
    alone = head(padded[:, :real])
    torch.testing.assert_close(head(padded, mask)[:, :real], alone, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_a_mask_without_padding_changes_nothing(head):
    whole = embeddings(2, 30)
    masked = head(whole, torch.ones(2, 30, dtype=torch.bool))
    torch.testing.assert_close(masked, head(whole), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_batch_mates_do_not_change_a_clip(head):
    clip = embeddings(1, 30)
    among = head(torch.cat([clip, 10 * embeddings(2, 30, seed=1)]))
    torch.testing.assert_close(among[:1], head(clip), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_half_precision_stays_finite(head):
    with torch.autocast("cpu", torch.bfloat16):
        for scale in (0.0, 1.0, 1e4):
            assert head(scale * embeddings(2, 30)).isfinite().all()


def test_overfits_a_tiny_batch(trained_head):
    head = trained_head
    torch.manual_seed(0)
    head.train()
    given = embeddings(2, 40)
    wanted = (torch.rand(2, 8, 3) < 0.5).float().repeat_interleave(5, dim=1)
    # the reading stays as it was drawn: only the head can learn
    reading = 2 * torch.nn.functional.normalize(torch.randn(3, head.dim))
    optimizer = torch.optim.Adam(head.parameters(), lr=2e-3)
    losses = []
    for _ in range(80):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(head(given) @ reading.T, wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.4 * losses[0], losses


def test_what_a_head_says_of_a_frame_depends_on_others(trained_head):
    given = embeddings(1, 40).requires_grad_()
    trained_head(given)[0, 30].square().sum().backward()
    moved_by = given.grad[0].abs().sum(dim=1)
    assert (moved_by[:30] > 0).sum() >= 5, moved_by


def test_gradient_reaches_every_parameter(trained_head):
    head = trained_head
    head(embeddings(2, 30)).square().mean().backward()
    unreached = [name for name, weight in head.named_parameters() if weight.requires_grad and weight.grad is None]
    assert not unreached
