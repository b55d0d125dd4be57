import torch

from optimizees.preactivation import PreActivationNet, PreActivationUnit


def test_a_unit_that_keeps_the_shape_skips_its_input_unchanged():
    unit = PreActivationUnit(4, 4, stride=1).double()
    torch.nn.init.zeros_(unit.convolutions[1].weight)
    inputs = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    assert torch.equal(unit(inputs), inputs)


def test_stages_halve_the_image_and_double_the_channels():
    net = PreActivationNet(units=2)
    shapes = []
    maps = net.stem(torch.randn(2, 3, 32, 32))
    for unit in net.units:
        maps = unit(maps)
        shapes.append(tuple(maps.shape[1:]))
    assert shapes == [(16, 32, 32)] * 2 + [(32, 16, 16)] * 2 + [(64, 8, 8)] * 2


def test_a_forward_pass_in_training_moves_running_statistics():
    net = PreActivationNet()
    inputs = torch.randn(4, 3, 32, 32)
    assert net(inputs).shape == (4, 10)
    assert net.norm.num_batches_tracked == 1
    net.eval()
    assert torch.equal(net(inputs)[:2], net(inputs)[:2])
    assert net.norm.num_batches_tracked == 1
