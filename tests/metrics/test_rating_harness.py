"""One harness for all metrics of ratings: every case of the table, in every way that metrics are used."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from tests.metrics.cases import Case
from tests.metrics.rating_cases import CASES

ROOT = Path(__file__).parents[2]
_EMPTY = r"No .* added yet|no rating|No item has two ratings"
WORKER = """
import json, sys, torch
import torch.distributed as dist
from tests.metrics.rating_cases import CASES
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
found = {}
for name, case in CASES.items():
    metric = case.make()
    for batch in case.batches[rank::2]:
        metric.update(**batch)
    found[name] = {key: value.tolist() for key, value in metric.compute().items()}
if rank == 0:
    print(json.dumps(found))
dist.barrier()
dist.destroy_process_group()
"""


def computed(case: Case, batches=None):
    metric = case.make()
    for batch in case.batches if batches is None else batches:
        metric.update(**batch)
    return metric.compute()


def same(one, other) -> None:
    assert set(one) == set(other)
    for name in one:
        np.testing.assert_allclose(np.asarray(one[name]), np.asarray(other[name]), atol=2e-6, err_msg=name)


@pytest.fixture(params=CASES, name="case")
def _case(request) -> Case:
    return CASES[request.param]


def test_it_equals_what_was_done_in_another_way(case):
    found = computed(case)
    for name, value in case.wanted.items():
        assert found[name].item() == pytest.approx(value, abs=2e-6), name


def test_any_order_and_any_merging_gives_the_same(case):
    whole = computed(case)
    same(whole, computed(case, case.batches[::-1]))
    parts = [case.make() for _ in case.batches]
    for part, batch in zip(parts, case.batches, strict=True):
        part.update(**batch)
    first, *others = parts
    for other in others:
        first.merge_state(other)
    same(whole, first.compute())


def test_clones_and_pickles_go_on_by_themselves(case):
    metric = case.make()
    metric.update(**case.batches[0])
    copies = [metric.clone(), pickle.loads(pickle.dumps(metric))]
    for copy in copies:
        for batch in case.batches[1:]:
            copy.update(**batch)
        same(copy.compute(), computed(case))
    metric.reset()
    for batch in case.batches:
        metric.update(**batch)
    same(metric.compute(), computed(case))


def test_forward_gives_the_batch_and_keeps_the_whole(case):
    metric = case.make()
    metric.update(**case.batches[0])
    same(metric(**case.batches[2]), computed(case, [case.batches[2]]))
    metric.update(**case.batches[1])
    same(metric.compute(), computed(case))


def test_bfloat16_inputs_are_summed_in_full(case):
    if not case.exact:
        pytest.skip("its scores are not exact in bfloat16")
    low = [
        {
            name: torch.tensor(x).bfloat16() if isinstance(x, np.ndarray) and x.dtype == float else x
            for name, x in batch.items()
        }
        for batch in case.batches
    ]
    same(computed(case), computed(case, low))


def test_it_is_drawn(case):
    metric = case.make()
    for batch in case.batches:
        metric.update(**batch)
    for drawn in (metric.plot(), metric.plot([metric.compute(), metric.compute()])):
        assert drawn[1].has_data()
    plt.close("all")


def test_nothing_added_is_an_error(case):
    with pytest.warns(UserWarning, match="before the ``update``"), pytest.raises(ValueError, match=_EMPTY):
        case.make().compute()


def test_two_processes_find_what_one_does(tmp_path):
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(rank), str(tmp_path / "meet")],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [worker.communicate(timeout=240) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], said[0][1][-3000:] + said[1][1][-3000:]
    found = json.loads(said[0][0].splitlines()[-1])
    for name, case in CASES.items():
        same(found[name], {key: value.tolist() for key, value in computed(case).items()})
