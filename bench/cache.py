"""Random reads of cached features: our memory-mapped fp16 shards against HDF5 files of the same content.

The HDF5 peers are the layouts that recipes use: one array for the set, chunked by clip, in fp16; the same in fp32
(DESED_task); each read clip by clip through one open file.
"""

import tempfile
from pathlib import Path

import common
import h5py
import numpy as np
import torch

from sedflow.events import Clip
from sedflow.features import Cache, write_shard
from sedflow.memory import keep_pages

CLIPS, FRAMES, DIM, BATCH, BATCHES = 400, 250, 768, 32, 20


def batches(read, draws):
    """Read batches as training does, one after the other; of each clip some numbers, to compare the ways by."""
    seen = []
    for draw in draws:
        batch = torch.from_numpy(read(draw)).float()  # what the detector reads
        seen.append(batch[:, ::50, ::64].clone())
    return seen


def main():
    keep_pages()  # as training does, for all ways alike
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(CLIPS, FRAMES, DIM)).astype(np.float16)
    clips = [Clip(f"{k:05d}", "", 10.0, "", "weak") for k in range(CLIPS)]
    draws = [rng.choice(CLIPS, BATCH, replace=False) for _ in range(BATCHES)]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for shard in range(4):
            part = slice(shard, None, 4)
            write_shard(folder / f"weak-{shard}.npy", clips[part], embeddings[part], 25.0)
        for name, dtype in (("half", np.float16), ("single", np.float32)):
            with h5py.File(folder / f"{name}.h5", "w") as file:
                file.create_dataset("features", data=embeddings.astype(dtype), chunks=(1, FRAMES, DIM))
        cache = Cache([folder / f"weak-{shard}.npy" for shard in range(4)])

        def ours():
            return batches(lambda draw: cache.read([clips[k].id for k in draw]), draws)

        def hdf5(name):
            with h5py.File(folder / f"{name}.h5") as file:
                return batches(lambda draw: np.stack([file["features"][k] for k in draw]), draws)

        timings = common.compare(
            {
                "memory-mapped shards, fp16 (ours)": ours,
                "HDF5, fp16, a chunk per clip": lambda: hdf5("half"),
                "HDF5, fp32, a chunk per clip": lambda: hdf5("single"),
            },
            lambda one, other: all(torch.equal(a, b) for a, b in zip(one, other, strict=True)),
            items=BATCH * BATCHES,
        )
    common.write(
        "cache",
        "Random reads of cached features",
        [
            f"{BATCHES} batches of {BATCH} clips of {FRAMES} × {DIM}, drawn at random, given as fp32; page cache warm.",
            common.surroundings("numpy", "h5py"),
            common.table(timings, "clips"),
        ],
    )


if __name__ == "__main__":
    main()
