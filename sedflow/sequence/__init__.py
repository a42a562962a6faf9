"""Sequence heads: embeddings (batch, frames, dim) and a padding mask → (batch, frames, head.dim), the same frames.

``load_official(tensors)``, which `sedflow convert` calls, reads the head's part of an official checkpoint.
"""
