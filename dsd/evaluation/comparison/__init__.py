"""The comparison of methods on a benchmark: `compare` draws, measures, rates and reports, and can be stopped at
any moment.
"""

from dsd.evaluation.comparison.figures import Column, Figure
from dsd.evaluation.comparison.run import Comparison, compare

__all__ = ["Column", "Comparison", "Figure", "compare"]
