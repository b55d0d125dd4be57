"""Equivariant layers: renumbering commutes with them, and nothing is left out."""

from itertools import pairwise, permutations, product
from math import prod

import pytest
import torch
from torch.func import functional_call, jacrev

from l2o import neural_graph
from l2o.nets.chain import find_chain
from l2o.nets.nfn_layers import EquivariantLinear, chain_slots, invariants
from l2o.nets.nfn_stack import EquivariantStack

MODES = ["np", "hnp"]


def slots_of(chain, mode):
    ends = (0, chain.depth) if mode == "hnp" else ()
    return chain_slots(chain.num_cells, {group: chain.sizes[group] for group in ends})


def hidden_of(chain):
    return set(range(1, chain.depth))


def through(stack, slots, chain, params):
    """Return what a stack makes of networks, name to `[network, *shape]`."""
    pairs = list(zip(slots, chain.lay(params), strict=True))
    laid = stack([None if item is None else slot.fold(item) for slot, item in pairs])
    unfolded = [
        None if item is None else slot.unfold(item)
        for slot, item in zip(slots, laid, strict=True)
    ]
    return chain.collect(unfolded), laid


@pytest.fixture
def build_stack():
    def build(slots, pooling="mean", kind=EquivariantLinear):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            stack = EquivariantStack(slots, [1, 5, 4, 1], pooling=pooling)
            for index, layer in enumerate(stack.layers):
                layer.__class__ = kind
                stack.layers[index] = layer
        return stack.double()

    return build


@pytest.fixture
def error(random_batch, renumber, distance, build_stack):
    """Return how far a stack is from equivariance, and its pools from invariance."""

    def measure(chain, mode, groups, pooling="mean", kind=EquivariantLinear):
        slots = slots_of(chain, mode)
        stack = build_stack(slots, pooling, kind)
        params = random_batch(chain)
        found, moved = through(stack, slots, chain, renumber(chain, params, groups))
        expected, still = through(stack, slots, chain, params)
        pools = [invariants(slots, laid, pooling) for laid in (moved, still)]
        return distance(found, renumber(chain, expected, groups)), distance(*pools)

    return measure


@pytest.mark.parametrize("pooling", ["mean", "max"])
@pytest.mark.parametrize("mode", MODES)
def test_hidden_neurons_may_change_places(error, chain, mode, pooling):
    assert max(error(chain, mode, hidden_of(chain), pooling)) < 1e-9


@pytest.mark.parametrize("groups", ["inputs", "outputs"])
def test_inputs_and_outputs_only_where_they_are_not_told_apart(error, chain, groups):
    moved = {0} if groups == "inputs" else {chain.depth}
    assert max(error(chain, "np", moved)) < 1e-9
    assert min(error(chain, "hnp", moved)) > 1e-3


class OffByOne(EquivariantLinear):
    """Neurons get what belongs to the next one."""

    def _neuron_shares(self, views):
        shares = super()._neuron_shares(views)
        return {key: share.roll(1, dims=1) for key, share in shares.items()}


@pytest.mark.parametrize("mode", MODES)
def test_the_law_can_fail(error, chain, mode):
    exchangeable = set(range(chain.depth + 1)) if mode == "np" else hidden_of(chain)
    if not exchangeable:
        pytest.skip("all its neurons are told apart")
    assert error(chain, mode, exchangeable, kind=OffByOne)[0] > 1e-3


class TestCompleteness:
    """A layer spans the whole space of equivariant linear maps, each map once.

    The dimension of that space is the mean, over all renumberings, of the squared
    number of entries that stay in place.
    """

    SIZES = (2, 3, 4, 2)

    @pytest.fixture(params=MODES)
    def mode(self, request):
        return request.param

    @pytest.fixture
    def small(self):
        pairs = [(target, source) for source, target in pairwise(self.SIZES)]
        shapes = {
            f"{k}{kind}": shape
            for k, pair in enumerate(pairs)
            for kind, shape in (("w", pair), ("b", pair[:1]))
        }
        return find_chain(neural_graph({n: torch.zeros(s) for n, s in shapes.items()}))

    def dimension(self, mode):
        apart = {0, len(self.SIZES) - 1} if mode == "hnp" else set()
        orders = [
            [tuple(range(size))] if group in apart else list(permutations(range(size)))
            for group, size in enumerate(self.SIZES)
        ]
        squares = []
        for choice in product(*orders):
            still = [sum(k == place for k, place in enumerate(o)) for o in choice]
            entries = sum(t * (s + 1) for s, t in pairwise(still))
            squares.append(entries**2)
        return sum(squares) / len(squares)

    def rank(self, layer, slots, chain):
        """Return the dimension of the space of maps that the layer's weights span."""
        count = chain.graph.num_parameters
        units = torch.eye(count, dtype=torch.float64)
        sizes = [prod(shape) for shape in chain.graph.shapes.values()]
        pairs = zip(chain.graph.shapes.items(), units.split(sizes, 1), strict=True)
        params = {name: piece.unflatten(1, shape) for (name, shape), piece in pairs}

        def maps(theta):
            still = {**theta, "whole.bias": torch.zeros_like(layer.whole.bias)}

            def call(laid):
                return functional_call(layer, still, (laid,))

            found = through(call, slots, chain, params)[0]
            return torch.cat([found[name].flatten(1) for name in params], 1)

        theta = {n: w.detach() for n, w in layer.named_parameters() if n[-4:] != "bias"}
        slopes = jacrev(maps)(theta).values()
        whole = torch.cat([item.reshape(count**2, -1) for item in slopes], 1)
        return int(torch.linalg.matrix_rank(whole)), whole.shape[1]

    def test_it_holds_every_map_once(self, small, mode):
        slots = slots_of(small, mode)
        layer = EquivariantLinear(slots, 1, 1).double()
        dimension = self.dimension(mode)
        assert dimension == {"np": 62, "hnp": 114}[mode]
        assert self.rank(layer, slots, small) == (dimension, dimension)

    def test_the_law_can_fail(self, small, mode):
        class Lacking(EquivariantLinear):
            def _neuron_shares(self, views):
                shares = super()._neuron_shares(views)
                return {key: 0 * share for key, share in shares.items()}

        slots = slots_of(small, mode)
        rank, count = self.rank(Lacking(slots, 1, 1).double(), slots, small)
        assert rank < count
