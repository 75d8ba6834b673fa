"""What Ray Data is told, and what becomes of the batches that it loses, in segments; without a cluster."""

import json
import os
from collections import Counter
from dataclasses import dataclass

import pytest
import torch

from dsd import engines
from dsd.data.rows import Failure
from dsd.engines.base import Batch, Itself, Job, Work

ray = pytest.importorskip("ray")
ray_data = pytest.importorskip("dsd.engines.ray_data")

ALWAYS = 10**6


@dataclass(frozen=True)
class Naming(Work):
    """One row of each record, by its name."""

    def __call__(self, batch: Batch):
        return [[{"id": f"row of {record}"}] for _, record in batch]


class Here:
    """Ray Data in this process. An actor that meets a deadly row takes with it the batch that waits behind.

    Args:
        deaths: how many batches with a row are lost, after all of Ray's own tries.
    """

    def __init__(self, deaths=()):
        self.deaths, self.told, self.tried = dict(deaths), [], Counter()

    def from_items(self, tasks, override_num_blocks):
        assert override_num_blocks == len(tasks)  # a batch is a task of its own
        self.tasks = tasks
        return self

    def map_batches(self, worker, *, fn_constructor_args, compute, **options):
        context = ray.data.DataContext.get_current()
        options["actors"] = {compute.min_size, compute.max_size}
        options["in_flight"] = compute.max_tasks_in_flight_per_actor
        options["in_order"] = context.execution_options.preserve_order
        self.told.append(options)
        self.worker = worker(*fn_constructor_args)
        return self

    def iter_batches(self, **options):
        lost = False
        for task in self.tasks:
            ids = json.loads(task["ids"])
            self.tried.update(ids)
            deadly = [name for name in ids if self.deaths.get(name)]
            for name in deadly:
                self.deaths[name] -= 1
            lost, behind = bool(deadly), lost
            if not lost and not behind:
                yield self.worker({name: [value] for name, value in task.items()})


@pytest.fixture
def ray_here(monkeypatch):
    def begin(**deaths):
        here = Here(deaths)
        monkeypatch.setattr(ray.data, "from_items", here.from_items)
        return here

    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0, "GPU": 3.0})
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return begin


NAMES = [f"n{i:02d}" for i in range(41)]


def job(size=3, **options):
    batches = [NAMES[i : i + size] for i in range(0, len(NAMES), size)]
    return Job(stage="names", work=Naming(), source=Itself(), batches=batches, **options)


def results(engine, job):
    """What became of each row, in the order in which it came."""
    return [
        (name, result)
        for ids, found in engine.run(job)
        for name, result in zip(ids, found, strict=True)
    ]  # fmt: skip


@pytest.mark.parametrize("segment", [1, 4, 14, 16_384])
def test_rows_come_in_order_over_the_ends_of_segments(ray_here, monkeypatch, segment):
    monkeypatch.setattr(ray_data, "_SEGMENT", segment)
    here = ray_here()
    assert results(engines.create("ray"), job()) == [(name, [{"id": f"row of {name}"}]) for name in NAMES]
    assert len(here.told) == -(-14 // segment)
    assert set(here.tried.values()) == {1}


@pytest.mark.parametrize("segment", [4, 16_384])
@pytest.mark.parametrize(
    ("deaths", "named"),
    [
        ({"n10": 1}, []),  # a machine went down
        ({"n40": ALWAYS}, ["n40"]),
        ({"n10": ALWAYS}, ["n10"]),
        ({"n10": ALWAYS, "n11": ALWAYS, "n12": 1, "n30": 2}, ["n10", "n11"]),
        (dict.fromkeys(NAMES, ALWAYS), NAMES),
    ],
)
def test_whatever_dies_every_row_comes_once_and_the_deadly_alone_are_named(
    ray_here, monkeypatch, segment, deaths, named
):
    monkeypatch.setattr(ray_data, "_SEGMENT", segment)
    ray_here(**deaths)
    found = results(engines.create({"name": "ray", "retries": 2}), job())
    assert sorted(name for name, _ in found) == NAMES
    failed = {name: result for name, result in found if isinstance(result, Failure)}
    assert sorted(failed) == named
    assert all(failure.source == name for name, failure in failed.items())
    assert all("died each of 3 times" in failure.reason for failure in failed.values())
    assert all(result == [{"id": f"row of {name}"}] for name, result in found if name not in failed)


@pytest.mark.parametrize(
    ("spec", "size", "told"),
    [
        ({}, 3, {"actors": {8}, "num_cpus": 1, "num_gpus": None, "max_task_retries": 3}),
        ({"workers": 2, "retries": 5}, 3, {"actors": {2}, "max_task_retries": 5}),
        ({"num_cpus": 2, "num_gpus": 0.5}, 3, {"actors": {4}, "num_cpus": 2, "num_gpus": 0.5}),
        ({"num_cpus": 0, "num_gpus": 0.75}, 3, {"actors": {4}, "num_cpus": 0, "num_gpus": 0.75}),
        ({"workers": 12}, 20, {"actors": {3}}),  # no more than there are batches
    ],
)
def test_settings_reach_ray(ray_here, spec, size, told):
    here = ray_here()
    before = ray.data.DataContext.get_current().execution_options.preserve_order
    results(engines.create({"name": "ray", **spec}), job(size))
    assert len(here.told) == 1
    told = {"batch_size": 1, "in_flight": 2, "in_order": True, "max_restarts": -1, **told}
    assert {name: here.told[0][name] for name in told} == told
    assert ray.data.DataContext.get_current().execution_options.preserve_order == before


@pytest.mark.parametrize(("threads", "expected"), [(None, 3), (5, 5)])
def test_workers_compute_with_as_many_threads_as_are_said_or_as_here(
    ray_here, monkeypatch, threads, expected
):
    given = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    ray_here()
    results(engines.create({"name": "ray", "threads": threads}), job())
    assert given == [expected]
    assert os.environ["OMP_NUM_THREADS"] == f"{expected}"


def test_nothing_more_is_begun_when_no_more_is_wanted(ray_here, monkeypatch):
    monkeypatch.setattr(ray_data, "_SEGMENT", 5)
    here, found = ray_here(n00=ALWAYS), list[str]()
    wanted = job(going_on=lambda: len(found) < 6)
    for ids, _ in engines.create("ray").run(wanted):
        found.extend(ids)
    assert found == NAMES[6:12]  # what was lost is not tried again either
    assert len(here.told) == 1  # nor is another segment begun
