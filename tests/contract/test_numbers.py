"""Precisions, shapes and memory layouts that a working script may bring."""

import pytest
import torch
from torch import nn

from l2o import NeuralGraphOpt

SHAPES = [(), (3,), (3, 2), (3, 2, 2), (3, 2, 2, 2), (3, 2, 2, 2, 2)]


def parameters(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    shapes = [*SHAPES, (0,), (0, 3), (4, 0, 2)]
    return [
        nn.Parameter(torch.randn(shape, generator=generator).to(dtype))
        for shape in shapes
    ]


def step(params, optimizer, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for param in params:
        grad = torch.randn(param.shape, generator=generator)
        param.grad = grad.to(param.dtype)
    optimizer.step()


loose = pytest.mark.filterwarnings("ignore:NeuralGraphOpt needs a place in the graph")


@loose
@pytest.mark.parametrize("kind", ["ng-gnn", "ff"])
@pytest.mark.parametrize("is_named", [False, True], ids=["tensors", "named"])
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16]
)
def test_zero_to_five_axes_and_empty_tensors(kind, is_named, dtype):
    params = parameters(dtype)
    before = [param.detach().clone() for param in params]
    given = [(f"w{i}", p) for i, p in enumerate(params)] if is_named else params
    # Warm-up steps are so short that numbers of eight bits would round them away.
    optimizer = NeuralGraphOpt(given, rule=kind, lr=10.0)
    for seed in range(3):
        step(params, optimizer, seed)
    for param, old in zip(params, before, strict=True):
        assert param.dtype == dtype
        assert param.isfinite().all()
        assert (param != old).any() == (param.numel() > 0)


def test_nothing_but_empty_tensors(rule):
    params = [nn.Parameter(torch.zeros(0, 3))]
    optimizer = NeuralGraphOpt(params, rule=rule)
    step(params, optimizer)
    assert optimizer.diagnostics().steps == 0


@loose
def test_precisions_may_differ(rule):
    params = [nn.Parameter(torch.ones(3, 2, dtype=torch.bfloat16))]
    params += [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3).double())]
    optimizer = NeuralGraphOpt(params, rule=rule)
    for seed in range(2):
        step(params, optimizer, seed)
    assert all((param != 1).any() and param.isfinite().all() for param in params)
    widths = [optimizer.state[param]["momenta"].dtype for param in params]
    assert widths == [torch.float32, torch.float32, torch.float64]


def transposed(tensor):
    return tensor.movedim(0, -1).contiguous().movedim(-1, 0)


def strided(tensor):
    return torch.stack([tensor, tensor], -1)[..., 0]


def channels_last(tensor):
    return tensor.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("lay", [transposed, strided, channels_last])
def test_the_layout_of_a_tensor_does_not_matter(rule, lay):
    kernel = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    pair = [nn.Parameter(kernel.clone()), nn.Parameter(lay(kernel))]
    strides = pair[1].stride()
    optimizers = [NeuralGraphOpt([param], rule=rule) for param in pair]
    for seed in range(3):
        for param, optimizer in zip(pair, optimizers, strict=True):
            step([param], optimizer, seed)
            param.grad = lay(param.grad)
    assert pair[1].stride() == strides != pair[0].stride()
    torch.testing.assert_close(*pair, rtol=1e-5, atol=1e-6)


class TestAutocast:
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_a_step_inside_is_a_step_outside(
        self, rule, build_model, loss_of, assert_same, dtype
    ):
        pair = []
        for is_inside in (False, True):
            model = build_model()
            optimizer = NeuralGraphOpt(model.parameters(), rule=rule)
            for number in range(3):
                optimizer.zero_grad()
                with torch.autocast("cpu", dtype=dtype):
                    loss_of(model, number).backward()
                with torch.autocast("cpu", dtype=dtype, enabled=is_inside):
                    optimizer.step()
            pair.append(model)
        assert_same(*pair)


class TestGradScaler:
    def test_skipped_steps_are_skipped(self, rule, build_model, loss_of, assert_same):
        """The scaler halves its scale and does not call `step`."""
        model, plain = build_model(), build_model()
        optimizer = NeuralGraphOpt(model.parameters(), rule=rule)
        expected = NeuralGraphOpt(plain.parameters(), rule=rule)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=100)
        for number in range(4):
            optimizer.zero_grad()
            scaler.scale(loss_of(model, number)).backward()
            if number == 2:
                model[0].weight.grad[0] = torch.inf
            scaler.step(optimizer)
            scaler.update()
            if number != 2:
                expected.zero_grad()
                (loss_of(plain, number) * scaler.get_scale()).backward()
                for param in plain.parameters():
                    param.grad /= scaler.get_scale()
                expected.step()
        assert scaler.get_scale() == 2.0**9
        assert optimizer.diagnostics().steps == 3
        assert_same(model, plain)

    def test_gradients_may_be_clipped_after_unscaling(self, rule, model, loss_of):
        optimizer = NeuralGraphOpt(model.parameters(), rule=rule)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        scaler.scale(loss_of(model)).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
        scaler.step(optimizer)
        peaks = optimizer.diagnostics().last_gradient.values()
        assert 0 < max(peaks) <= 1e-3


@pytest.mark.parametrize(
    "clip",
    [
        lambda params: nn.utils.clip_grad_norm_(params, 0.1),
        lambda params: nn.utils.clip_grad_value_(params, 0.01),
    ],
    ids=["norm", "value"],
)
def test_clipped_gradients_are_what_the_rule_reads(rule, model, loss_of, clip):
    optimizer = NeuralGraphOpt(model.parameters(), rule=rule)
    loss_of(model).backward()
    clip(model.parameters())
    peaks = [float(param.grad.abs().max()) for param in model.parameters()]
    optimizer.step()
    found = list(optimizer.diagnostics().last_gradient.values())
    assert found == pytest.approx(peaks)
