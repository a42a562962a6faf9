"""The few shims old dependencies need, each for named versions and each with a test.

Call a shim right before the import it serves. What needs no shim is pinned in pyproject.toml: sed_scores_eval 0.0.4
works unchanged with pandas 2 and with a setuptools that still has ``pkg_resources``.
"""

from __future__ import annotations

import warnings
from importlib import metadata


def prepare_scaper() -> None:
    """Give NumPy 2 back the name ``np.Inf``, which Scaper 1.6.5 uses when it draws a value."""
    import numpy as np

    if metadata.version("scaper") == "1.6.5" and not hasattr(np, "Inf"):
        np.Inf = np.inf  # noqa: NPY201


def prepare_sed_scores_eval() -> None:
    """Import sed_scores_eval 0.0.4 once without the warnings of its dependencies (``pkg_resources``, stray escapes)."""
    if metadata.version("sed_scores_eval") == "0.0.4":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import sed_scores_eval  # noqa: F401
