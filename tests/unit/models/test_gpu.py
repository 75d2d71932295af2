"""CPU and GPU give the same vectors and the same loss within float32 rounding."""

from typing import get_args

import pytest
import torch

from raysys.models import MODELS, build_model
from raysys.nn.loss_inputs import LossName
from tests.reference.world import small_batch, small_catalog

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("name", sorted(MODELS))
@pytest.mark.parametrize("loss", get_args(LossName))
def test_cpu_and_gpu_agree(name, loss):
    catalog, batch = small_catalog(), small_batch()
    model = build_model(name, MODELS[name].config(), catalog, loss, seed=0).eval()
    vectors, active = model.encode_users(batch)
    value = model(batch)["loss"]
    model = model.cuda()
    moved = {key: tensor.cuda() for key, tensor in batch.items()}
    found, found_active = model.encode_users(moved)
    assert torch.equal(found_active.cpu(), active)
    assert torch.allclose(found.cpu(), vectors, atol=1e-5)
    assert torch.allclose(model(moved)["loss"].cpu(), value, atol=1e-5)
