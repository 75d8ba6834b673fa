"""The engine of one machine: batches one after the other in this process, or several at once in threads."""

import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

from dsd.engines.base import Aligned, Batch, Done, Engine, Job

Item = TypeVar("Item")
Result = TypeVar("Result")

_LOOK_EVERY_S = 0.5


class LocalEngine(Engine):
    """Does all work in this process, in the order of the rows."""

    def run(self, job: Job) -> Generator[Done, None, None]:
        """See `Engine.run`."""

        def worked(batch: Batch) -> Done:
            return [row_id for row_id, _ in batch], job.work(batch)

        return run(worked, _batches(job), at_once=job.at_once, meanwhile=job.meanwhile, cancel=job.cancel)


def _batches(job: Job) -> Iterator[Batch]:
    batches = job.batches
    wanted = batches.ids() if isinstance(batches, Aligned) else [i for batch in batches for i in batch]
    items = job.source.items(wanted)
    for ids in job.batches:
        if not job.going_on():
            return
        batch = list(itertools.islice(items, len(ids)))
        assert [row_id for row_id, _ in batch] == list(ids), "the batches are not in the order of the source"
        yield batch
        del batch  # its pictures are held as long as it is worked on, and no longer


def run(
    function: Callable[[list[Item]], Result],
    batches: Iterable[list[Item]],
    *,
    at_once: int = 1,
    meanwhile: Callable[[], None] = lambda: None,
    cancel: Callable[[], None] = lambda: None,
) -> Generator[Result, None, None]:
    """What `function` makes of each batch, in order.

    Batches are read from this thread, and not much further ahead than results are taken. Close the iterator
    (`contextlib.closing`) to end the work early.

    Args:
        function: is called in threads if `at_once` is above 1.
        batches: the work.
        at_once: how many batches are worked on at the same time.
        meanwhile: called about twice a second while a result is waited for, if `at_once` is above 1.
        cancel: ends the calls that are still going on when no more results are wanted.
    """
    if at_once <= 1:
        yield from map(function, batches)
        return
    source = iter(batches)
    pool = ThreadPoolExecutor(at_once, thread_name_prefix="dsd-batch")
    # A batch that takes long holds up the results behind it, but not the work: as many again may be finished.
    waiting: deque[Future[Result]] = deque()
    done = False
    try:
        while True:
            for batch in itertools.islice(source, 2 * at_once - len(waiting)):
                waiting.append(pool.submit(function, batch))
                del batch  # its pictures are held as long as it is worked on, and no longer
            if not waiting:
                break
            while not wait([waiting[0]], timeout=_LOOK_EVERY_S).done:
                meanwhile()
            yield waiting.popleft().result()
        done = True
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        if not done:
            cancel()
