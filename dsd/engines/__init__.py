"""Engines: where the work of a stage runs. A stage is the same on every engine."""

from dsd.engines.fill import StageSummary, fill
from dsd.engines.progress import progress_bar

__all__ = ["StageSummary", "fill", "progress_bar"]
