from dataclasses import replace

import pytest

from benchmarks.inr.data import DataConfig, load_splits
from optimizees.siren import draw_siren
from optimizees.zoo.inr_set import load_embedded_fits, pack_fits


@pytest.fixture
def folder(tmp_path):
    """Lay out fits as `l2o data siren-fits` does, 48 a set."""
    content = pack_fits(load_embedded_fits(), {"source": "digits"})
    for name in ("mnist-test", "fashion-train", "fashion-test"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "part-000000.safetensors").write_bytes(content)
    return tmp_path


def indices(splits):
    return [
        part.indices.tolist() for part in (splits.train, splits.validation, splits.test)
    ]


def test_digits_are_shuffled_the_same_way_every_time(folder):
    counts = {"train": 30, "validation": 8, "test": 10}
    first, second = (load_splits(DataConfig(root=folder, **counts)) for _ in range(2))
    assert indices(first) == indices(second)
    joined = [index for part in indices(first) for index in part]
    assert sorted(joined) == list(range(48)) != joined
    assert first.test.source == "digits (48 networks), shuffled, 38 to 47"


def test_the_embedded_fits_can_be_left_out(tmp_path):
    embedded = load_embedded_fits()
    others = replace(embedded, indices=embedded.indices + 48)
    (tmp_path / "mnist-test").mkdir()
    for number, fits in enumerate((embedded, others)):
        path = tmp_path / "mnist-test" / f"part-{48 * number:06d}.safetensors"
        path.write_bytes(pack_fits(fits, {"source": "digits"}))
    counts = {"train": 30, "validation": 8, "test": 10}
    kept = load_splits(DataConfig(root=tmp_path, without_embedded=True, **counts))
    assert min(index for part in indices(kept) for index in part) >= 48
    whole = load_splits(DataConfig(root=tmp_path, **counts))
    assert min(index for part in indices(whole) for index in part) < 48
    with pytest.raises(ValueError, match="without_embedded is for digits"):
        DataConfig(name="fashion", without_embedded=True)


def test_fashion_has_a_test_set_of_its_own(folder):
    counts = {"train": 5, "validation": 2, "test": 3}
    splits = load_splits(DataConfig(name="fashion", root=folder, **counts))
    assert indices(splits) == [[0, 1, 2, 3, 4], [5, 6], [0, 1, 2]]


@pytest.mark.parametrize("name", ["mnist-archive", "fashion-archive"])
def test_archives(tmp_path, name):
    import torch

    for part, place in (("training", "train"), ("testing", "test")):
        for index in range(12):
            held = {**draw_siren(), "label": 3}
            folder = tmp_path / place
            if name == "mnist-archive":
                folder = tmp_path / f"mnist_png_{part}_3_{index}" / "checkpoints"
            folder.mkdir(parents=True, exist_ok=True)
            torch.save(held, folder / f"model_{index}.pth")
    config = DataConfig(name=name, root=tmp_path, train=4, validation=1, test=2)
    assert indices(load_splits(config)) == [[0, 1, 2, 3], [11], [0, 1]]


def test_the_usual_sizes():
    assert DataConfig().counts == (8_000, 1_000, 1_000)
    assert DataConfig(name="mnist-archive", test=7).counts == (55_000, 5_000, 7)


def test_there_must_be_enough(folder):
    with pytest.raises(ValueError, match="Make more with `l2o data siren-fits`"):
        load_splits(DataConfig(root=folder, train=40, validation=5, test=5))


def test_no_part_may_be_empty():
    with pytest.raises(ValueError, match="Choose positive numbers"):
        DataConfig(test=0)
