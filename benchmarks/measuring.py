"""Two ways of doing one thing, measured against each other on a machine that has other work too."""

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity, profile

Run = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """Ours over theirs.

    Attributes:
        ours: median CPU seconds of one run, or peak bytes.
        theirs: likewise.
        ratio: median over the pairs of runs, or of the peaks.
        low: first quartile of the pairs' ratios.
        high: third quartile.
        repeats: pairs of runs.
    """

    ours: float
    theirs: float
    ratio: float
    low: float
    high: float
    repeats: int


def seconds(ours: Run, theirs: Run, repeats: int) -> Ratio:
    """Run both in turn (A B, B A, A B, ...) and compare each pair.

    CPU time of this process is measured, all threads together, so that other processes do not count; pairs
    that lie side by side share the state of caches and clock, so that the machine's drift cancels.

    Args:
        ours: one run.
        theirs: the same work.
        repeats: pairs of runs, after one of each to warm up.
    """
    ours(), theirs()
    pairs = []
    for i in range(repeats):
        gc.collect()
        if i % 2 == 0:
            one, other = _timed(ours), _timed(theirs)
        else:
            other, one = _timed(theirs), _timed(ours)
        pairs.append((one, other))
    ratios = [one / other for one, other in pairs]
    low, _, high = statistics.quantiles(ratios, n=4) if repeats > 1 else (ratios[0],) * 3
    return Ratio(
        ours=statistics.median(one for one, _ in pairs),
        theirs=statistics.median(other for _, other in pairs),
        ratio=statistics.median(ratios),
        low=low,
        high=high,
        repeats=repeats,
    )


def peaks(ours: Run, theirs: Run) -> Ratio:
    """Peak bytes that each allocates beyond what was there before, by PyTorch's allocator: exact, so once."""
    one, other = _peak(ours), _peak(theirs)
    ratio = one / other
    return Ratio(ours=one, theirs=other, ratio=ratio, low=ratio, high=ratio, repeats=1)


def _timed(run: Run) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def _peak(run: Run) -> float:
    run()
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    assert profiler.profiler is not None
    assert profiler.profiler.kineto_results is not None
    changes = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(changes, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    assert peak > 0, "the profiler saw no allocation"
    return float(peak)


def single_thread() -> None:
    """Compute on one thread: ratios of small models are steadier so."""
    torch.set_num_threads(1)
