import dataclasses
import gzip

import pytest

from optimizees.data import layouts
from optimizees.data.layouts import cache_directory, locate, require


def test_nothing_is_found_where_nothing_lies(no_system_data):
    assert locate("fashion-mnist") is None
    assert locate("cifar-10") is None


@pytest.mark.parametrize("below", [".", "fashion-mnist", "FashionMNIST/raw"])
def test_fashion_is_found_below_the_variable(
    below, tmp_path, monkeypatch, write_fashion
):
    directory = write_fashion(tmp_path / "data" / below, num_train=1, num_test=1)
    monkeypatch.setenv("L2O_DATA", str(tmp_path / "data"))
    assert locate("fashion-mnist") == directory


@pytest.mark.parametrize(
    "below", [".", "cifar-10-batches-bin", "cifar-10/cifar-10-batches-bin"]
)
def test_cifar_is_found_below_the_variable(below, tmp_path, monkeypatch, write_cifar):
    directory = write_cifar(tmp_path / "data" / below, rows_per_file=1)
    monkeypatch.setenv("L2O_DATA", str(tmp_path / "data"))
    assert locate("cifar-10") == directory


def test_the_variable_comes_before_the_system_before_the_cache(
    tmp_path, monkeypatch, write_fashion
):
    cache = write_fashion(cache_directory("fashion-mnist"), num_train=1, num_test=1)
    system, own = tmp_path / "system", tmp_path / "own"
    changed = dataclasses.replace(layouts.LAYOUTS["fashion-mnist"], system=(system,))
    monkeypatch.setitem(layouts.LAYOUTS, "fashion-mnist", changed)
    assert locate("fashion-mnist") == cache
    write_fashion(system, num_train=1, num_test=1)
    assert locate("fashion-mnist") == system
    own.mkdir()
    monkeypatch.setenv("L2O_DATA", str(own))
    assert locate("fashion-mnist") == system
    write_fashion(own, num_train=1, num_test=1)
    assert locate("fashion-mnist") == own


def test_unpacked_files_count_and_incomplete_directories_do_not(
    tmp_path, monkeypatch, write_fashion, no_system_data
):
    directory = write_fashion(tmp_path / "data", num_train=1, num_test=1)
    monkeypatch.setenv("L2O_DATA", str(directory))
    packed = directory / "t10k-labels-idx1-ubyte.gz"
    packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
    packed.unlink()
    assert locate("fashion-mnist") == directory
    packed.with_suffix("").unlink()
    assert locate("fashion-mnist") is None


def test_the_cache_is_in_the_home_unless_configured(tmp_path, monkeypatch):
    assert cache_directory("cifar-10") == tmp_path / "cache" / "l2o" / "cifar-10"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_directory("cifar-10") == tmp_path / ".cache" / "l2o" / "cifar-10"


def test_a_variable_that_names_nothing_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("L2O_DATA", str(tmp_path / "absent"))
    with pytest.raises(FileNotFoundError, match="Create it, or unset the variable"):
        locate("fashion-mnist")


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="Pass one of fashion-mnist, cifar-10"):
        layouts.layout("mnist")


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("fashion-mnist", "l2o data download fashion-mnist.*dataset-fashion-mnist"),
        ("cifar-10", "l2o data download cifar-10.*set L2O_DATA"),
    ],
)
def test_requiring_absent_data_says_how_to_get_it(
    name, advice, tmp_path, no_system_data
):
    with pytest.raises(FileNotFoundError, match=advice):
        require(name, root=None)
    with pytest.raises(FileNotFoundError, match=advice):
        require(name, root=tmp_path)


def test_requiring_names_the_file_that_is_missing(tmp_path, write_cifar):
    write_cifar(tmp_path, rows_per_file=1)
    (tmp_path / "data_batch_3.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks data_batch_3\.bin\. "):
        require("cifar-10", root=tmp_path)
