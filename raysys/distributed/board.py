"""TensorBoard event files of a training, curves and hyper-parameters."""

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raysys.storage import Folder


class Board:
    """TensorBoard event files under `logs/`; on an object store they are written beside and copied."""

    def __init__(self, logs: Folder, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.logs = logs
        self.directory = logs.path if logs.is_local else tempfile.mkdtemp(prefix="raysys-logs-")
        self.writer = SummaryWriter(self.directory, purge_step=first_step + 1, flush_secs=10)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add one value to each named curve."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        if not self.logs.is_local:
            self._copy()

    def write_settings(self, settings: Mapping[str, Any], results: Mapping[str, float]) -> None:
        """Make the training a row of the HParams page: what was set, and what came of it."""
        from torch.utils.tensorboard.summary import hparams

        plain = {key: value if isinstance(value, bool | int | float | str) else str(value)
                 for key, value in settings.items()}  # fmt: skip
        for summary in hparams(plain, dict.fromkeys(results, 0.0)):
            assert self.writer.file_writer is not None
            self.writer.file_writer.add_summary(summary)
        for name, value in results.items():
            self.writer.add_scalar(name, value)

    def _copy(self) -> None:
        self.writer.flush()
        for name in os.listdir(self.directory):
            self.logs.write_bytes(name, (Path(self.directory) / name).read_bytes())

    def close(self) -> None:
        """Finish the files."""
        self.writer.close()
        if not self.logs.is_local:
            self._copy()
            shutil.rmtree(self.directory, ignore_errors=True)
