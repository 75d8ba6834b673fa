"""When a training makes its first step; a callback for `dsd fit`."""

import json
import time
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback


class FirstStep(Callback):
    """Writes the time of day and this process' CPU seconds when the first step is done.

    Args:
        file: where to.
    """

    def __init__(self, file: str) -> None:
        self.file = Path(file)

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Write, once."""
        if not self.file.exists():
            self.file.write_text(json.dumps({"time": time.time(), "cpu_s": time.process_time()}))
