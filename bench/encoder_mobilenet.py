"""fmn10 against the official maths written plainly: clips per second and peak memory, in float32 and bfloat16."""

import common
import torch
from torch import nn

from sedflow.encoders.mobilenet import MobileNet, _InvertedResidual, _SqueezeExcitation
from sedflow.frontend import kaldi_mel_bank

SECONDS = 10
BATCHES = (1, 4, 8)
MEMORY = """
import sys, torch
sys.path.insert(0, "bench")
from encoder_mobilenet import network, ours, plain, waveforms
with torch.no_grad():
    {candidate}(network(), waveforms(network(), {batch}))
"""


def network():
    """fmn10 in evaluation mode, its norms with the statistics of a batch."""
    torch.manual_seed(0)
    encoder = MobileNet().train()
    for norm in (module for module in encoder.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.momentum = 1.0
    with torch.no_grad():
        encoder(waveforms(encoder, 2))
    return encoder.eval()


def waveforms(encoder, clips):
    return 0.1 * torch.randn(clips, SECONDS * encoder.sample_rate, generator=torch.Generator().manual_seed(clips))


def ours(encoder, waveform):
    return encoder(waveform)


def ours_bf16(encoder, waveform):
    with torch.autocast(waveform.device.type, torch.bfloat16):
        return encoder(waveform).float()


def plain(encoder, waveform):
    """Upstream's order of operations: mel bank made anew, each norm a pass of its own, channels first in memory."""
    maps, tapped = plain_mel(encoder.front_end, waveform * encoder.gain).unsqueeze(1), []
    for number, layer in enumerate(encoder.features):
        maps = plain_block(layer, maps) if isinstance(layer, _InvertedResidual) else one_by_one(layer, maps)
        if number in encoder.taps:
            tapped.append(maps.flatten(1, 2))
    return torch.cat([maps.mean(dim=2), *tapped], dim=1).transpose(1, 2)


def plain_mel(front_end, waveform):
    kernel = torch.tensor([[[-0.97, 1.0]]], device=waveform.device)
    emphasised = nn.functional.conv1d(waveform.unsqueeze(1), kernel).squeeze(1)
    spectrum = torch.stft(
        emphasised, front_end.n_fft, front_end.hop, window=front_end.window, return_complex=True, center=True
    )
    power = (torch.view_as_real(spectrum) ** 2).sum(dim=-1)
    rate = front_end.sample_rate
    bank = kaldi_mel_bank(front_end.bands, front_end.n_fft, rate, 0.0, rate / 2 - 1000).to(waveform.device)
    mel = torch.matmul(bank, power).clamp(min=front_end.floor) + front_end.offset
    return (mel.log() + 4.5) / 5


def plain_block(block, maps):
    filtered = maps
    for part in block.block:
        excites = isinstance(part, _SqueezeExcitation)
        filtered = plain_excitation(part, filtered) if excites else one_by_one(part, filtered)
    return filtered + maps if block.residual else filtered


def plain_excitation(excitation, maps):
    squeezed = nn.functional.relu(excitation.fc1(maps.mean(dim=(2, 3))))
    return maps * torch.sigmoid(excitation.fc2(squeezed))[:, :, None, None]


def one_by_one(modules, maps):
    for module in modules:
        maps = module(maps)
    return maps


def cosine(mine, other):
    return nn.functional.cosine_similarity(mine, other, dim=-1)


def alike(mine, other):
    """Embeddings of one direction, bfloat16's rounding through sixteen random layers allowed."""
    return bool(cosine(mine, other).mean() > 0.97)


@torch.no_grad()
def main():
    encoder = network()
    waveform = waveforms(encoder, 2)
    expected, halved = plain(encoder, waveform), cosine(ours_bf16(encoder, waveform), plain(encoder, waveform))
    difference = ((ours(encoder, waveform) - expected).abs().max() / expected.abs().max()).item()
    sections = [
        common.surroundings("torch"),
        f"Largest difference of float32 embeddings from the plain ones: {difference:.1e} of the largest value. "
        f"Cosine of bfloat16 embeddings with them, random weights: mean {halved.mean():.4f}, least {halved.min():.4f}.",
    ]
    for clips in BATCHES:
        waveform = waveforms(encoder, clips)
        candidates = {
            "sedflow, float32": lambda waveform=waveform: ours(encoder, waveform),
            "plain, float32": lambda waveform=waveform: plain(encoder, waveform),
            "sedflow, bfloat16": lambda waveform=waveform: ours_bf16(encoder, waveform),
        }
        timings = common.compare(candidates, alike, items=clips)
        sections.append(f"## {clips} clips of {SECONDS} s\n\n" + common.table(timings, "clips"))
    peaks = [
        f"| {batch} | " + " | ".join(f"{_peak(candidate, batch):.0f}" for candidate in ("ours", "plain")) + " |"
        for batch in (1, 8)
    ]
    sections.append("\n".join(["| batch | ours, peak MiB | plain, peak MiB |", "|---|---|---|", *peaks]))
    common.write("encoder_mobilenet", "fmn10: embeddings of 10 s clips", sections)


def _peak(candidate, batch):
    return common.peak_memory(MEMORY.format(candidate=candidate, batch=batch))


if __name__ == "__main__":
    main()
