"""The user encoder as one program of `torch.export`: it runs without this package, in Python or elsewhere.

What it takes follows from the model's `SampleShape`. The number of users and the columns of histories, of
sessions and of every long-term set are free up to the longest of the shape.

Shape suffixes: B batch, T history, S session, L set, K interests, D vector.
"""

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional

from raysys.data.shapes import SampleShape
from raysys.models.contract import Batch, VectorModel
from raysys.retrieval.vectors import serving
from raysys.schema import Feature

_ROWS, _COLUMNS = 3, 2


class Columns(NamedTuple):
    """Inputs (B, columns) that have the same columns: their names, the most columns, and whether their order
    is that of time."""

    names: tuple[str, ...]
    longest: int
    ordered: bool


def free_columns(shape: SampleShape) -> list[Columns]:
    """Return the inputs whose columns differ between batches: history, session, and every set by itself."""
    found: list[Columns] = []

    def add_sequence(name: str, longest: int) -> None:
        more = (*shape.event_features, *(("at",) if shape.times else ()))
        found.append(Columns((name, *(f"{name}_{extra}" for extra in more)), longest, ordered=True))

    if shape.history_length:
        add_sequence("history", shape.history_length)
    if shape.session is not None:
        longest = shape.session.last_n or shape.session.max_items
        add_sequence("short", min(longest, shape.reach or longest))
        for name in shape.long_features:
            found.append(Columns((f"long_{name}",), shape.session.long_term_max, ordered=False))
    return found


class _Users(nn.Module):
    """`encode_users` of batches whose columns differ.

    Args:
        widths: columns that inputs get from padding on the left.
    """

    def __init__(self, model: VectorModel, widths: Mapping[str, int]) -> None:
        super().__init__()
        self.model = model
        self.widths = dict(widths)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        # padding by the missing columns alone would fix their number where the example misses none
        wide = {name: functional.pad(batch[name], (n, 0))[:, -n:] for name, n in self.widths.items()}
        return self.model.encode_users({**batch, **wide})


def example_users(shape: SampleShape, features: Sequence[Feature]) -> dict[str, Tensor]:
    """Return a batch of users without history and profile, of the names, types and shapes of real ones.

    Args:
        shape: of the model's samples.
        features: user features that the model reads.
    """
    batch = {
        name: torch.zeros(_ROWS, min(_COLUMNS, columns.longest), dtype=torch.int64)
        for columns in free_columns(shape)
        for name in columns.names
    }
    if shape.user_idx:
        batch["user_idx"] = torch.zeros(_ROWS, dtype=torch.int64)
    if shape.example_age:
        batch["example_age"] = torch.zeros(_ROWS)
    for feature in features:
        size = (_ROWS, feature.length) if feature.kind == "id_list" else (_ROWS,)
        dtype = torch.float32 if feature.kind == "number" else torch.int64
        batch[f"profile_{feature.name}"] = torch.zeros(size, dtype=dtype)
    return batch


def export_user_encoder(model: VectorModel, batch: Batch, shape: SampleShape) -> ExportedProgram:
    """Return `encode_users` as a program of one argument, the batch, with the weights inside.

    Any number of users from 1, and of the inputs of `free_columns` any columns from 1 to the longest; longer
    ones are refused when the program runs, so that a caller keeps the latest. Dropout is off. In a model with
    a recurrent layer the program itself widens histories and sessions to the longest, by padding.

    Args:
        model: on the CPU.
        batch: an example, such as `example_users`: two rows or more; the program takes exactly its names.
        shape: of the model's samples.
    """
    rows = Dim("batch", min=1)
    sizes: dict[str, dict[int, Any]] = {name: {0: rows} for name in batch}
    widths: dict[str, int] = {}
    # torch exports a recurrent layer for one length only, as it unrolls it to find the output's shape
    recurrent = any(isinstance(part, nn.RNNBase) for part in cast("nn.Module", model).modules())
    for number, columns in enumerate(free_columns(shape)):
        if columns.longest > 1:
            free = Dim(f"length_{number}", min=1, max=columns.longest)
            for name in columns.names:
                sizes[name][1] = free
                if recurrent and columns.ordered:
                    widths[name] = columns.longest
    with serving(model), torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
        # a recurrent layer keeps its weights in a list too, which tracing fills and restores
        warnings.filterwarnings("ignore", r"The tensor attributes? .*_flat_weights", UserWarning)
        return torch.export.export(_Users(model, widths), (dict(batch),), dynamic_shapes=(sizes,))


def program_bytes(program: ExportedProgram) -> bytes:
    """Return the program as the bytes of a `.pt2` file."""
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def load_program(data: bytes) -> nn.Module:
    """Return the module of a `.pt2` file: called with a batch, it returns what `encode_users` does."""
    return cast("nn.Module", torch.export.load(io.BytesIO(data)).module())
