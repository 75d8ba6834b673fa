"""One of several processes that share the work of the harness."""

import pickle
import warnings
from pathlib import Path

import numpy as np
import torch.distributed as dist

from tests.metrics.cases import all_cases


def compute_share(rank: int, world_size: int, port: int, folder: str) -> None:
    """Add every second batch of every case, compute with the others, and write what came out."""
    warnings.filterwarnings("ignore", message=".*tokens that the network reads")
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world_size)
    found = {}
    for name, case in all_cases().items():
        metric = case.make()
        for batch in case.batches[rank::world_size]:
            metric.update(**batch)
        value = metric.compute()
        named = value if isinstance(value, dict) else {"value": value}
        found[name] = {key: np.asarray(x) for key, x in named.items()}
    (Path(folder) / f"{rank}.pkl").write_bytes(pickle.dumps(found))
    dist.barrier()
    dist.destroy_process_group()
