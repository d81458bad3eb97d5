"""Runs that checkpoints are taken from."""

from tests.helpers.fixtures import forks, undisturbed

__all__ = ["forks", "undisturbed"]
