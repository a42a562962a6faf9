"""MobileNetV3 on log mel, one embedding per 40 ms: the frame-wise fmn and EfficientAT's mn, at every width."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import nn

from sedflow.frames import FrameGrid
from sedflow.frontend import LogMel
from sedflow.layers import at_least_float32
from sedflow.official import all_tensors, part_of, part_or_refusal, role_of, unwrapped
from sedflow.precision import InFloat32
from sedflow.waveform import checked, completed
from sedflow.weights import CheckpointError, load_strict, read_checkpoint

# kernel, expanded channels, output channels, squeeze-excitation?, activation: MobileNetV3-Large at width 1
_BLOCKS = [
    (3, 16, 16, False, nn.ReLU),
    (3, 64, 24, False, nn.ReLU),
    (3, 72, 24, False, nn.ReLU),
    (5, 72, 40, True, nn.ReLU),
    (5, 120, 40, True, nn.ReLU),
    (5, 120, 40, True, nn.ReLU),
    (3, 240, 80, False, nn.Hardswish),
    (3, 200, 80, False, nn.Hardswish),
    (3, 184, 80, False, nn.Hardswish),
    (3, 184, 80, False, nn.Hardswish),
    (3, 480, 112, True, nn.Hardswish),
    (3, 672, 112, True, nn.Hardswish),
    (5, 672, 160, True, nn.Hardswish),
    (5, 960, 160, True, nn.Hardswish),
    (5, 960, 160, True, nn.Hardswish),
]
_LAST = len(_BLOCKS) + 1  # number of the last convolution; the stem is 0

# layers that halve frequency, layers that halve time, layers behind which time is dilated twofold instead
_STRIDES = {
    "framewise": ((0, 2, 3, 6, 8, 11, 15), (0, 2), ()),
    "dilated": ((0, 2, 4, 7, 13), (0, 2), (4, 7, 13)),
    "published": ((0, 2, 4, 7, 13), (0, 2, 4, 7, 13), ()),
}

FRONT_ENDS = {
    "fmn": {"sample_rate": 16000, "n_fft": 512, "window": 400, "hop": 160, "floor": 1e-7},
    "efficientat": {"sample_rate": 32000, "n_fft": 1024, "window": 800, "hop": 320, "offset": 1e-5},
}

# what stands beside the features in files of EfficientSED and PretrainedSED
_PARTS = ("seq_model", "strong_head", "weak_head")


# EfficientAT names files of other front ends so: mn10_as_hop_15, mn10_as_mels_64
_NAMED_FRONT_END = re.compile(r"_(hop|mels)_(\d+)")
_FRONT_END_IN_NAMES = {"hop": 10, "mels": 128}  # of those without: milliseconds, bands


def check_named_front_end(path: str | Path) -> None:
    """Refuse a file of EfficientAT that by its name was trained on another front end: its tensors do not tell."""
    for what, number in _NAMED_FRONT_END.findall(Path(path).name):
        if int(number) != _FRONT_END_IN_NAMES[what]:
            theirs = f"every {number} ms" if what == "hop" else f"of {number} bands"
            raise CheckpointError(
                f"{path}: by its name its weights were trained on a spectrum {theirs}, which no front end here gives: "
                "they have 128 bands every 10 ms; take a file of EfficientAT without _hop_ or _mels_ in its name"
            )


def channels_of(count: float) -> int:
    """The nearest multiple of 8, at least 8, never less than nine tenths of ``count``."""
    rounded = max(8, int(count + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * count else rounded


class _Norm(InFloat32, nn.BatchNorm2d):
    pass


class _ConvNorm(nn.Sequential):
    """Convolution, batch norm, activation."""

    def __init__(self, channels_in, channels_out, kernel, activation, *, stride=(1, 1), dilation=1, groups=1):
        reach = (kernel - 1) // 2
        convolution = nn.Conv2d(
            channels_in,
            channels_out,
            kernel,
            stride=stride,
            padding=(reach, reach * dilation),
            dilation=(1, dilation),
            groups=groups,
            bias=False,
        )
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out")
        super().__init__(convolution, _Norm(channels_out, eps=1e-3, momentum=0.01), activation)

    def forward(self, maps):
        convolution, norm, activation = self
        if norm.training:
            return activation(norm(self._convolved(maps, convolution.weight, None)))
        # fixed statistics: the norm is part of the convolution, and no extra pass over the maps is needed
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        shift = norm.bias - norm.running_mean * scale
        weight = convolution.weight
        return activation(
            self._convolved(maps, (weight * scale[:, None, None, None]).to(weight.dtype), shift.to(weight.dtype))
        )

    def _convolved(self, maps, weight, bias):
        convolution = self[0]
        dilation = convolution.dilation
        if maps.device.type == "cpu":
            if convolution.groups > 1 and torch.is_grad_enabled():
                return _depthwise_in_float32(convolution, maps, weight, bias)
            if convolution.kernel_size == (1, 1):
                # means nothing to one tap, but makes PyTorch use oneDNN where a thread alone would get a slower kernel
                dilation = (2, 2)
        return nn.functional.conv2d(
            maps, weight, bias, convolution.stride, convolution.padding, dilation, convolution.groups
        )


def _depthwise_in_float32(layer, maps, weight, bias):
    """The convolution of ``layer`` for training: gradients in bfloat16 take oneDNN two to eight times as long."""
    with torch.autocast("cpu", enabled=False):
        exact = (part if part is None else at_least_float32(part) for part in (maps, weight, bias))
        filtered = nn.functional.conv2d(*exact, layer.stride, layer.padding, layer.dilation, layer.groups)
    return filtered.to(maps.dtype)


class _SqueezeExcitation(nn.Module):
    """Scale each channel by a gate that sees the mean of all channels over the clip."""

    def __init__(self, channels, squeezed):
        super().__init__()
        self.fc1 = nn.Linear(channels, squeezed)
        self.fc2 = nn.Linear(squeezed, channels)
        for layer in (self.fc1, self.fc2):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)

    def forward(self, maps):
        gate = torch.sigmoid(self.fc2(torch.relu(self.fc1(maps.mean(dim=(2, 3))))))
        return maps * gate[:, :, None, None]


class _InvertedResidual(nn.Module):
    """Expand, filter each channel, squeeze-excite, project; added to the input where the shapes agree."""

    def __init__(self, channels_in, channels, *, kernel, excite, activation, stride, dilation):
        super().__init__()
        expanded, channels_out = channels
        self.residual = stride == (1, 1) and channels_in == channels_out
        depthwise = _ConvNorm(
            expanded, expanded, kernel, activation(inplace=True), stride=stride, dilation=dilation, groups=expanded
        )
        expand = [_ConvNorm(channels_in, expanded, 1, activation(inplace=True))] if expanded != channels_in else []
        squeeze = [_SqueezeExcitation(expanded, channels_of(expanded // 4))] if excite else []
        self.block = nn.Sequential(*expand, depthwise, *squeeze, _ConvNorm(expanded, channels_out, 1, nn.Identity()))

    def forward(self, maps):
        return maps + self.block(maps) if self.residual else self.block(maps)


class MobileNet(nn.Module):
    """MobileNetV3-Large whose output keeps the time axis.

    Parameters
    ----------
    width : float
        Multiplies the channels: 0.4, 0.6, 1, 2, 3 are fmn04 … fmn30; mn04 … likewise.
    front_end : str
        "fmn" (16 kHz) or "efficientat" (32 kHz).
    strides : str
        Must be what the weights were trained with, or its equivalent. "framewise": fmn, 25 Hz. "published": MobileNetV3
        and EfficientAT's mn, 3.125 Hz. "dilated": for the same weights at 25 Hz, each time stride that is taken away
        becomes a dilation of the layers behind it, so that every filter still sees the spacing it was trained with.
    gain_db : float
        Applied to the waveform; log mel is level-dependent and soundscapes are quieter than AudioSet.
    taps : list of int, optional
        Blocks (1–15) whose maps, frequency flattened into channels, are appended to the last convolution's output,
        which is averaged over frequency.
    mel_jitter : bool
        In training, shift the edges of the mel bank at random, batch by batch, as upstream does.

    Source
    ------
    theMoro/EfficientSED 7bef42e models/efficient_cnns/fmn; fschmid56/EfficientAT models/mn
    """

    def __init__(
        self,
        *,
        width: float = 1.0,
        front_end: str = "fmn",
        strides: str = "framewise",
        gain_db: float = 0.0,
        taps: list[int] | None = None,
        mel_jitter: bool = False,
    ):
        super().__init__()
        if front_end not in FRONT_ENDS:
            raise ValueError(f"front_end {front_end!r} is none of {', '.join(FRONT_ENDS)}")
        if strides not in _STRIDES:
            raise ValueError(f"strides {strides!r} is none of {', '.join(_STRIDES)}")
        halve_frequency, halve_time, _ = _STRIDES[strides]
        self.taps = set(taps or ())
        if not self.taps <= set(range(halve_time[-1], _LAST)):
            raise ValueError(f"taps {taps}: only blocks {halve_time[-1]}–{_LAST - 1} have the frame rate of the output")
        # "dilated" is another reading of the weights that "published" strides were trained with
        self.trained_with = {"front_end": front_end, "strides": "published" if strides == "dilated" else strides}
        self.gain = 10 ** (gain_db / 20)
        self.front_end = LogMel(**FRONT_ENDS[front_end], jitter=mel_jitter)
        self.features = _features(width, *_STRIDES[strides])
        self.sample_rate = self.front_end.sample_rate
        self.frame_rate = self.sample_rate / self.front_end.hop / 2 ** len(halve_time)
        heights = {tap: self.front_end.bands >> sum(layer <= tap for layer in halve_frequency) for tap in self.taps}
        tapped = sum(channels_of(width * _BLOCKS[tap - 1][2]) * height for tap, height in heights.items())
        self.dim = self.features[_LAST][0].out_channels + tapped

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        """(batch, samples) → (batch, frames, dim)."""
        return self.embed(self.log_mel(waveform))

    def log_mel(self, waveform: torch.Tensor) -> torch.Tensor:
        """(batch, samples) → what the network reads, (batch, bands, time)."""
        return self.front_end(checked(waveform, self.sample_rate) * self.gain)

    def from_log_mel(self, log_mel: torch.Tensor, seconds: float) -> torch.Tensor:
        """What the network reads (batch, bands, time) → (batch, frames, dim)."""
        return completed(self.embed(log_mel), FrameGrid(self.frame_rate).frames(seconds))

    def embed(self, mel: torch.Tensor) -> torch.Tensor:
        """Log mel (batch, bands, time) → (batch, frames, dim)."""
        # (batch, 1, bands, time) with the channels last in memory: all maps behind it inherit the faster layout
        maps = mel.to(self.features[0][0].weight.dtype).unsqueeze(-1).permute(0, 3, 1, 2)
        tapped = []
        for number, layer in enumerate(self.features):
            maps = layer(maps)
            if number in self.taps:
                tapped.append(maps.flatten(1, 2))
        return torch.cat([maps.mean(dim=2), *tapped], dim=1).transpose(1, 2)

    def layers(self) -> list[nn.Module]:
        """The stem, the fifteen blocks, the last convolution."""
        return list(self.features)

    def load_official(self, path: str | Path, network: str = "teacher") -> list[str]:
        """Load the weights of an EfficientAT, EfficientSED or PretrainedSED file.

        Parameters
        ----------
        network : str    "teacher" or "student", where the file holds both

        Returns
        -------
        list of str
            Names in the file that embeddings do not need: classifier, sequence model, heads, the other network.

        Raises
        ------
        CheckpointError    unreadable, not a MobileNet of this width, or trained on another front end, where a
            classifier or its name says so
        """
        content = read_checkpoint(path)
        tensors = unwrapped(content)
        features = part_or_refusal(tensors, "features", path, network)
        self._check_front_end(tensors, path)
        renamed = {"features." + name.replace(".conc_se_layers.0.", "."): features[name] for name in features}
        load_strict(self, renamed, path)
        return [
            name
            for name in all_tensors(content)
            if ".features." not in "." + name or role_of(name) not in (network, None)
        ]

    def _check_front_end(self, tensors: dict, path: str | Path) -> None:
        """Refuse a file whose weights were trained on the other front end: the shapes of tensors do not tell."""
        own = self.trained_with["front_end"]
        theirs = own
        if part_of(tensors, "classifier"):
            theirs = "efficientat"
            check_named_front_end(path)
        elif "features.0.0.weight" not in tensors or any(part_of(tensors, part) for part in _PARTS):
            theirs = "fmn"
        if own != theirs:
            cure = "front_end: efficientat, strides: dilated" if theirs == "efficientat" else "front_end: fmn"
            raise CheckpointError(
                f"{path}: its weights were trained on the front end {theirs!r}, the encoder has {own!r}, which does "
                f"not match; build it with {cure}"
            )


def _features(width: float, halve_frequency: tuple, halve_time: tuple, dilate_behind: tuple) -> nn.Sequential:
    """Stem, blocks and last convolution, numbered as in the official files."""
    strides = [(1 + (layer in halve_frequency), 1 + (layer in halve_time)) for layer in range(_LAST)]
    channels = channels_of(16 * width)
    layers = [_ConvNorm(1, channels, 3, nn.Hardswish(inplace=True), stride=strides[0])]
    for layer, (kernel, expanded, out, excite, activation) in enumerate(_BLOCKS, start=1):
        block = _InvertedResidual(
            channels,
            (channels_of(expanded * width), channels_of(out * width)),
            kernel=kernel,
            excite=excite,
            activation=activation,
            stride=strides[layer],
            dilation=2 ** sum(layer > behind for behind in dilate_behind),
        )
        channels = channels_of(out * width)
        layers.append(block)
    return nn.Sequential(*layers, _ConvNorm(channels, 6 * channels, 1, nn.Hardswish(inplace=True)))
