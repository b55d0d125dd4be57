from importlib import resources

import pytest
import torch

from optimizees.siren import render_images
from optimizees.zoo.inr_set import InrSet, load_embedded_fits
from optimizees.zoo.siren_fits import FitConfig, fit_sirens, initial_weights


@pytest.fixture(scope="module")
def fits():
    return load_embedded_fits()


def test_embedded_fits_show_their_images(fits):
    wanted = fits.images / 255
    errors = (render_images(fits.networks) - wanted).square().mean((1, 2))
    torch.testing.assert_close(errors, fits.errors, rtol=1e-4, atol=1e-7)
    assert fits.psnr().min() > 23


def test_embedded_fits_are_small():
    file = resources.files("optimizees.zoo") / "embedded" / "digits.safetensors"
    with resources.as_file(file) as path:
        assert path.stat().st_size < 300_000


def test_an_embedded_fit_can_be_made_again(fits):
    draw = initial_weights(FitConfig(), 0, 5)
    networks, error = fit_sirens(fits.images[5:6] / 255, [draw], FitConfig())
    # Another machine rounds otherwise, and 500 steps magnify that.
    assert -10 * error.log10() == pytest.approx(float(fits.psnr()[5]), abs=0.3)
    apart = networks["seq.1.weight"][0] - fits.networks["seq.1.weight"][5]
    assert apart.norm() < 0.2 * fits.networks["seq.1.weight"][5].norm()


def test_some_of_them(fits):
    few = fits.select(slice(2, 5), "some")
    assert len(few) == 3
    assert few.indices.tolist() == [2, 3, 4]
    assert torch.equal(few.images, fits.images[2:5])
    assert few.source.endswith(", some")


def test_without_errors_there_is_no_psnr(fits):
    unknown = InrSet(
        networks=fits.networks,
        labels=fits.labels,
        indices=fits.indices,
        images=None,
        errors=None,
        source="an archive",
    )
    with pytest.raises(ValueError, match=r"Compare render_images\(networks\) with"):
        unknown.psnr()


def test_parts_must_belong_together(fits):
    with pytest.raises(ValueError, match="Pass parts of the same set"):
        InrSet(
            networks=fits.networks,
            labels=fits.labels[:3],
            indices=fits.indices[:3],
            images=None,
            errors=None,
            source="mixed",
        )
