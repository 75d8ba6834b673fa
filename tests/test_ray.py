"""A cluster of Ray on this machine: the same rows as without, whatever dies."""

import os
import signal
import subprocess
import sys
import time
from operator import itemgetter
from pathlib import Path

import pytest

import dsd
from dsd import backbones, curators, engines
from dsd.captioning import caption_pairs
from dsd.data.writer import TableWriter
from dsd.engines import ray_data
from dsd.engines.base import built, recipe
from dsd.llm.records import OutOfService, Usage
from dsd.types import Verdict
from tests import ray_driver
from tests.cheap_world import CheapTeacher, make_run

ray = pytest.importorskip("ray")

RAY = {"name": "ray", "workers": 2}
PROGRAM = [sys.executable, str(Path(ray_driver.__file__))]


def processes(words):
    """The processes in whose command line all of some words stand."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            command = (folder / "cmdline").read_bytes().decode(errors="replace")
        except (OSError, ValueError):
            continue
        if (
            folder.name.isdigit()
            and int(folder.name) != os.getpid()
            and all(word in command for word in words)
        ):
            found.append(int(folder.name))
    return found


def parent(pid):
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


def wait_until(true, timeout_s=180.0):
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def cluster():
    """Two CPUs, no dashboard, no statistics; nothing of it is left afterwards."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_BACKEND_LOG_LEVEL"] = "fatal"
    context = ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
        object_store_memory=100 * 2**20, address="local",
    )  # fmt: skip
    session = context.address_info["session_dir"]
    yield context.address_info["gcs_address"]
    ray.shutdown()
    wait_until(lambda: not processes([session]))


def rows(run):
    """Everything a run holds, in order."""
    tables = {name: run.table(name) for name in run.stages()}
    return {
        name: [row for shard in table.manifest.shards for row in table.whole(shard).to_pylist()]
        for name, table in tables.items()
    }


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """A run without Ray."""
    run = ray_driver.work(tmp_path_factory.mktemp("local") / "run", "local")
    assert len(run.grids) == ray_driver.COUNT - len(ray_driver.FAULTS)
    return rows(run)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(TableWriter, "shard_rows", 4)


def test_a_service_that_actors_cannot_reach_stops_the_stage(tmp_path, cluster):
    class Distant(curators.Curator):
        def __init__(self, up, early, slow):
            self.up, self.early, self.slow = up, early, slow

        def judge(self, pair):
            if pair.grid_id not in self.early and not Path(self.up).exists():
                raise ConnectionError("refused")
            time.sleep(0.25 if pair.grid_id == self.slow else 0.0)
            return Verdict(keep=True)

    run, up = make_run(tmp_path / "run", 4, curator=None), tmp_path / "up"
    *early, slow, _ = run.grids.ids()
    far = Distant(str(up), early, slow)

    def judge():
        return dsd.curate(run, far, name="far", batch_size=8, engine=RAY, progress=False)

    with pytest.raises(OutOfService, match="has 24 new rows, which are written; 24 are missing"):
        judge()
    up.touch()
    assert judge().added == 24
    # In order, though another worker is done with the last batch before the first one is.
    assert list(run.verdicts("far").row_keys()) == list(run.pairs.ids())


def test_all_stages_make_the_rows_of_the_local_engine(tmp_path, cluster, tiny_flux):
    backbone = backbones.load(str(tiny_flux), parts=("vae", "text"))
    made = []
    for name, engine in (("ray", {"name": "ray", "workers": 1}), ("local", "local")):
        (tmp_path / name).mkdir()
        options = {"engine": engine, "progress": False}
        run = dsd.Run(tmp_path / name / "run")
        dsd.write_prompts(run, count=300, **options)  # more than one span
        run = ray_driver.work(tmp_path / name / "other", engine)
        caption_pairs(run, "cheap", batch_size=16, **options)
        dsd.encode(run, backbone, captions="cheap", batch_size=8, **options)
        assert run.verify() == []
        made.append({"prompts": rows(dsd.Run(tmp_path / name / "run")), **rows(run)})
    assert made[0] == made[1]
    assert {stage.partition("/")[0] for stage in made[0]} == {
        "prompts", "grids", "pairs", "verdicts", "captions", "encoded", "failed",
    }  # fmt: skip
    assert all(made[0].values())


@pytest.mark.slow
def test_the_embedded_teacher_draws_the_same_grids_bit_for_bit(tmp_path, cluster):
    """Its batches hold the same prompts: alone, a grid would differ in its last bits."""
    made = []
    for name, engine in (("local", "local"), ("ray", {"name": "ray", "workers": 1})):
        run = dsd.Run(tmp_path / name)
        dsd.write_prompts(run, count=5, progress=False)
        teacher = {"name": "diffusers", "model": "mini", "batch_size": 3, "num_inference_steps": 2}
        dsd.draw_grids(run, teacher=teacher, engine=engine, progress=False)
        made.append(rows(run))
    assert made[0] == made[1]


def test_a_killed_actor_loses_nothing_and_a_deadly_row_is_named(tmp_path, cluster, expected):
    faults = {**ray_driver.FAULTS, "005": str(tmp_path / "died"), "010": "die"}
    run = ray_driver.draw(tmp_path / "run", {**RAY, "retries": 1}, faults=faults)
    assert (tmp_path / "died").exists()
    reasons = {failure.source: failure.reason for failure in run.failed("grids")}
    prompts = list(run.prompts)
    assert set(reasons) == {prompts[i].id for i in (3, 7, 10)}
    assert "worker process died each of 2 times" in reasons[prompts[10].id]
    deadly = next(row["id"] for row in expected["grids"] if row["prompt_id"] == prompts[10].id)
    found, whole = (sorted(grids, key=itemgetter("id")) for grids in (rows(run)["grids"], expected["grids"]))
    assert found == [row for row in whole if row["id"] != deadly]  # each once


def test_a_killed_driver_goes_on_where_it_was(tmp_path, cluster, expected):
    path = tmp_path / "run"
    environment = {**os.environ, "RAY_ADDRESS": cluster}
    with subprocess.Popen([*PROGRAM, path], env=environment, stderr=subprocess.DEVNULL) as driver:
        first = path / "grids" / "part-00000.parquet"
        wait_until(lambda: driver.poll() is not None or first.exists())
        assert driver.poll() is None
        os.kill(driver.pid, signal.SIGKILL)
    assert len(dsd.Run(path).grids) < 10
    run = ray_driver.draw(path, {"name": "ray", "workers": 1}, pause_s=0.3)
    assert rows(run)["grids"] == expected["grids"]
    assert run.verify() == []


def test_what_the_work_raises_is_raised_here(tmp_path, cluster):
    class Short(curators.Curator):  # of a notebook: sent by value
        def judge(self, pair):
            return Verdict(keep=True)

        def judge_batch(self, pairs):
            return super().judge_batch(pairs)[:-1]

    run = ray_driver.work(tmp_path / "run", "local")
    with pytest.raises(ValueError, match=r"Short\.judge_batch gave 7 verdicts for 8 pairs"):
        dsd.curate(run, Short(), name="short", batch_size=8, engine=RAY, progress=False)
    assert len(run.verdicts("short")) == 0


def test_a_driver_that_starts_a_cluster_and_is_killed_leaves_none(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}

    def raylets():
        return [pid for pid in processes(["raylet"]) if parent(pid) == driver.pid]

    with subprocess.Popen([*PROGRAM, tmp_path / "run"], env=environment, stderr=subprocess.DEVNULL) as driver:
        wait_until(lambda: driver.poll() is not None or raylets())
        started = raylets()
        os.kill(driver.pid, signal.SIGKILL)
    assert started
    wait_until(lambda: not set(started) & set(processes(["raylet"])))  # a zombie has no command line


class Paid(curators.Curator):
    """Keeps an account, so it is asked from the driver."""

    def __init__(self):
        self.ledger, self.pids = self, set()
        self.usage = Usage()

    def judge(self, pair):
        self.pids.add(os.getpid())
        return Verdict(keep=True, cost_usd=0.5)


def test_who_is_paid_is_asked_from_this_process(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_data.ray, "init", lambda **options: pytest.fail("a cluster for nothing"))
    run = ray_driver.work(tmp_path / "run", "local")
    paid = Paid()
    dsd.curate(run, paid, name="paid", engine=engines.create("ray"), progress=False)
    assert paid.pids == {os.getpid()}
    assert len(run.verdicts("paid")) == len(run.pairs)
    # Nor is one begun where nothing is left to do.
    assert dsd.curate(run, "parity", batch_size=16, engine="ray", progress=False).added == 0


def test_plug_ins_travel_as_recipes(tmp_path):
    teacher = CheapTeacher(batch_size=2, faults={"a": "raise"})
    teacher.loaded = open(os.devnull)  # what cannot be pickled
    made = built(recipe({"one": [teacher], "n": 3}))
    assert made["n"] == 3
    assert made["one"][0] is not teacher
    assert (made["one"][0].batch_size, made["one"][0].faults) == (2, {"a": "raise"})
    teacher.loaded.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "`workers` must be at least 1"),
        ({"retries": -1}, "`retries` must be at least 0"),
        ({"threads": 0}, "`threads` must be at least 1"),
        ({"num_cpus": 0}, "An actor needs CPUs or GPUs"),
    ],
)
def test_numbers_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        engines.create({"name": "ray", **options})
    with pytest.raises(LookupError, match="Did you mean 'ray'"):
        engines.create("rai")
    assert engines.spec(engines.create({"name": "ray", "num_gpus": 1})) == {"name": "ray", "num_gpus": 1}


def test_no_room_is_said(tmp_path, cluster):
    run = ray_driver.work(tmp_path / "run", "local")
    with pytest.raises(
        ValueError, match=r"has 2 CPUs and 0 GPUs: no room for an actor with 1 CPUs and 1 GPUs"
    ):
        dsd.curate(run, "heuristic", engine={"name": "ray", "num_gpus": 1}, progress=False)
