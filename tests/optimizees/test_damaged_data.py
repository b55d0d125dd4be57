"""Every reader of data refuses what is no such file, in one line that names it."""

import gzip
import json
import resource
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save, save_file

from optimizees.data.cifar import MD5, load_cifar10
from optimizees.data.digits import load_digits
from optimizees.data.fashion_mnist import load_fashion_mnist
from optimizees.data.grey_images import read_pair, read_pixels
from optimizees.data.idx import read_idx, write_idx
from optimizees.files import DamagedFileError
from optimizees.siren import draw_siren
from optimizees.zoo.inr_archives import read_archive
from optimizees.zoo.inr_set import load_embedded_fits, pack_fits, read_fits
from optimizees.zoo.park_files import read_run
from optimizees.zoo.published_park import read_published_checkpoint
from optimizees.zoo.small_cnn_zoo import published_layout, read_small_cnn_zoo
from optimizees.zoo.wild_cnn import WildArchitecture, WildCNN, WildLayer
from optimizees.zoo.wild_park import EMBEDDED_PARK, read_park

PAGE = b"<!DOCTYPE html><html><body>404 Not Found</body></html>"
LAYER = WildLayer(channels=4, kernel_size=3, activation="relu")


def idx(folder):
    write_idx(folder / "images.gz", torch.arange(60, dtype=torch.uint8).view(5, 4, 3))
    return folder / "images.gz", read_idx


def cifar(folder):
    for name in MD5:
        (folder / name).write_bytes(bytes(3 * 3073))
    return folder / "test_batch.bin", lambda _: load_cifar10("test", root=folder)


def fits(folder):
    path = folder / "part-000000.safetensors"
    few = load_embedded_fits().select(slice(0, 4), "few")
    path.write_bytes(pack_fits(few, {"source": "made up"}))
    return path, lambda _: read_fits(folder)


def archive(folder):
    path = folder / "test" / "model_0.pth"
    path.parent.mkdir()
    drawn = draw_siren(generator=torch.Generator().manual_seed(0))
    torch.save({**drawn, "label": 3}, path)
    return path, lambda _: read_archive("fmnist-inrs", folder, "test")


def published(folder):
    model = WildCNN(WildArchitecture(layers=(LAYER,)))
    content = {
        "model": model.state_dict(),
        "config": {"activation": ["relu"], "residual": [-1]},
        "iteration": 3,
        "last_result": {"test/acc": 0.5},
    }
    torch.save(content, folder / "checkpoint.pt")
    return folder / "checkpoint.pt", read_published_checkpoint


def park(folder):
    source = sorted(EMBEDDED_PARK.glob("*.safetensors"))[0]
    for path in (source, EMBEDDED_PARK / "park.json"):
        (folder / path.name).write_bytes(path.read_bytes())
    return folder / source.name, read_run


def zoo_of(name):
    def write(folder):
        np.save(folder / "weights.npy", np.zeros((20, 4970), np.float32))
        lines = ["config.activation,step,test_accuracy"] + ["relu,1,0.5"] * 20
        (folder / "metrics.csv.gz").write_bytes(
            gzip.compress("\n".join(lines).encode())
        )
        (folder / "layout.csv").write_text(published_layout())
        return folder / name, lambda _: read_small_cnn_zoo(folder, "test")

    return write


WRITERS = {
    "idx": idx,
    "cifar": cifar,
    "fits": fits,
    "archive": archive,
    "published": published,
    "park": park,
    "zoo weights": zoo_of("weights.npy"),
    "zoo metrics": zoo_of("metrics.csv.gz"),
    "zoo layout": zoo_of("layout.csv"),
}
every_reader = pytest.mark.parametrize("write", WRITERS.values(), ids=list(WRITERS))


def assert_refused(path, read, match=None):
    """Refused in one line of text that names the file and says what to do."""
    with pytest.raises((ValueError, FileNotFoundError), match=match) as found:
        read(path)
    message = str(found.value)
    assert path.name in message
    assert message.isprintable()
    assert len(message) < 1000


@every_reader
def test_a_whole_file_is_read(tmp_path, write):
    """The control of all tests below."""
    path, read = write(tmp_path)
    read(path)


@every_reader
@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_a_truncated_file(tmp_path, write, share):
    path, read = write(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert_refused(path, read)


@every_reader
@pytest.mark.parametrize(
    "content",
    [PAGE, gzip.compress(PAGE), b"\0" * 1000, b"\xff" * 1000, b"PK\x03\x04" * 99],
    ids=["page", "packed page", "zeros", "ones", "half an archive"],
)
def test_a_foreign_file(tmp_path, write, content):
    path, read = write(tmp_path)
    path.write_bytes(content)
    assert_refused(path, read)


@every_reader
def test_a_page_is_called_one(tmp_path, write):
    path, read = write(tmp_path)
    path.write_bytes(PAGE)
    assert_refused(path, read, match="HTML page")


@pytest.mark.parametrize(
    ("name", "content"),
    [("idx", b"\0"), ("zoo metrics", b"\0"), ("zoo metrics", b"\0\n")],
)
def test_a_small_file_that_unpacks_to_gigabytes(tmp_path, name, content):
    path, read = WRITERS[name](tmp_path)
    member = gzip.compress(content * 2**23)
    path.write_bytes(member * (6 * 2**30 // (len(content) * 2**23)))
    assert path.stat().st_size < 12 * 2**20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert_refused(path, read)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000


def test_a_small_checkpoint_that_unpacks_to_much(tmp_path):
    path, read = archive(tmp_path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data/0", b"x")
        (entry,) = file.infolist()
        entry.file_size = 6 * 2**30  # as its directory, written last, will say
    assert_refused(path, read, match="unpacks to 6,442,450,944 bytes")


class TestImages:
    def write(self, folder, images, labels, stem="t10k"):
        write_idx(folder / f"{stem}-images-idx3-ubyte.gz", images)
        write_idx(folder / f"{stem}-labels-idx1-ubyte.gz", labels)
        return (
            folder / f"{stem}-images-idx3-ubyte.gz",
            folder / f"{stem}-labels-idx1-ubyte.gz",
        )

    def test_classes_are_zero_to_nine(self, tmp_path):
        images = torch.zeros(4, 28, 28, dtype=torch.uint8)
        labels = torch.tensor([0, 9, 3, 4], dtype=torch.uint8)
        read_pair(*self.write(tmp_path, images, labels))
        labels[2] = 10
        pair = self.write(tmp_path, images, labels)
        assert_refused(pair[1], lambda _: read_pair(*pair), match="the class 10")

    @pytest.mark.parametrize("shape", [(4, 28), (4, 27, 28), (4, 1, 28, 28), ()])
    def test_images_have_28_pixels_a_side(self, tmp_path, shape):
        images = torch.zeros(shape, dtype=torch.uint8)
        pair = self.write(tmp_path, images, torch.zeros(4, dtype=torch.uint8))
        assert_refused(pair[0], lambda _: read_pair(*pair), match="it holds images")

    def test_every_loader_checks_the_classes(self, tmp_path):
        images = torch.zeros(10_000, 28, 28, dtype=torch.uint8)
        labels = torch.full((10_000,), 77, dtype=torch.uint8)
        for stem in ("t10k", "train", "mnist-t10k"):
            self.write(tmp_path, images, labels, stem)
        for load in (
            lambda: load_fashion_mnist("test", root=tmp_path),
            lambda: load_digits("test", root=tmp_path),
            lambda: read_pixels("mnist-test", tmp_path),
        ):
            with pytest.raises(DamagedFileError, match="the class 77"):
                load()


class TestFits:
    @pytest.mark.parametrize(
        ("name", "value", "problem"),
        [
            ("labels", torch.tensor([0, 1, 2, 10]), "0 to 9"),
            ("labels", torch.tensor([0, 1, 2, -1]), "0 to 9"),
            ("labels", torch.zeros(3, dtype=torch.int64), "instead of"),
            ("errors", torch.zeros(4, 1), "errors is"),
            ("images", torch.zeros(4, 28, 28), "of torch.float32"),
            ("seq.0.weight", torch.zeros(4, 32, 3), "seq.0.weight is"),
            ("seq.0.weight", torch.zeros(4, 32, 2).double(), "of torch.float64"),
            ("more", torch.zeros(4), "it holds"),
        ],
    )
    def test_tensors_are_those_of_fits(self, tmp_path, name, value, problem):
        path, read = fits(tmp_path)
        save_file(
            {**load_file(path), name: value}, path, {"format": "l2o-siren-fits-1"}
        )
        assert_refused(path, read, match=problem)

    def test_nothing_may_be_missing(self, tmp_path):
        path, read = fits(tmp_path)
        whole = load_file(path)
        for name in whole:
            rest = {key: value for key, value in whole.items() if key != name}
            save_file(rest, path, {"format": "l2o-siren-fits-1"})
            assert_refused(path, read, match="instead of")

    def test_a_header_is_json(self, tmp_path):
        path, read = fits(tmp_path)
        header = {"format": "l2o-siren-fits-1", "source": "[" * 10_000}
        save_file(load_file(path), path, header)
        assert_refused(path, read, match="holds no JSON")


class TestArchives:
    @pytest.mark.parametrize("label", [10, -1, 2.5, "3", torch.tensor([1, 2]), None])
    def test_labels_are_zero_to_nine(self, tmp_path, label):
        path, read = archive(tmp_path)
        torch.save({**torch.load(path), "label": label}, path)
        assert_refused(path, read, match="label")

    @pytest.mark.parametrize(
        "weight",
        [
            torch.full((32, 2), float("nan")),
            torch.zeros(32, 2, dtype=torch.int64),
            torch.zeros(32, 2).to_sparse(),
            torch.zeros(32, 2, device="meta"),
            [[0.0, 0.0]] * 32,
        ],
        ids=["nan", "integers", "sparse", "meta", "list"],
    )
    def test_weights_are_finite_numbers(self, tmp_path, weight):
        path, read = archive(tmp_path)
        torch.save({**torch.load(path), "seq.0.weight": weight}, path)
        assert_refused(path, read, match=r"seq\.0\.weight|cannot be read")

    @pytest.mark.parametrize(
        "listed", [[], {}, {"test": 3}, {"test": {"path": 3}}, "x"]
    )
    def test_splits_are_lists_of_paths(self, tmp_path, listed):
        archive(tmp_path)
        path = tmp_path / "splits.json"
        path.write_text(json.dumps(listed))
        assert_refused(path, lambda _: read_archive("fmnist-inrs", tmp_path, "test"))


class TestPublished:
    def rewrite(self, path, **changes):
        torch.save({**torch.load(path), **changes}, path)

    @pytest.mark.parametrize("accuracy", [float("nan"), 1.5, -0.1, "high", None, [1]])
    def test_accuracies_are_shares(self, tmp_path, accuracy):
        path, read = published(tmp_path)
        self.rewrite(path, last_result={"test/acc": accuracy})
        assert_refused(path, read)

    def test_a_configuration_that_contains_itself(self, tmp_path):
        path, read = published(tmp_path)
        config = {"a": {}}
        config["a"]["b"] = config
        self.rewrite(path, config=config)
        assert_refused(path, read, match="lists in its config")

    def test_a_configuration_of_great_depth(self, tmp_path):
        path, read = published(tmp_path)
        config = {"activation": ["relu"], "residual": [-1]}
        for _ in range(150):  # as deep as pickle writes
            config = {"deeper": config}
        self.rewrite(path, config=config)
        assert read(path).accuracy == 0.5

    @pytest.mark.parametrize("residual", [["x"], [None], [float("inf")], [5]])
    def test_skips_are_numbers_of_layers(self, tmp_path, residual):
        path, read = published(tmp_path)
        self.rewrite(path, config={"activation": ["relu"], "residual": residual})
        assert_refused(path, read, match="residual")

    def test_models_hold_tensors(self, tmp_path):
        path, read = published(tmp_path)
        self.rewrite(path, model={"weight": [1.0]})
        assert_refused(path, read, match="other than tensors")


class TestPark:
    def rewrite(self, path, change=None, **tensors):
        """Write a network again with other tensors or another description."""
        described = json.loads(_metadata(path)["run"])
        if change is not None:
            change(described)
        content = {**load_file(path), **tensors}
        path.write_bytes(save(content, {"run": json.dumps(described)}))

    def test_rewriting_alone_changes_nothing(self, tmp_path):
        path, read = park(tmp_path)
        self.rewrite(path)
        assert len(read(path)) == 3

    @pytest.mark.parametrize(
        "change",
        [
            lambda run: run.pop("architecture"),
            lambda run: run.update(architecture=[]),
            lambda run: run.update(format="wild-park-2"),
            lambda run: run.update(index="0"),
            lambda run: run.update(facts=[]),
            lambda run: run["architecture"].update(in_channels=10**9),
            lambda run: run["architecture"].update(in_channels="3"),
            lambda run: run["architecture"]["layers"][0].update(activation="sine"),
            lambda run: run["architecture"]["layers"][0].update(channels=-1),
            lambda run: run["architecture"]["layers"][0].update(more=1),
            lambda run: run["architecture"]["layers"].pop(),
        ],
    )
    def test_descriptions_are_those_of_the_park(self, tmp_path, change):
        path, read = park(tmp_path)
        self.rewrite(path, change)
        assert_refused(path, read)

    @pytest.mark.parametrize(
        "tensors",
        [
            {"accuracies": torch.tensor([0.1, 1.1, 0.2])},
            {"accuracies": torch.tensor([0.1, float("nan"), 0.2])},
            {"accuracies": torch.zeros(2)},
            {"parameters.head.bias": torch.zeros(3, 11)},
            {"parameters.head.bias": torch.full((3, 10), float("inf"))},
            {"parameters.head.bias": torch.zeros(3, 10, dtype=torch.int32)},
            {"parameters.tail.bias": torch.zeros(3, 10)},
        ],
    )
    def test_tensors_are_those_of_the_network(self, tmp_path, tensors):
        path, read = park(tmp_path)
        self.rewrite(path, **tensors)
        assert_refused(path, read)

    @pytest.mark.parametrize("content", ["", "[]", "{", PAGE.decode()])
    def test_the_description_of_a_park(self, tmp_path, content):
        park(tmp_path)
        path = tmp_path / "park.json"
        path.write_text(content)
        assert_refused(path, lambda _: next(read_park(tmp_path, "train")))

    def test_a_foreign_file_among_the_networks(self, tmp_path):
        park(tmp_path)
        path = tmp_path / "notes.safetensors"
        path.write_bytes(b"")
        assert_refused(path, lambda _: list(read_park(tmp_path, "train")))


def _metadata(path):
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return file.metadata()


class TestZoo:
    @pytest.mark.parametrize(
        "rows",
        [
            np.zeros(20, np.float32),
            np.zeros((20, 4970), np.int64),
            np.zeros((20, 4970), np.complex64),
            np.zeros((20, 10), np.float32),
            np.array([{}] * 20, object),
        ],
        ids=["one axis", "integers", "complex", "short", "objects"],
    )
    def test_weights_are_rows_of_numbers(self, tmp_path, rows):
        path, read = WRITERS["zoo weights"](tmp_path)
        np.save(path, rows, allow_pickle=True)
        with pytest.raises(ValueError, match=r"weights\.npy"):
            read(path)

    @pytest.mark.parametrize(
        "line",
        ["relu,1,1.5", "relu,1,nan", "relu,x,0.5", "relu,1", '"relu,1,0.5', "\xff"],
    )
    def test_a_bad_line_of_metrics(self, tmp_path, line):
        path, read = WRITERS["zoo metrics"](tmp_path)
        text = gzip.decompress(path.read_bytes()) + b"\n" + line.encode("latin-1")
        path.write_bytes(gzip.compress(text))
        assert_refused(path, read)

    @pytest.mark.parametrize(
        "row",
        [
            "0,sequential/conv2d/bias:0,0,16,16,((((",
            "0,sequential/conv2d/bias:0,0,16,16,__import__('os').abort()",
            '0,sequential/conv2d/bias:0,0,16,16,"(4, 5)"',
            '0,sequential/conv2d/bias:0,16,0,16,"(16,)"',
            '0,sequential/conv2d/bias:0,a,b,16,"(16,)"',
            '0,other,0,16,16,"(16,)"',
            '0,sequential/conv2d/bias:0,99999,100015,16,"(16,)"',
        ],
    )
    def test_a_bad_line_of_the_layout(self, tmp_path, row):
        path, read = WRITERS["zoo layout"](tmp_path)
        header = published_layout().splitlines()[0]
        path.write_text(f"{header}\n{row}\n")
        assert_refused(path, read)

    @pytest.mark.parametrize("content", ["", "a\nb", "0\n1", "1" * 5000])
    def test_an_order_of_something_else(self, tmp_path, content):
        zoo_of("weights.npy")(tmp_path)
        path = tmp_path / "order.csv"
        path.write_text(content)
        assert_refused(path, lambda _: read_small_cnn_zoo(tmp_path, "test", order=path))
