"""The engine of a cluster: Ray Data runs the batches in a pool of actors, each of which loads its model once.

What travels to an actor is the ids of a batch: it reads the pictures from the run itself, which must be at
the same place for all machines. What travels back is the finished rows, with pictures as PNG. This process
alone writes them, in order.
"""

import json
import logging
import os
import pickle
import sys
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from dsd.data.rows import Failure
from dsd.engines.base import Done, Engine, Job, Result
from dsd.engines.local import LocalEngine

logger = logging.getLogger(__name__)

_SEGMENT = 16_384  # batches that Ray Data is given at a time: it keeps a reference to each
_IN_FLIGHT = 2  # tasks of an actor: one that it does and one that waits
_QUIET = ("ray", "ray.data", "ray._private")

try:
    import ray
    import ray.data
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"The engine 'ray' needs Ray Data ({error}). Install it by: pip install "
        "'diffusion-self-distillation[ray]'; or use engine='local'."
    ) from error


class RayEngine(Engine):
    """Does the work in actors of a Ray cluster.

    It joins the cluster of `ray.init`, if your program has called that; else the one of `address`, or of the
    environment variable RAY_ADDRESS, or one that runs on this machine; else it starts one on this machine,
    and
    ends it with the stage. Ray's dashboard and usage statistics are off in a cluster that it starts.

    Plug-ins that ask paid models keep limits, money and answers in this process, and are asked from there,
    many at once, on every engine.

    Args:
        workers: how many actors; None for as many as the cluster has room for at the start.
        num_cpus: of each actor, as Ray reserves them.
        num_gpus: of each actor; 0.5 puts two on one GPU.
        address: of the cluster.
        retries: how often a batch is tried again whose worker died.
        threads: that an actor computes with on CPUs; None for as many as this process would. The last bits
        of a
            model's numbers depend on it, and so does a grid's id.

    Raises:
        ModuleNotFoundError: if Ray is not installed.
        ValueError: if a number is out of range.
    """

    remote = True

    def __init__(
        self,
        workers: int | None = None,
        num_cpus: float = 1,
        num_gpus: float = 0,
        address: str | None = None,
        retries: int = 3,
        threads: int | None = None,
    ) -> None:
        for name, least in {
            "workers": (workers, 1),
            "retries": (retries, 0),
            "threads": (threads, 1),
        }.items():
            value, low = least
            if value is not None and value < low:
                raise ValueError(f"`{name}` must be at least {low}; got {value}.")
        if num_cpus < 0 or num_gpus < 0 or num_cpus + num_gpus == 0:
            raise ValueError(
                f"An actor needs CPUs or GPUs; got num_cpus={num_cpus} and num_gpus={num_gpus}. Give one of "
                "them a number above 0."
            )
        self.workers, self.num_cpus, self.num_gpus = workers, num_cpus, num_gpus
        self.address, self.retries, self.threads = address, retries, threads

    def run(self, job: Job) -> Generator[Done, None, None]:
        """See `Engine.run`.

        Raises:
            ValueError: if the cluster has no room for one actor.
            ConnectionError: if there is no cluster at the address.
        """
        if job.here or not job.batches:
            yield from LocalEngine().run(job)
            return
        with _cluster(self.address):
            size = self._size()
            packed = _packed(job)
            for start in range(0, len(job.batches), _SEGMENT):
                if not job.going_on():
                    return
                segment = job.batches[start : start + _SEGMENT]
                lost = yield from self._segment(job, segment, packed, size)
                if lost and job.going_on():
                    # Find out which of its rows a batch was lost of.
                    singles = [[row_id] for batch in lost for row_id in batch]
                    suspects = yield from self._segment(job, singles, packed, size)
                    for ids in suspects:
                        # What waits behind a deadly row dies with it each time, unless it is alone.
                        alone = len(suspects) == 1
                        died = [ids] if alone else (yield from self._segment(job, [ids], packed, 1))
                        for (row_id,) in died:
                            yield [row_id], [_died(row_id, self.retries)]

    def _segment(
        self, job: Job, batches: Sequence[Sequence[str]], packed: bytes, size: int
    ) -> Generator[Done, None, list[Sequence[str]]]:
        """The results of some batches; returns those whose workers died each time."""
        tasks = [{"number": n, "ids": json.dumps(list(ids))} for n, ids in enumerate(batches)]
        actors = ray.data.ActorPoolStrategy(
            size=min(size, len(batches)), max_tasks_in_flight_per_actor=_IN_FLIGHT
        )
        with _settings():
            results = ray.data.from_items(tasks, override_num_blocks=len(tasks)).map_batches(
                Worker,
                fn_constructor_args=(packed, self._threads()),
                batch_size=1,
                batch_format="numpy",
                compute=actors,
                num_cpus=self.num_cpus,
                num_gpus=self.num_gpus or None,
                max_restarts=-1,
                max_task_retries=self.retries,
            )
            done: set[int] = set()
            for block in results.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0):
                for number, content in zip(block["number"], block["content"], strict=True):
                    done.add(int(number))
                    yield batches[int(number)], _opened(content)
                    del content
                if not job.going_on():
                    return []
        return [batch for number, batch in enumerate(batches) if number not in done]

    def _size(self) -> int:
        """How many actors."""
        has = ray.cluster_resources()
        needs = {"CPU": self.num_cpus, "GPU": self.num_gpus}
        room = min(int(has.get(name, 0) / need) for name, need in needs.items() if need)
        if room < 1:
            raise ValueError(
                f"The Ray cluster has {has.get('CPU', 0):g} CPUs and {has.get('GPU', 0):g} GPUs: no room "
                "for an "
                f"actor with {self.num_cpus:g} CPUs and {self.num_gpus:g} GPUs. Give the engine other "
                "numbers."
            )
        return room if self.workers is None else self.workers

    def _threads(self) -> int:
        if self.threads is not None:
            return self.threads
        if "torch" in sys.modules:
            return int(sys.modules["torch"].get_num_threads())
        return int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)


class Worker:
    """What each actor holds: the stage's work with its model, and the table that it reads.

    Args:
        packed: both, as `_packed` makes it.
        threads: to compute with on CPUs.
    """

    def __init__(self, packed: bytes, threads: int) -> None:
        os.environ["OMP_NUM_THREADS"] = str(threads)
        self._broken: Exception | None = None
        try:
            self._work, self._source = pickle.loads(packed)
        except Exception as error:  # raised at the first batch: Ray would start the actor again and again
            self._broken = error
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(threads)

    def __call__(self, task: Mapping[str, Any]) -> dict[str, list[Any]]:
        """The number of a batch, and its results or the error that ended it."""
        answer: Sequence[Result] | Exception
        try:
            if self._broken is not None:
                raise self._broken
            answer = self._work([(row_id, self._source[row_id]) for row_id in json.loads(task["ids"][0])])
        except Exception as error:
            logger.warning("A batch failed", exc_info=True)
            answer = _portable(error)
        return {"number": [int(task["number"][0])], "content": [pickle.dumps(answer, protocol=5)]}


def _packed(job: Job) -> bytes:
    """The work and the source for another process, classes of notebooks and scripts with them.

    Raises:
        TypeError: if a constructor argument cannot be sent to another process.
    """
    from ray import cloudpickle

    try:
        packed: bytes = cloudpickle.dumps((job.work, job.source))
    except Exception as error:
        raise TypeError(
            f"The work of {job.stage!r} cannot be sent to other processes: {error}. Give the plug-in by its "
            "spec, with constructor arguments that pickle takes, or use engine='local'."
        ) from error
    return packed


def _opened(content: bytes) -> Sequence[Result]:
    answer = pickle.loads(content)  # made by `Worker`
    if isinstance(answer, Exception):
        raise answer
    results: Sequence[Result] = answer
    return results


def _portable(error: Exception) -> Exception:
    """The error, or what it says where it cannot be sent."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _died(row_id: str, retries: int) -> Failure:
    return Failure(
        source=row_id,
        reason=f"Its worker process died each of {retries + 1} times: perhaps it needs more memory than "
        "there is. Ray's logs of the worker say more.",
    )


@contextmanager
def _cluster(address: str | None) -> Iterator[None]:
    """A cluster to work on; ended afterwards if it was begun here."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its other words are in its own folder of logs
    ray.init(
        address=address,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        configure_logging=False,
    )
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _settings() -> Iterator[None]:
    """Ray Data in the order of its input, without its own bars; a lost batch does not end all."""
    context = ray.data.DataContext.get_current()
    options = context.execution_options
    before = (context.enable_progress_bars, context.max_errored_blocks, options.preserve_order)
    # Bounded retries go by arguments that have no other name yet.
    warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
    levels = {name: logging.getLogger(name).level for name in _QUIET}
    context.enable_progress_bars, context.max_errored_blocks, options.preserve_order = False, -1, True
    for name in levels:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        context.enable_progress_bars, context.max_errored_blocks, options.preserve_order = before
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
