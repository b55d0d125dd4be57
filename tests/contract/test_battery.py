"""Checks that torch's description of an optimizer drives; Adam takes them, too."""

import copy

import pytest
import torch
from contract import infos
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

pytestmark = pytest.mark.slow  # importing torch's machinery takes two seconds
pytest.importorskip("expecttest", reason="torch's test machinery needs expecttest")

OPTIMIZERS = ("NeuralGraphOpt", "Adam")


@pytest.fixture(scope="module", params=OPTIMIZERS)
def info(request):
    if request.param == "NeuralGraphOpt":
        return infos.build_info()
    known = infos.import_machinery().optim_db
    return next(item for item in known if item.name == request.param)


@pytest.fixture
def build(info):
    """Build one optimizer for each of the settings that the description lists."""

    def make(params_of, skip=()):
        for item in info.optim_inputs_func(device="cpu"):
            if not item.kwargs.keys() & set(skip):
                params = params_of()
                yield params, info.optim_cls(params, **item.kwargs), item

    return make


def pair(names=(), noncontiguous=False):
    """Return a weight and a bias, the same each time, with names if given."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 3, 2, generator=generator)
    bias = torch.randn(4, 2, generator=generator)
    tensors = [weight[..., 0], bias[..., 0]]
    if not noncontiguous:
        tensors = [tensor.contiguous() for tensor in tensors]
    params = [nn.Parameter(tensor) for tensor in tensors]
    return list(zip(names, params, strict=True)) if names else params


def tensors_of(params):
    return [item[1] if isinstance(item, tuple) else item for item in params]


def loss_of(params):
    weight, bias = tensors_of(params)
    return (weight @ torch.tensor([0.5, -1.0, 2.0]) + bias).square().sum()


def train(params, optimizer, steps=5):
    def closure():
        optimizer.zero_grad()
        loss = loss_of(params)
        loss.backward()
        return loss

    for _ in range(steps):
        loss = optimizer.step(closure)
    return loss.detach()


def assert_same(found, expected):
    for tensor, other in zip(tensors_of(found), tensors_of(expected), strict=True):
        torch.testing.assert_close(tensor, other, rtol=0, atol=0)


def test_faulty_arguments_are_refused(info):
    cases = info.optim_error_inputs_func(device="cpu", dtype=torch.float32)
    assert len(cases) >= 5
    for case in cases:
        given = case.optimizer_error_input
        is_warning = issubclass(case.error_type, Warning)
        expect = pytest.warns if is_warning else pytest.raises
        with expect(case.error_type, match=case.error_regex):
            params = pair() if given.params is None else given.params
            info.optim_cls(params, **given.kwargs)


@pytest.mark.parametrize("noncontiguous", [False, True])
def test_the_loss_goes_where_it_should(build, noncontiguous):
    for params, optimizer, item in build(lambda: pair(noncontiguous=noncontiguous)):
        before = loss_of(params).detach()
        train(params, optimizer)
        is_above = loss_of(params) > before
        assert is_above == item.kwargs.get("maximize", False), item.desc


def test_schedulers_go_along(info):
    for constructors in info.scheduler_inputs:
        params = pair()
        groups = [{"params": params[:1]}, {"params": params[1:], "lr": 0.01}]
        optimizer = info.optim_cls(groups)
        schedulers = [constructor(optimizer) for constructor in constructors]
        before = loss_of(params).detach()
        for _ in range(10):
            loss = train(params, optimizer, steps=1)
            for scheduler in schedulers:
                needs_loss = isinstance(scheduler, ReduceLROnPlateau)
                scheduler.step(*[loss] * needs_loss)
        assert loss_of(params) < before


def test_a_tensor_is_as_good_as_a_number(info, build):
    # Adam wants `capturable` or `fused` set for that; the others it lists without.
    for params, optimizer, item in build(pair, skip=("foreach", "capturable")):
        if isinstance(item.kwargs.get("lr"), torch.Tensor):
            continue
        rate = torch.tensor(float(optimizer.param_groups[0]["lr"]))
        other = pair()
        twin = info.optim_cls(other, **{**item.kwargs, "lr": rate})
        train(params, optimizer)
        train(other, twin)
        for tensor, expected in zip(params, other, strict=True):
            torch.testing.assert_close(tensor, expected)


@pytest.mark.filterwarnings("ignore:NeuralGraphOpt needs a place")
def test_a_rate_of_almost_nothing_moves_almost_nothing(info):
    params, aside = pair(), nn.Parameter(torch.ones(3))
    groups = [{"params": params, "lr": 0.01}, {"params": [aside]}]
    optimizer = info.optim_cls(groups, lr=1e-28)
    aside.grad = torch.ones(3)
    loss_of(params).backward()
    optimizer.step()
    assert (aside == 1).all()
    assert not torch.equal(params[0], pair()[0])


@pytest.mark.parametrize("fill", [None, torch.zeros_like])
def test_nothing_comes_of_nothing(build, fill):
    for params, optimizer, item in build(pair):
        if item.kwargs.get("weight_decay"):
            continue
        for param in params:
            param.grad = None if fill is None else fill(param)
        assert optimizer.step(lambda: 1.0) == 1.0
        assert_same(params, pair())


def test_it_can_be_printed(build):
    for _, optimizer, _ in build(pair):
        assert "lr" in repr(optimizer)


@pytest.mark.parametrize("first", [(), ("a", "b")], ids=["tensors", "named"])
@pytest.mark.parametrize("second", [(), ("a", "b")], ids=["tensors", "named"])
def test_states_go_from_one_to_the_other(info, build, through_a_file, first, second):
    for params, optimizer, item in build(lambda: pair(first)):
        train(params, optimizer)
        saved = through_a_file(optimizer.state_dict())
        others = pair(second)
        with torch.no_grad():
            for param, value in zip(
                tensors_of(others), tensors_of(params), strict=True
            ):
                param.copy_(value)
        twin = info.optim_cls(others, **item.kwargs)
        twin.load_state_dict(saved)
        train(params, optimizer)
        train(others, twin)
        assert_same(params, others)
        names = twin.state_dict()["param_groups"][0].get("param_names")
        assert names == (["a", "b"] if first or second else None)


def test_older_files_lack_newer_flags(info, build):
    for params, optimizer, _ in build(pair):
        train(params, optimizer)
        saved = copy.deepcopy(optimizer.state_dict())
        for group in saved["param_groups"]:
            for flag in info.not_og_supported_flags:
                group.pop(flag, None)
        for state in saved["state"].values():
            state["step"] = float(state["step"])
        optimizer.load_state_dict(saved)
        train(params, optimizer)


def test_copies_are_whole(build):
    for params, optimizer, item in build(pair):
        train(params, optimizer)
        twin = copy.deepcopy(optimizer)
        public = [
            {name for name in vars(o) if name[0] != "_"} for o in (twin, optimizer)
        ]
        assert public[0] == public[1], item.desc


def test_every_parameter_has_a_state(build):
    for params, optimizer, _ in build(pair):
        train(params, optimizer, steps=1)
        assert len(optimizer.state) == 2
        assert all(len(state) > 0 for state in optimizer.state.values())
