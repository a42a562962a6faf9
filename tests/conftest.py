"""Fixtures shared by all tests: where the reference material lies."""

import os
from pathlib import Path

import pytest


def _folder(variable):
    path = os.environ.get(variable, "")
    if not path or not Path(path).is_dir():
        pytest.fail(f"{variable}={path!r} is not a folder; run the tests with `make test`, or set it (README, Tests)")
    return Path(path)


@pytest.fixture(scope="session")
def golden_dir():
    """Folder of official output vectors."""
    return _folder("SEDFLOW_GOLDEN")


@pytest.fixture(scope="session")
def eval_reference_dir():
    """Folder of real DCASE scores with the expected metrics."""
    return _folder("SEDFLOW_EVAL_REFERENCE")


@pytest.fixture(scope="session")
def mirror_dir():
    """Folder of real recordings and weights."""
    return _folder("SEDFLOW_MIRROR")
