import torch

from l2o.optim.rounding import noise_of, rounded, seed_of


def draws(value, count=20000, step=1.0, number=0):
    """Round one value many times."""
    values = torch.full((count,), value)
    return rounded(values, noise_of(values, seed_of(torch.tensor(step), number))[0])


def test_the_mean_of_many_is_the_value():
    for value in (1 + 2.0**-10, -3.14159, 1e-30, 65504.1):
        found = draws(value).double()
        unit = float(found.max() - found.min())
        assert unit > 0
        # The standard deviation of one draw is at most half a unit.
        assert abs(float(found.mean()) - value) < 4 * 0.5 * unit / 20000**0.5


def test_to_the_nearest_the_mean_is_not():
    value = 1 + 2.0**-10
    nearest = torch.full((20000,), value).to(torch.bfloat16).double()
    assert abs(float(nearest.mean()) - value) > 4 * 0.5 * 2.0**-7 / 20000**0.5


def test_a_value_goes_to_one_of_its_neighbours():
    assert draws(1 + 2.0**-10).unique().tolist() == [1.0, 1 + 2.0**-7]
    assert draws(-1 - 2.0**-10).unique().tolist() == [-1 - 2.0**-7, -1.0]


def test_what_fits_stays():
    values = torch.tensor([0.0, -0.0, 1.5, -(2.0**-126), float("inf")])
    noise = noise_of(values, seed_of(torch.ones(()), 0))
    for bits in noise:
        assert torch.equal(rounded(values, bits).float(), values)


def test_the_noise_repeats_and_depends_on_all():
    values = torch.zeros(4000)

    def noise(step=1.0, number=5, start=0, like=values):
        return torch.stack(noise_of(like, seed_of(torch.tensor(step), number), start))

    first = noise()
    assert torch.equal(first, noise())
    for other in (noise(step=2.0), noise(number=6), noise(start=4000)):
        assert ((first - other) % 2**16 == 0).float().mean() < 1e-3
    # However a tensor is cut, its noise is the same.
    pieces = [noise(start=0, like=values[:7]), noise(start=7, like=values[7:])]
    assert torch.equal(torch.cat(pieces, 1), first)


def test_the_noise_is_even_and_not_correlated():
    noise = noise_of(torch.zeros(2**16), seed_of(torch.ones(()), 1))
    steps = noise_of(torch.zeros(2**16), seed_of(torch.full((), 2.0), 1))
    parts = torch.stack([(bits & 0xFFFF).double() / 2**16 for bits in (*noise, *steps)])
    torch.testing.assert_close(
        parts.mean(1), torch.full((12,), 0.5).double(), rtol=0, atol=0.005
    )
    torch.testing.assert_close(
        parts.var(1), torch.full((12,), 1 / 12).double(), rtol=0, atol=0.001
    )
    torch.testing.assert_close(
        torch.corrcoef(parts), torch.eye(12).double(), rtol=0, atol=0.02
    )
