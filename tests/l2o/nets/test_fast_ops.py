"""Products by oneDNN: those of PyTorch, wherever nothing looks on."""

import resource
import time
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from torch.profiler import profile
from torch.utils.flop_counter import FlopCounterMode

from l2o.nets import fast_ops
from l2o.nets.fast_ops import linear, linear_by_channel, new_empty, product

ROWS, COLUMNS, INNER = 512, 256, 640

needs_onednn = pytest.mark.skipif(
    not fast_ops._HAS_ONEDNN, reason="PyTorch has no oneDNN with AVX-512 here"
)


def matrices(rows):
    """Return `[rows, INNER]` in every layout: whole, transposed, pieces of both."""
    generator = torch.Generator().manual_seed(rows)

    def draw(*shape):
        return torch.randn(shape, generator=generator)

    return {
        "rows": draw(rows, INNER),
        "columns": draw(INNER, rows).T,
        "some columns": draw(rows, 3 * INNER)[:, INNER : 2 * INNER],
        "some rows, transposed": draw(3 * INNER, rows)[INNER : 2 * INNER].T,
        "some columns, transposed": draw(INNER, 3 * rows)[:, rows : 2 * rows].T,
    }


def close(found, left, right):
    torch.testing.assert_close(
        found.double(), left.double() @ right.double(), rtol=1e-5, atol=1e-4
    )


@pytest.fixture
def bias():
    return torch.randn(COLUMNS, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("layout", matrices(1))
@pytest.mark.parametrize("other", matrices(1))
@torch.no_grad()
def test_products_are_right_and_fast_in_every_layout(layout, other, bias):
    left, right = matrices(ROWS)[layout], matrices(COLUMNS)[other]
    start = time.perf_counter()
    found = product(left, right.T)
    with_bias = linear(left, right, bias)
    by_channel = linear_by_channel(right, left.T, bias)
    taken = time.perf_counter() - start
    close(found, left, right.T)
    close(with_bias - bias, left, right.T)
    close(by_channel.T - bias, left, right.T)
    # oneDNN alone takes 3 s for a weight that is a piece of another tensor.
    assert taken < 2.0


@torch.no_grad()
def test_batches_stay_batches():
    rows = matrices(ROWS)["rows"]
    one, two = rows[None], rows.view(2, ROWS // 2, INNER)
    close(product(one, one.mT), one, one.mT)
    close(product(two, two.mT), two, two.mT)
    assert product(one, one.mT).shape == (1, ROWS, ROWS)
    close(linear(two, rows), two, rows.T)


def operations(function, *args):
    with profile() as found:
        function(*args)
    return {event.key for event in found.key_averages()}


@needs_onednn
class TestWhoComputes:
    @pytest.fixture
    def pair(self):
        return matrices(ROWS)["rows"], matrices(COLUMNS)["rows"]

    @torch.no_grad()
    def test_large_ones_go_to_onednn(self, pair):
        assert "mkldnn::_linear_pointwise" in operations(linear, *pair)

    def test_others_do_not(self, pair):
        wide = [item.double() for item in pair]
        small = [item[:8] for item in pair]
        with torch.no_grad():
            for other in wide, small:
                assert "mkldnn::_linear_pointwise" not in operations(linear, *other)
        assert "mkldnn::_linear_pointwise" not in operations(linear, *pair)

    def test_derivatives_pass(self, pair):
        left, right = (item.clone().requires_grad_() for item in pair)
        linear(left, right).sum().backward()
        sums = left.detach().double().sum(0).expand_as(right)
        torch.testing.assert_close(right.grad.double(), sums, rtol=1e-5, atol=1e-4)

    @torch.no_grad()
    def test_vmap_and_counters_see_pytorchs_own(self, pair):
        left, right = pair
        stacked = torch.stack([left, 2 * left])
        found = torch.vmap(linear, in_dims=(0, None))(stacked, right)
        close(found, stacked, right.T)
        with FlopCounterMode(display=False) as counter:
            linear(left, right)
        assert counter.get_total_flops() == 2 * ROWS * COLUMNS * INNER

    @torch.no_grad()
    def test_the_other_way_agrees(self, pair, monkeypatch):
        fast = linear(*pair)
        monkeypatch.setattr(fast_ops, "_HAS_ONEDNN", False)
        plain = linear(*pair)
        torch.testing.assert_close(plain, F.linear(*pair), rtol=0, atol=0)
        torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 0), (5,), (2**11, 2**10), (3, 1000, 1001)])
def test_new_memory_is_like_any_other(dtype, shape):
    like = torch.zeros((), dtype=dtype)
    for is_recording in (False, True):
        with torch.set_grad_enabled(is_recording):
            found = new_empty(like, shape)
            assert (found.shape, found.dtype) == (shape, dtype)
            assert found.is_contiguous()
            assert found.data_ptr() % 64 == 0
            found.fill_(1.0)
            assert found.sum(dtype=torch.float64) == found.numel()


LARGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.skipif(
    not (LARGE_PAGES.is_file() and "[madvise]" in LARGE_PAGES.read_text()),
    reason="the system does not hand out large pages to who asks for them",
)
def test_new_memory_is_handed_out_in_large_pages():
    like, shape = torch.zeros(()), (2**25,)

    def faults(empty):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        empty(shape).fill_(1.0)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    with torch.no_grad():
        assert faults(lambda shape: new_empty(like, shape)) < 2**10
        assert faults(like.new_empty) >= 2**14  # the law can fail: pages of 4 kB
