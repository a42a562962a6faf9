"""sedflow: a reproducible training pipeline for sound event detection."""

__version__ = "0.1.0"
