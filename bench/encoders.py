"""BEATs, ATST-Frame and PaSST base on 10 s clips, and a training step of the DCASE CRNN, against the official maths.

The reference is that maths written plainly, in the official order of operations: eager attention over all of a batch,
separate projections, the filter bank clip by clip, norms as passes of their own, channels before pixels in memory. It
reads the weights of our encoder, so that both must give the same numbers before they are timed. Each way is timed in a
process of its own: our commands keep the memory that they free, the official codes leave that to the C library.

    python bench/encoders.py [--only beats atst passt crnn] [--batches 1 2 4] [--device cuda --peak-tflops 790]
"""

import argparse
import time

import common
import torch
import torchaudio.compliance.kaldi as kaldi
from own_process import OwnProcess
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from sedflow.beats_layers import relative_bucket
from sedflow.encoders.atst import ATST
from sedflow.encoders.beats import BEATs
from sedflow.encoders.cnn import CNN
from sedflow.encoders.passt import PaSST
from sedflow.precision import full_float32
from sedflow.sequence.bigru import BiGRU

SECONDS, RATE = 10, 16_000
LARGEST_DIFFERENCE, LEAST_COSINE = 1e-4, 0.9998
ENCODERS = {"beats": BEATs, "atst": ATST, "passt": PaSST}
STABILISER = 32  # by which official BEATs divides logits before it subtracts their maximum
CRNN_CLIPS, CLASSES = 12, 10
WAYS = {
    "sedflow, float32": (False, torch.float32),
    "plain, float32": (True, torch.float32),
    "sedflow, bfloat16": (False, torch.bfloat16),
}


# BEATs, as microsoft/unilm computes it


def plain_beats(encoder, waveform):
    front = [kaldi.fbank(clip[None] * 2**15, num_mel_bins=128, sample_frequency=RATE) for clip in waveform]
    features = (torch.stack(front) - 15.41663) / (2 * 6.55582)
    embedding, dtype = encoder.embedding, encoder.embedding.patch_embedding.weight.dtype
    patches = embedding.patch_embedding.weight.view(-1, 1, 16, 16)
    tokens = F.conv2d(features.unsqueeze(1).to(dtype), patches, stride=16).flatten(2).transpose(1, 2)
    tokens = linear(embedding.post_extract_proj, embedding.layer_norm(tokens))
    convolution = embedding.pos_conv
    taps = torch._weight_norm(convolution.weight_v, convolution.weight_g, 2)
    shifted = F.conv1d(
        tokens.transpose(1, 2), taps, convolution.bias, padding=taps.shape[2] // 2, groups=len(taps) // taps.shape[1]
    )
    tokens = embedding.encoder_layer_norm(tokens + F.gelu(shifted[..., : tokens.shape[1]]).transpose(1, 2))
    bias = plain_bias(embedding, *tokens.shape[:2])
    tokens = tokens.transpose(0, 1)  # (tokens, batch, dim), not contiguous in the first block
    for block in encoder.blocks:
        attended = plain_beats_attention(block.self_attn, tokens, bias)
        tokens = block.self_attn_layer_norm(tokens * block.alpha + attended)
        wide = F.gelu(linear(block.fc1, tokens))
        tokens = block.final_layer_norm(tokens * block.alpha + linear(block.fc2, wide))
    frames = encoder.grid.frames(SECONDS)
    return F.adaptive_avg_pool1d(tokens.transpose(0, 1).transpose(1, 2), frames).transpose(1, 2)


def plain_bias(embedding, clips, count):
    positions = torch.arange(count, device=embedding.relative_attention_bias.weight.device)
    buckets = relative_bucket(positions[None] - positions[:, None], embedding.buckets, embedding.max_distance)
    bias = embedding.relative_attention_bias(buckets).permute(2, 0, 1)
    return bias.unsqueeze(0).repeat(clips, 1, 1, 1).view(-1, count, count)


def plain_beats_attention(layer, tokens, bias):
    count, clips, dim = tokens.shape
    width, rows = dim // layer.heads, clips * layer.heads
    projected = [
        F.linear(tokens, weight, offset)
        for weight, offset in zip(layer.qkv.weight.chunk(3), layer.qkv.bias.chunk(3), strict=True)
    ]
    scale = width**-0.5
    projected[0] = projected[0] * scale / STABILISER
    queries, keys, values = (part.contiguous().view(count, rows, width).transpose(0, 1) for part in projected)
    logits = torch.bmm(queries, keys.transpose(1, 2))
    logits = (logits - logits.max(dim=-1, keepdim=True)[0]) * STABILISER
    unscaled = queries.view(clips, layer.heads, count, width) * STABILISER / scale
    halves = linear(layer.grep_linear, unscaled).view(clips, layer.heads, count, 2, 4).sum(-1)
    first, second = torch.sigmoid(halves).chunk(2, dim=-1)
    gate = first * (second * layer.grep_a - 1.0) + 2.0
    weights = F.softmax(logits + gate.view(rows, -1, 1) * bias, dim=-1).type_as(logits)
    mixed = torch.bmm(weights, values).transpose(0, 1).contiguous().view(count, clips, dim)
    return linear(layer.out_proj, mixed)


# vision transformers, as timm computed them when ATST-Frame and PaSST were written


def plain_atst(encoder, waveform):
    tokens = encoder.embedding(encoder.features(encoder.spectrogram(waveform)))
    for block in encoder.blocks:
        tokens = plain_block(block, tokens)
    return encoder.norm_frame(tokens)


def plain_passt(encoder, waveform):
    patches, positions = encoder.embedding
    maps = encoder.front_end(waveform).unsqueeze(1).to(patches.proj.weight.dtype)
    for convolution in (patches.conv_in_1, patches.conv_in_2, patches.conv_in_3):
        maps = F.gelu(convolution(maps))
    maps = maps.reshape(len(maps), -1, patches.bands, maps.shape[3])
    columns = F.conv2d(maps, patches.proj.weight, patches.proj.bias, padding=(0, 1))[..., 1:]
    tokens = positions(columns.flatten(2).transpose(1, 2))
    for block in encoder.blocks:
        tokens = plain_block(block, tokens)
    return encoder.norm(tokens)[:, 2:]


def plain_block(block, tokens):
    layer = block.attn
    joint = linear(layer.qkv, block.norm1(tokens))
    queries, keys, values = joint.reshape(*joint.shape[:2], 3, layer.heads, -1).permute(2, 0, 3, 1, 4)
    weights = ((queries @ keys.transpose(-2, -1)) * queries.shape[-1] ** -0.5).softmax(dim=-1)
    tokens = tokens + linear(layer.proj, (weights @ values).transpose(1, 2).flatten(2))
    return tokens + linear(block.mlp.fc2, F.gelu(linear(block.mlp.fc1, block.norm2(tokens))))


def linear(layer, features):
    return F.linear(features, layer.weight, layer.bias) if isinstance(layer, nn.Linear) else layer(features)


PLAIN = {"beats": plain_beats, "atst": plain_atst, "passt": plain_passt}


# the DCASE CRNN


class CRNN(nn.Module):
    """CNN, two recurrent layers, frame probabilities; ``plain``: as DESED_task orders its operations."""

    def __init__(self, plain, dropout):
        super().__init__()
        torch.manual_seed(0)
        self.cnn = CNN(dropout=dropout)
        self.recurrent = BiGRU(self.cnn.dim)
        self.reading = nn.Linear(256, CLASSES)
        self.plain = plain

    def forward(self, features):
        """(clips, bands, time) → logits (clips, frames, classes)."""
        embeddings = plain_cnn(self.cnn, features) if self.plain else self.cnn.encode(features)
        states = self.recurrent.gru(embeddings)[0] if self.plain else self.recurrent(embeddings)
        return self.reading(states)


def plain_cnn(cnn, features):
    maps = features.transpose(1, 2).unsqueeze(1)
    for block in cnn.blocks:
        maps = block.norm(block.conv(maps.contiguous()))
        gate = block.gate.linear(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        maps = F.avg_pool2d(F.dropout(maps * torch.sigmoid(gate), block.dropout.p, block.training), block.pool)
    return maps.squeeze(-1).permute(0, 2, 1)


def training_step(way, device, dropout=0.5):
    """A function that takes one step and returns its loss."""
    plain, dtype = WAYS[way]
    network = CRNN(plain, dropout).to(device).train()
    optimizer = torch.optim.Adam(network.parameters())
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(CRNN_CLIPS, 128, 626, generator=generator).to(device)
    targets = (torch.rand(CRNN_CLIPS, 156, CLASSES, generator=generator) > 0.9).float().to(device)

    @full_float32()
    def step():
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            logits = network(features)
        loss = F.binary_cross_entropy_with_logits(logits.float(), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


# what is timed


def network(name, dtype=torch.float32, device="cpu"):
    torch.manual_seed(0)
    return ENCODERS[name]().eval().to(device, dtype)


def waveforms(clips, device="cpu"):
    return 0.1 * torch.randn(clips, SECONDS * RATE, generator=torch.Generator().manual_seed(clips)).to(device)


def alike(mine, other):
    """Float32 number for number; bfloat16, which one of the two may be, in direction."""
    if mine.dtype == other.dtype == torch.float32:
        return bool((mine - other).abs().max() <= LARGEST_DIFFERENCE)
    return bool(F.cosine_similarity(mine.float(), other.float(), dim=-1).min() >= LEAST_COSINE)


def reading(name, way, clips, device):
    """A function that reads ``clips`` waveforms and returns their embeddings."""
    plain, dtype = WAYS[way]
    encoder, waveform = network(name, dtype, device), waveforms(clips, device)
    read = PLAIN[name] if plain else type(encoder).__call__

    @torch.no_grad()
    @full_float32()
    def embeddings():
        return done(read(encoder, waveform))

    return embeddings


def timed_alone(build, arguments, device, items):
    """Timings of our float32, plain and our bfloat16, ours with memory handled as our commands handle it."""
    ways = {way: OwnProcess(build, *arguments(way), device, keeps_pages="sedflow" in way) for way in WAYS}
    timings = common.compare(ways, lambda mine, other: True, items=items)
    for way in ways.values():
        way.end()
    return timings


def encoder_section(name, batches, device, peak_tflops):
    """Clips per second of one encoder, ours and plainly written, in float32 and ours in bfloat16."""
    embeddings = {way: reading(name, way, 2, device)() for way in WAYS}
    ours = embeddings["sedflow, float32"]
    if not all(alike(ours, other) for other in embeddings.values()):
        raise common.UnequalError(f"{name}: the ways of computing embeddings do not agree")
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        PLAIN[name](network(name, device=device), waveforms(1, device))
    gigaflops = counted.get_total_flops() / 1e9
    parts = [f"## {name}", f"{gigaflops:.0f} GFLOP per clip of {SECONDS} s."]
    rates = {}
    for clips in batches:
        arguments = lambda way, clips=clips: (name, way, clips)  # noqa: E731
        ours, plain, ours_half = timed_alone(silent_reading, arguments, device, clips)
        parts.append(f"Batch of {clips}:\n\n" + common.table([ours, plain], "clips"))
        parts.append(common.table([ours_half, plain], "clips"))
        for timing in (ours, plain, ours_half):
            rates[timing.name] = max(rates.get(timing.name, 0.0), clips / timing.median)
    peak = peak_tflops or alone(widest_product, name, device)
    parts.append(best_batches(rates, gigaflops / 1e3, peak, "the peak" if peak_tflops else "its widest layer alone"))
    if device == "cpu":
        parts.append(memory_table(name))
    return parts


def silent_reading(name, way, clips, device):
    """`reading` that keeps its embeddings, so that no process has to pass them on."""
    read = reading(name, way, clips, device)
    return lambda: bool(len(read()))


def best_batches(rates, teraflops, peak, of_what):
    """Ratios at the best batch of each, and how far the chip's products let bfloat16 come."""
    plain, ours_half = rates["plain, float32"], rates["sedflow, bfloat16"]
    return (
        f"At the best batch of each, ours is faster by {rates['sedflow, float32'] / plain:.2f}× in float32 and "
        f"{ours_half / plain:.2f}× in bfloat16, which computes {ours_half * teraflops:.3g} TFLOP/s, "
        f"{ours_half * teraflops / peak:.0%} of {peak:.3g} ({of_what}); with nothing but products at that rate it "
        f"would be {peak / teraflops / plain:.2f}×."
    )


def alone(build, *arguments):
    """What the function that ``build(*arguments)`` returns gives in a process of its own, with memory kept."""
    process = OwnProcess(build, *arguments, keeps_pages=True)
    result = process()
    process.end()
    return result


def widest_product(name, device):
    """A function that returns `product_teraflops` of an encoder in bfloat16."""
    block = network(name, torch.bfloat16, device).blocks[0]
    return lambda: product_teraflops(block, device)


@torch.no_grad()  # as embeddings are computed, with a weight that is prepared for products
def product_teraflops(block, device):
    """TFLOP/s of the first layer of a block's perceptron on 500 tokens, the best of 50 calls."""
    layer = getattr(block, "mlp", block).fc1
    features = torch.randn(500, layer.in_features, device=device, dtype=layer.weight.dtype)
    seconds = []
    for _ in range(50):
        start = time.perf_counter()
        done(layer(features))
        seconds.append(time.perf_counter() - start)
    return 2 * features.numel() * layer.out_features / min(seconds) / 1e12


def done(embeddings):
    """The embeddings, once a GPU has computed them."""
    if embeddings.is_cuda:
        torch.cuda.synchronize()
    return embeddings


MEMORY = """
import sys, torch
sys.path.insert(0, "bench")
from encoders import PLAIN, network, waveforms
encoder = network("{name}", {dtype})
with torch.no_grad():
    {call}
"""


def memory_table(name):
    calls = {
        "sedflow, float32": ("torch.float32", "encoder(waveforms({clips}))"),
        "plain, float32": ("torch.float32", "PLAIN['{name}'](encoder, waveforms({clips}))"),
        "sedflow, bfloat16": ("torch.bfloat16", "encoder(waveforms({clips}))"),
    }
    rows = ["| peak MiB | batch 1 | batch 8 |", "|---|---|---|"]
    for title, (dtype, call) in calls.items():
        codes = [MEMORY.format(name=name, dtype=dtype, call=call.format(name=name, clips=clips)) for clips in (1, 8)]
        rows.append(f"| {title} | " + " | ".join(f"{common.peak_memory(code):.0f}" for code in codes) + " |")
    return "\n".join(rows)


def crnn_section(device):
    """Clips per second of a training step, ours in float32 and under bfloat16 autocast, and plainly written."""
    # without chance all ways have one result
    losses = [training_step(way, device, dropout=0.0)() for way in WAYS]
    if max(losses) - min(losses) > 1e-2 * max(losses):
        raise common.UnequalError(f"one step, and these losses: {losses}")
    ours, plain, ours_half = timed_alone(training_step, lambda way: (way,), device, CRNN_CLIPS)
    title = f"## CRNN (cnn + BiGRU), training step of {CRNN_CLIPS} clips, dropout 0.5"
    return [title, common.table([ours, plain], "clips"), common.table([ours_half, plain], "clips")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[*ENCODERS, "crnn"], default=[*ENCODERS, "crnn"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--peak-tflops", type=float, default=0.0)
    arguments = parser.parse_args()
    sections = [common.surroundings("torch", "torchaudio")]
    for name in arguments.only:
        if name == "crnn":
            sections += crnn_section(arguments.device)
        else:
            sections += encoder_section(name, arguments.batches, arguments.device, arguments.peak_tflops)
    page = "encoders" if arguments.device == "cpu" else f"encoders_{arguments.device.partition(':')[0]}"
    common.write(page, "Encoders: embeddings of 10 s clips, and a training step", sections)


if __name__ == "__main__":
    main()
