import json

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.inr import fits
from benchmarks.inr.fits import SirenFitsData, run_siren_fits
from l2o.cli import main
from optimizees.zoo.inr_set import part_files, read_fits, read_header
from optimizees.zoo.siren_fits import FitConfig

FEW = FitConfig(steps=3)


@pytest.fixture(autouse=True)
def small_picture(monkeypatch, digits):
    """Draw one image: drawing takes longer than fitting here."""
    monkeypatch.setattr(fits, "_DRAWN", 1)


@pytest.fixture
def make(tmp_path):
    """Run the command; return its lines and its summary."""

    def run(folder="fits", **settings):
        lines = []
        config = {"count": 6, "file_size": 2, "fit": FEW, **settings}
        summary = run_siren_fits(
            SirenFitsData(dest=tmp_path / folder, **config), lines.append
        )
        return lines, summary

    return run


def test_it_fits_numbers_and_reports(make, tmp_path, digits):
    lines, summary = make()
    found = read_fits(tmp_path / "fits")
    assert torch.equal(found.images, digits[:6])
    assert found.labels.tolist() == found.indices.tolist() == [0, 1, 2, 3, 4, 5]
    assert found.source == "SIREN fits of MNIST's test digits (6 networks)"
    assert summary["networks"] == 6
    assert summary["psnr_mean_db"] == pytest.approx(
        float(found.psnr().mean()), abs=1e-3
    )
    assert json.loads((tmp_path / "fits/summary.json").read_text()) == summary
    assert (tmp_path / "fits/summary.png").read_bytes().startswith(b"\x89PNG")
    header = read_header(part_files(tmp_path / "fits")[0])
    assert header["fit"]["steps"] == 3
    assert header["provenance"]["versions"]["torch"] == torch.__version__
    assert lines[0].startswith("3 of 3 files")


def test_an_interrupted_command_goes_on(make, tmp_path):
    make()
    make(folder="again")
    (tmp_path / "again/part-000002.safetensors").unlink()
    lines, _ = make(folder="again")
    assert lines[0].startswith("1 of 3 files")
    first, second = (read_fits(tmp_path / name) for name in ("fits", "again"))
    for name, weight in first.networks.items():
        assert torch.equal(weight, second.networks[name])


def test_files_of_another_size_hold_the_same_networks(make, tmp_path):
    make()
    make(folder="large", file_size=3)
    first, second = (read_fits(tmp_path / name) for name in ("fits", "large"))
    for name, weight in first.networks.items():
        assert torch.equal(weight, second.networks[name])


def test_more_images_can_follow(make, tmp_path):
    make(count=4)
    lines, summary = make(count=8)
    assert lines[0].startswith("2 of 4 files")
    assert summary["networks"] == 8


@pytest.mark.parametrize("settings", [{"fit": FitConfig(steps=4)}, {"file_size": 4}])
def test_other_settings_need_another_folder(make, settings):
    make(count=8)
    with pytest.raises(ValueError, match="Pass another --dest"):
        make(count=8, **settings)


def test_a_file_of_something_else_is_refused(make, tmp_path):
    make(count=2)
    save_file({"a": torch.zeros(1)}, tmp_path / "fits/part-000002.safetensors")
    with pytest.raises(ValueError, match="Delete it and run the command again"):
        make()


def test_a_damaged_file_is_refused(make, tmp_path):
    make(count=2)
    path = tmp_path / "fits/part-000000.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="Delete it and run the command again"):
        read_fits(path)


def test_there_must_be_enough_images(make):
    with pytest.raises(ValueError, match="at most 10 for mnist-test"):
        make(count=12)


@pytest.mark.parametrize("settings", [{"count": 5}, {"count": 0}, {"file_size": 0}])
def test_files_must_be_whole(settings):
    with pytest.raises(ValueError, match="Choose a multiple"):
        SirenFitsData(**{"count": 4, "file_size": 2, **settings})


def test_without_fits_there_is_nothing_to_read(tmp_path):
    with pytest.raises(FileNotFoundError, match="l2o data siren-fits"):
        read_fits(tmp_path)


def test_the_command_line_knows_it(tmp_path, capsys):
    arguments = ["data", "siren-fits", "--count", "2", "--file-size", "2"]
    places = ["--dest", str(tmp_path / "cli"), "--summary", str(tmp_path / "short")]
    assert main([*arguments, "--fit.steps", "1", *places]) == 0
    assert "2 networks, PSNR" in capsys.readouterr().out
    assert (tmp_path / "short.png").is_file()
