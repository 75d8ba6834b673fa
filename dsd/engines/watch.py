"""A stage while it runs: counted, and told on a bar, on the run's page and in its log."""

import logging
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from dsd.data.atomic import replace_file
from dsd.data.manifest import ManifestError, without_secrets
from dsd.data.rows import Failure
from dsd.data.store import Run
from dsd.engines.log import JsonLog
from dsd.engines.page import StageState, page
from dsd.engines.progress import progress_bar

logger = logging.getLogger(__name__)

PAGE = "progress.html"
_WINDOW_S = 120.0
_SHOWN_FAILURES = 8


class Watch:
    """What a running stage has done so far.

    Rates and times left come from a clock that only goes forward, whatever becomes of the clock on the wall.

    Args:
        stage: its name.
        total: rows of the earlier stage that it shall have done at the end.
        done: how many of them it has already.
        unit: what is counted.
        failures: the last ones of earlier calls.
    """

    def __init__(
        self, stage: str, total: int, done: int = 0, *, unit: str = "rows", failures: Sequence[Failure] = ()
    ) -> None:
        self.stage, self.total, self.done, self.unit = stage, total, done, unit
        self.begun_at = _now()
        self._begun = time.monotonic()
        self._before = done
        self._counts: deque[tuple[float, int]] = deque([(self._begun, done)])
        self._told: dict[str, str] = {}
        self._failures: deque[Failure] = deque(failures, maxlen=_SHOWN_FAILURES)
        self._num_failed = 0
        self._lock = threading.Lock()
        self.state = "running"

    def advance(self, count: int = 1) -> None:
        """So many more are done."""
        with self._lock:
            self.done += count
            now = time.monotonic()
            # One count a second is kept, and one from before the window to measure it from.
            if len(self._counts) < 2 or now - self._counts[-2][0] >= 1:
                self._counts.append((now, self.done))
            else:
                self._counts[-1] = (now, self.done)
            while len(self._counts) > 2 and now - self._counts[1][0] > _WINDOW_S:
                self._counts.popleft()

    def failed(self, failure: Failure) -> None:
        """One of them could not be done."""
        with self._lock:
            self._failures.append(failure)
            self._num_failed += 1

    def tell(self, numbers: Mapping[str, str]) -> None:
        """What there is to tell beside the count, such as yield and cost."""
        with self._lock:
            self._told = dict(numbers)

    def snapshot(self) -> StageState:
        """All of it at this moment."""
        with self._lock:
            (then, before), now = self._counts[0], time.monotonic()
            if self.state != "running":  # the mean of all of it
                then, before = self._begun, self._before
            rate = (self.done - before) / (now - then) if now > then else 0.0
            missing = max(0, self.total - self.done)
            running = self.state == "running"
            return StageState(
                stage=self.stage,
                state=self.state,
                done=self.done,
                total=self.total,
                unit=self.unit,
                rate=rate or None,
                seconds=now - self._begun,
                left_s=missing / rate if rate and running else None,
                told=dict(self._told),
                num_failed=self._num_failed,
                failures=tuple(self._failures),
                begun_at=self.begun_at,
            )


class Bar:
    """A `Watch` and the bar that shows it, as a stage's loop sees them."""

    def __init__(self, watch: Watch, bar: Any) -> None:
        self.watch, self._bar = watch, bar

    def advance(self, count: int = 1) -> None:
        """So many more are done."""
        self.watch.advance(count)
        self._bar.update(count)

    def tell(self, numbers: Mapping[str, str], *, refresh: bool = False) -> None:
        """What there is to tell beside the count."""
        self.watch.tell(numbers)
        self._bar.set_postfix(dict(numbers), refresh=refresh)

    def failed(self, failure: Failure) -> None:
        """One of them could not be done."""
        self.watch.failed(failure)


class _Writer(threading.Thread):
    """Writes the page of a run from time to time, so that it is seen to live while one row takes long."""

    every_s: float = 3.0

    def __init__(self, run: Run, watch: Watch) -> None:
        super().__init__(name="dsd-progress", daemon=True)
        self._run, self._watch = run, watch
        stages = [stage for stage in run.stages() if not stage.startswith("failed/") and stage != watch.stage]
        self._others = {stage: run.table(stage).manifest.summary() for stage in stages}
        self._failures = {stage: found for stage in stages if (found := _last_failures(run, stage))}
        self._ended = threading.Event()
        self._broken = False

    def run(self) -> None:
        while not self._ended.wait(self.every_s):
            self.write()

    def end(self) -> None:
        """Write a last time."""
        self._ended.set()
        self.join()
        self.write()

    def write(self) -> None:
        """Write the page. A disk that takes no page may take rows, so that is told once and no more."""
        if self._broken:
            return
        text = page(self._run.path.name, self._others, self._watch.snapshot(), _now(), self._failures)
        try:
            replace_file(self._run.path / PAGE, text.encode())
        except OSError as error:
            self._broken = True
            logger.warning("The page %s is not written any more: %s", self._run.path / PAGE, error)


@contextmanager
def watched(
    run: Run, stage: str, total: int, done: int = 0, *, progress: bool, unit: str = "rows"
) -> Iterator[Bar]:
    """Follow a stage from its begin to its end. The caller holds the run's lock.

    Args:
        run: where the page `progress.html` and the log `log.jsonl` are written.
        stage: its name.
        total: rows of the earlier stage that it shall have done at the end.
        done: how many of them it has already.
        progress: show a bar on stderr.
        unit: what is counted.
    """
    watch = Watch(stage, total, done, unit=unit, failures=_last_failures(run, stage))
    writer = _Writer(run, watch)
    with (
        JsonLog(Path(str(run.path)), stage) as log,
        progress_bar(stage, total, progress, done) as bar,
    ):
        log.event("begun", done=done, total=total)
        writer.write()
        writer.start()
        try:
            yield Bar(watch, bar)
            watch.state = "finished"
        except BaseException as error:
            watch.state = f"stopped: {without_secrets(_said(error))}"
            raise
        finally:
            found = watch.snapshot()
            writer.end()
            facts = {
                "state": watch.state, "done": found.done, "total": total, "seconds": round(found.seconds, 3),
                "rate": round(found.rate or 0.0, 4), "failed": found.num_failed,
            }  # fmt: skip
            log.event("ended", **{**found.told, **facts})


def _last_failures(run: Run, stage: str) -> list[Failure]:
    table = run.failed(stage)
    try:
        return [*deque(table, maxlen=_SHOWN_FAILURES)] if table.exists else []
    except ManifestError as error:
        return [Failure(source="", reason=str(error))]


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
