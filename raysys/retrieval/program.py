"""The user encoder as one program of `torch.export`: it runs without this package, in Python or elsewhere.

Shape suffixes: B batch, T history, K interests, D vector.
"""

import io
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from raysys.models.contract import Batch, VectorModel
from raysys.retrieval.vectors import serving
from raysys.schema import Feature

HISTORY = "history"
TIMES = "history_at"
_ROWS, _COLUMNS = 3, 2


class _Users(nn.Module):
    def __init__(self, model: VectorModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return self.model.encode_users(batch)


def example_users(features: Sequence[Feature], history_length: int, times: bool = False) -> dict[str, Tensor]:
    """Return a batch of users without history and profile, of the names, types and shapes of real ones.

    Args:
        features: user features that the model reads.
        history_length: the longest history of the model.
        times: whether the model reads the times of the history.
    """
    batch = {
        name: torch.zeros(_ROWS, min(_COLUMNS, history_length), dtype=torch.int64)
        for name in ((HISTORY, TIMES) if times else (HISTORY,))
    }
    for feature in features:
        shape = (_ROWS, feature.length) if feature.kind == "id_list" else (_ROWS,)
        dtype = torch.float32 if feature.kind == "number" else torch.int64
        batch[f"profile_{feature.name}"] = torch.zeros(shape, dtype=dtype)
    return batch


def export_user_encoder(model: VectorModel, batch: Batch, history_length: int) -> ExportedProgram:
    """Return `encode_users` as a program of one argument, the batch, with the weights inside.

    Any number of users from 1 and any history from 1 to `history_length` columns; a longer one is refused
    when the program runs, so that a caller keeps the latest items. Dropout is off.

    Args:
        model: on the CPU.
        batch: an example, such as `example_users`: two rows or more; the program takes exactly its names.
        history_length: the longest history.
    """
    rows = Dim("batch", min=1)
    columns = Dim("length", min=1, max=history_length) if history_length > 1 else None
    shapes: dict[str, dict[int, Any]] = {name: {0: rows} for name in batch}
    for name in {HISTORY, TIMES} & shapes.keys() if columns is not None else ():
        shapes[name][1] = columns
    with serving(model), torch.inference_mode(False), torch.no_grad():
        return torch.export.export(_Users(model), (dict(batch),), dynamic_shapes=(shapes,))


def program_bytes(program: ExportedProgram) -> bytes:
    """Return the program as the bytes of a `.pt2` file."""
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def load_program(data: bytes) -> nn.Module:
    """Return the module of a `.pt2` file: called with a batch, it returns what `encode_users` does."""
    return cast("nn.Module", torch.export.load(io.BytesIO(data)).module())
