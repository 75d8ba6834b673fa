"""Cases for methods that draw, and what became of each."""

from dsd.evaluation.benchmarks import BenchmarkCase
from tests.benchmark_folders import picture


def case(key, prompt="the red creature on a beach", count=1, **more):
    pictures = tuple(picture((key, i), 64) for i in range(count))
    return BenchmarkCase(key=key, prompt=prompt, pictures=pictures, subject=key, **more)


def drawn(method, jobs):
    return {job.key: drawing for job, drawing in method.draw_all(jobs)}
