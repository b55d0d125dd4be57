"""On a GPU, where there is one."""

import copy

import pytest
import torch

from l2o import NeuralGraphOpt

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]


@pytest.fixture
def trained(build_model, train):
    """Train a model and its optimizer for two steps on the GPU."""
    model = build_model().cuda()
    optimizer = NeuralGraphOpt(model.parameters())
    train(model, optimizer, range(2))
    return model, optimizer


def test_it_is_the_run_of_the_cpu(trained, build_model, train):
    model = build_model()
    train(model, NeuralGraphOpt(model.parameters()), range(2))
    for param, expected in zip(
        trained[0].parameters(), model.parameters(), strict=True
    ):
        torch.testing.assert_close(param.cpu(), expected, rtol=1e-3, atol=1e-4)


def test_a_step_waits_for_nothing(trained):
    torch.cuda.set_sync_debug_mode("error")
    try:
        trained[1].step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_states_move_between_devices(trained, build_model, train, through_a_file):
    saved = through_a_file(trained[1].state_dict())
    model = build_model()
    optimizer = NeuralGraphOpt(model.parameters())
    optimizer.load_state_dict(copy.deepcopy(saved))
    train(model, optimizer, range(2, 3))
    devices = {v.device.type for s in optimizer.state.values() for v in s.values()}
    assert devices == {"cpu"}


def test_the_scaler_skips(trained, loss_of):
    model, optimizer = trained
    scaler = torch.amp.GradScaler("cuda")
    before = [param.detach().clone() for param in model.parameters()]
    scaler.scale(loss_of(model)).backward()
    model[0].weight.grad.fill_(torch.inf)
    scaler.step(optimizer)
    scaler.update()
    for param, old in zip(model.parameters(), before, strict=True):
        assert torch.equal(param, old)
