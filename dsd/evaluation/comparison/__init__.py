"""The comparison of methods on a benchmark: `compare` draws, measures and rates, `write_comparison` reports.
It can be stopped at any moment.
"""

from dsd.evaluation.comparison.figures import Column, Figure
from dsd.evaluation.comparison.report import write_comparison
from dsd.evaluation.comparison.result import Comparison, MethodResult
from dsd.evaluation.comparison.run import compare

__all__ = ["Column", "Comparison", "Figure", "MethodResult", "compare", "write_comparison"]
