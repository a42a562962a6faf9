"""Sequence heads: embeddings (batch, frames, dim) and a padding mask → (batch, frames, head.dim), the same frames."""
