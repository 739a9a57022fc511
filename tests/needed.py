"""Tools that tests run beside the project's own environment: skipped without them, but never in CI."""

import os
from typing import NoReturn

import pytest


def missing(reason: str) -> NoReturn:
    """Skip the test; under CI, which is to install everything, fail it."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
