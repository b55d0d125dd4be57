from pathlib import Path

import pytest
import torch

from optimizees.data import make_embedded
from optimizees.data.idx import read_idx, write_idx
from optimizees.data.layouts import locate
from optimizees.data.make_embedded import build_embedded, choose_balanced, main


def test_the_choice_is_balanced_distinct_and_decided_by_the_generator():
    labels = (torch.arange(300) ** 2 % 7 % 10).to(torch.uint8)
    labels[::3] = (torch.arange(100) % 10).to(torch.uint8)

    def choose(seed):
        return choose_balanced(labels, 5, torch.Generator().manual_seed(seed))

    chosen = choose(0)
    assert labels[chosen].bincount().tolist() == [5] * 10
    assert len(chosen.unique()) == 50
    assert torch.equal(chosen, choose(0))
    assert not torch.equal(chosen, choose(1))
    assert labels[chosen].tolist() != sorted(labels[chosen].tolist())


def test_a_class_with_too_few_images_is_refused():
    labels = torch.arange(10, dtype=torch.uint8)
    with pytest.raises(ValueError, match="or a smaller per_class"):
        choose_balanced(labels, 2, torch.Generator())


def test_the_committed_files_are_what_it_chooses():
    directory = locate("fashion-mnist")
    if directory is None:
        pytest.skip("the full FashionMNIST is not on this machine")
    folder = Path(make_embedded.__file__).with_name("embedded")
    for file, values in build_embedded(directory).items():
        assert torch.equal(read_idx(folder / file), values)


def test_main_writes_every_file(tmp_path, monkeypatch):
    files = {"a.gz": torch.zeros(2, dtype=torch.uint8)}
    monkeypatch.setattr(make_embedded, "build_embedded", lambda directory: files)
    monkeypatch.setattr(make_embedded, "require", lambda name, root: root)
    dest = tmp_path / "new" / "embedded"
    monkeypatch.setattr("sys.argv", ["make_embedded", "--dest", str(dest)])
    main()
    write_idx(tmp_path / "expected.gz", files["a.gz"])
    assert (dest / "a.gz").read_bytes() == (tmp_path / "expected.gz").read_bytes()
