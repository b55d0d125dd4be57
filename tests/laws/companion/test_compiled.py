"""A compiled network learns as an eager one."""

import pytest
import torch

from l2o.companion import NetworkClassifier, stack_networks

pytestmark = [
    pytest.mark.compile,
    # The compiler looks at `.grad` of what is no leaf.
    pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning"),
]


@pytest.mark.parametrize("backbone", ["ng_gnn", "ng_t"], indirect=True)
def test_compiled_is_eager_to_rounding(backbone, build, mlps, gap):
    torch.compiler.reset()
    graph, params, sizes = mlps(2)
    model = build(NetworkClassifier, backbone, **sizes)
    batch, weights = stack_networks(graph, params), list(model.parameters())
    found, expected = (
        (logits, torch.autograd.grad(logits.square().sum(), weights))
        for logits in (torch.compile(model, backend="aot_eager")(batch), model(batch))
    )
    assert gap(found[0], expected[0]) < 1e-9
    for grad, want in zip(found[1], expected[1], strict=True):
        torch.testing.assert_close(grad, want, rtol=1e-9, atol=1e-9)
