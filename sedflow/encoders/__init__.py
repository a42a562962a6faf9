"""Encoders: waveform (batch, samples) → embeddings (batch, frames, dim).

A file here is a plugin: its one public class has

- ``sample_rate`` (Hz), ``frame_rate`` (frames per second), ``dim``;
- ``forward(waveform)``: float32 waveforms in [-1, 1]; the number of frames is what ``FrameGrid(frame_rate)`` predicts
  for any length; the front end is inside and runs in float32 whatever the precision of the network; the clips of a
  batch do not change each other;
- ``layers()``: modules from input to output, which together hold every trainable parameter exactly once;
- ``load_official(path)``: reads the official checkpoint in each of its published spellings;
- ``trained_with``: the settings, by name, that weights belong to and that the shapes of their tensors do not show.

Pages are checked against literal constants of the file: ``FRONT_ENDS``, name → settings with ``sample_rate``, where the
setting ``front_end`` chooses the rate; ``BANDS``, how many mel bands the network reads, if they are not 128.

Augmentation between front end and network needs one of two further pairs, both of tensors (batch, bands, time):

- ``spectrogram(waveform)``, linear mel, and ``features(spectrum)``, what the network reads; then ``encode(features)``,
  where a last frame that the clip only partly fills may be missing;
- ``log_mel(waveform)``, what the network reads.

``from_log_mel(features, seconds)`` continues from either, for clips of that length; an encoder without it reads clips
of any length in one piece.

Reading weights is common to all of them, see `sedflow.weights`.
"""
