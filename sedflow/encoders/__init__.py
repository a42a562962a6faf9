"""Encoders: waveform (batch, samples) → embeddings (batch, frames, dim).

A file here is a plugin: its one public class has ``sample_rate`` (Hz), ``frame_rate`` (frames per second), ``dim``,
``forward``, ``layers()`` from input to output, and ``load_official(path)``. The number of frames is what
``FrameGrid(frame_rate)`` predicts for any length.
"""


class CheckpointError(ValueError):
    """A checkpoint does not fit: the message lists the tensors and says what to do."""
