"""One harness for all metrics: every case of every table, in every way that metrics are used."""

import pickle
import socket

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import multiprocessing
from torchmetrics import Metric

from dsd import metrics
from tests.metrics.cases import Case, all_cases
from tests.metrics.worker import compute_share

CASES = all_cases()
NO_CASE = {"clip_image_similarity", "dino_similarity"}
"""Their weights are not here. They are `image_similarity` by another extractor: see test_networks.py."""


def computed(case: Case, batches=None):
    metric = case.make()
    for batch in case.batches if batches is None else batches:
        metric.update(**batch)
    return plain(metric.compute())


def plain(found) -> dict[str, np.ndarray]:
    named = found if isinstance(found, dict) else {"value": found}
    return {name: np.asarray(value) for name, value in named.items()}


def same(one, other, atol: float = 2e-6) -> None:
    assert set(one) == set(other)
    for name in one:
        np.testing.assert_allclose(one[name], other[name], atol=atol, err_msg=name)


pytestmark = pytest.mark.filterwarnings("ignore:.*tokens that the network reads")


@pytest.fixture(params=CASES, name="case")
def _case(request):
    return CASES[request.param]


def test_every_registered_metric_is_run():
    assert set(metrics.names()) - NO_CASE == {name.partition(" ")[0] for name in CASES}


@pytest.mark.parametrize("name", metrics.names())
def test_every_class_says_what_torchmetrics_asks(name):
    cls = metrics.get(name)
    if not cls.__module__.startswith("dsd."):
        pytest.skip("a stranger's")
    for attribute in ("is_differentiable", "higher_is_better", "full_state_update"):
        assert isinstance(getattr(cls, attribute), bool), attribute
    assert cls.plot is not Metric.plot
    assert "Args:" in cls.__doc__ or "see there" in cls.__doc__


def test_it_equals_what_was_done_in_another_way(case):
    found = computed(case)
    for name, value in case.wanted.items():
        assert found[name].item() == pytest.approx(value, abs=2e-6), name


def test_parts_in_any_order_and_merged_give_the_same(case):
    whole = computed(case)
    same(whole, computed(case, case.batches[::-1]))
    parts = [case.make() for _ in case.batches]
    for part, batch in zip(parts, case.batches, strict=True):
        part.update(**batch)
    first, *others = parts
    for other in others:
        first.merge_state(other)
    same(whole, plain(first.compute()))


def test_clones_pickles_and_resets_go_on_by_themselves(case):
    whole, metric = computed(case), case.make()
    metric.update(**case.batches[0])
    for copy in (metric.clone(), pickle.loads(pickle.dumps(metric))):
        for batch in case.batches[1:]:
            copy.update(**batch)
        same(whole, plain(copy.compute()))
    metric.reset()
    for batch in case.batches:
        metric.update(**batch)
    same(whole, plain(metric.compute()))


def test_forward_gives_the_batch_and_keeps_the_whole(case):
    metric = case.make()
    metric.update(**case.batches[0])
    same(computed(case, case.batches[2:]), plain(metric(**case.batches[2])))
    metric.update(**case.batches[1])
    same(computed(case), plain(metric.compute()))


def test_bfloat16_inputs_are_summed_in_full(case):
    if not case.exact:
        pytest.skip("its inputs are not exact in bfloat16")

    def low(value):
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            return value.bfloat16()
        if isinstance(value, np.ndarray) and value.dtype == float:
            return torch.tensor(value).bfloat16()
        return [low(x) for x in value] if isinstance(value, list) else value

    metric = case.make()
    metric.bfloat16()  # what Lightning does with a module's metrics
    for batch in case.batches:
        metric.update(**{name: low(value) for name, value in batch.items()})
    same(computed(case), plain(metric.compute()))


def test_it_is_drawn(case):
    metric = case.make()
    if type(metric).plot is Metric.plot:
        pytest.skip("a stranger's, which does not say how it is drawn")
    for batch in case.batches:
        metric.update(**batch)
    for drawn in (metric.plot(), metric.plot([metric.compute(), metric.compute()])):
        assert drawn[1].has_data()
    ours = plt.subplots()[1]
    assert metric.plot(ax=ours)[1] is ours
    plt.close("all")


def test_nothing_added_is_an_error(case):
    if not type(case.make()).__module__.startswith("dsd."):
        pytest.skip("a stranger's")
    with (
        pytest.warns(UserWarning, match="before the ``update``"),
        pytest.raises(ValueError, match=r"[Nn]o .* (was|has)"),
    ):
        case.make().compute()


def test_two_processes_find_what_one_does(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(compute_share, args=(2, port, str(tmp_path)), nprocs=2)
    found = pickle.loads((tmp_path / "0.pkl").read_bytes())
    assert set(found) == set(CASES)
    same_in_both = pickle.loads((tmp_path / "1.pkl").read_bytes())
    for name, case in CASES.items():
        same(computed(case), found[name])
        same(found[name], same_in_both[name])
