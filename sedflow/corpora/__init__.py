"""Corpora: raw recordings → clips with events. One file is one corpus."""
