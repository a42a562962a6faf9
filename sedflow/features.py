"""The cache: outputs of a frozen encoder, computed once.

A shard is one ``.npy`` array (clips, frames, dim) in fp16, read through a memory map, with an index next to it that
names its clips and the sha256 of their audio. The folder's name is a digest of everything else the numbers depend on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from sedflow.events import Clip, read_clips
from sedflow.files import replacing, write_text
from sedflow.memory import keep_pages


class CacheError(ValueError):
    """The cache does not contain what is needed; the message names the clip and the cure."""


def cache_key(encoder: dict, code: str, weights_sha256: str | None, clip_seconds: float, sample_rate: int) -> str:
    """Name of an encoder's cache folder: its settings, its code, its weights, length and rate of the audio it reads.

    Parameters
    ----------
    code : str    digest of the encoder's code, its front end included
    """
    depends_on = {
        "encoder": encoder,
        "code": code,
        "weights": weights_sha256,
        "clip_seconds": clip_seconds,
        "sample_rate": sample_rate,
        "format": 1,
    }
    digest = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()
    return f"{encoder['name']}-{digest[:12]}"


def shard_of(clips: list[Clip], source: str, shard: int, shards: int) -> list[Clip]:
    """Every ``shards``-th clip of a source, beginning with number ``shard``, in order of id."""
    return sorted((clip for clip in clips if clip.source == source), key=lambda clip: clip.id)[shard::shards]


def extract(  # noqa: PLR0913 (one rule's inputs)
    encoder: dict,
    weights: Path | None,
    clips: Path,
    source: str,
    shard: int,
    shards: int,
    out: Path,
    *,
    clip_seconds,
    root,
) -> None:
    """Compute one shard of the cache.

    Parameters
    ----------
    encoder : dict    the encoder's settings with its name
    weights : Path or None    official checkpoint; None leaves the encoder randomly initialised from its seed
    clips : Path    clip table
    source, shard, shards    which clips, see `shard_of`
    out : Path    the ``.npy`` file; its index has the suffix ``.json``
    clip_seconds : float    clips are padded to this length
    root : Path    folder the clips' paths are relative to
    """
    import torch

    from sedflow import audio
    from sedflow.detector import build_encoder, fastest_device
    from sedflow.precision import full_float32
    from sedflow.progress import track

    keep_pages()
    chosen = shard_of(read_clips(clips), source, shard, shards)
    network, device = build_encoder(encoder, weights).eval(), fastest_device()
    network.to(device)
    samples = round(clip_seconds * network.sample_rate)
    rows = []
    with full_float32(), torch.inference_mode():
        for clip in track(chosen, f"{encoder['name']}: {source} {shard + 1}/{shards}"):
            waveform = audio.read(Path(root) / clip.path, network.sample_rate)
            padded = np.zeros(samples, dtype=np.float32)
            padded[: min(samples, len(waveform))] = waveform[:samples]
            embeddings = network(torch.from_numpy(padded)[None].to(device))[0]
            if not torch.isfinite(embeddings).all() or embeddings.abs().max() > np.finfo(np.float16).max:
                raise CacheError(f"{clip.path}: the encoder {encoder['name']} gives values that do not fit into fp16")
            rows.append(embeddings.to(torch.float16).cpu().numpy())
    write_shard(out, chosen, np.stack(rows) if rows else np.zeros((0, 0, 0), np.float16), network.frame_rate)


def write_shard(out: Path, clips: list[Clip], embeddings: np.ndarray, frame_rate: float) -> None:
    """Write a shard, the array before its index: without an index a shard does not count."""
    out = Path(out)
    with replacing(out) as unfinished, unfinished.open("wb") as file:
        np.save(file, embeddings)
    index = {"clips": [[clip.id, clip.sha256] for clip in clips], "frame_rate": frame_rate, "shape": embeddings.shape}
    write_text(out.with_suffix(".json"), json.dumps(index, indent=0))


class Cache:
    """Random access to the embeddings of one encoder by clip id.

    Parameters
    ----------
    shards : iterable of Path    ``.npy`` files
    """

    def __init__(self, shards: Iterable[Path]):
        self._rows: dict[str, tuple[np.ndarray, int]] = {}
        self._audio: dict[str, str] = {}
        self.frame_rate = None
        for path in map(Path, shards):
            if not path.with_suffix(".json").is_file():
                raise CacheError(f"{path}: no index next to it, so the shard is unfinished; delete it and run again")
            try:
                index = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
                array = np.load(path, mmap_mode="c") if index["clips"] else np.zeros((0, 0, 0), np.float16)
            except (ValueError, EOFError) as error:
                raise CacheError(f"{path}: damaged ({error}); delete it and its index, run again") from None
            if list(array.shape) != index["shape"] or len(array) != len(index["clips"]):
                raise CacheError(
                    f"{path}: shape {array.shape} is not that of its index {index['shape']}; delete both, run again"
                )
            self.frame_rate = index["frame_rate"]
            for row, (clip, sha256) in enumerate(index["clips"]):
                self._rows[clip] = (array, row)
                self._audio[clip] = sha256

    def __len__(self):
        return len(self._rows)

    def __contains__(self, clip: str) -> bool:
        return clip in self._rows

    def check(self, clip: Clip, made_by: str = "features") -> None:
        """Refuse a clip that is not in the cache, or whose audio is no longer what the rule ``made_by`` read."""
        if clip.id not in self._rows:
            raise CacheError(f"{clip.id}: not in the cache of its source; run the rule `{made_by}` again")
        if self._audio[clip.id] != clip.sha256:
            raise CacheError(f"{clip.id}: the audio changed after the rule `{made_by}` read it; run that again")

    def read(self, ids: list[str]) -> np.ndarray:
        """Embeddings of these clips, (clips, frames, dim) float32."""
        import torch

        batch = torch.empty(len(ids), *self._rows[ids[0]][0].shape[1:])
        for place, clip in enumerate(ids):
            array, row = self._rows[clip]
            batch[place].copy_(torch.from_numpy(array[row]))  # read and converted in one pass, faster than NumPy's
        return batch.numpy()
