import gzip
import random

import numpy as np
import pytest
import torch

from optimizees.zoo.small_cnn_zoo import (
    LAYERS,
    published_layout,
    read_small_cnn_zoo,
    to_rows,
)

STEPS = (0, 40, 86)
NUM_NETWORKS = 20


@pytest.fixture
def zoo(tmp_path):
    """A zoo in the published files: entry k of row r is r + k / 10,000."""
    count = NUM_NETWORKS * len(STEPS)
    rows = np.arange(count)[:, None] + np.arange(4970)[None] / 10_000
    np.save(tmp_path / "weights.npy", rows.astype(np.float32))
    lines = ["config.activation,step,test_accuracy,config.optimizer"]
    for row in range(count):
        activation = "relu" if row % 2 else "tanh"
        lines.append(f"{activation},{STEPS[row % 3]},{row / 100},adam")
    (tmp_path / "metrics.csv.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    (tmp_path / "layout.csv").write_text(published_layout())
    return tmp_path


class TestSplits:
    def test_half_for_testing_and_the_rest_shuffled(self, zoo):
        final = [row for row in range(60) if row % 3 == 2]
        assert read_small_cnn_zoo(zoo, "test").rows == tuple(final[10:])
        first = list(range(10))
        random.Random(0).shuffle(first)
        expected = [final[index] for index in first]
        assert read_small_cnn_zoo(zoo, "train").rows == tuple(expected[:8])
        assert read_small_cnn_zoo(zoo, "validation").rows == tuple(expected[8:])

    def test_the_published_numbers(self):
        from optimizees.zoo.small_cnn_zoo import _split

        rows = list(range(30_000))
        sizes = [len(_split(rows, split)) for split in ("train", "validation", "test")]
        assert sizes == [12_000, 3_000, 15_000]

    def test_another_step(self, zoo):
        networks = read_small_cnn_zoo(zoo, "test", step=40)
        assert networks.step == 40
        assert all(row % 3 == 1 for row in networks.rows)
        with pytest.raises(ValueError, match="Pass one of 0, 40, 86"):
            read_small_cnn_zoo(zoo, "test", step=41)


class TestTheOrder:
    def test_a_header_is_no_row(self, zoo, tmp_path):
        """The released file begins with a header that looks like row 0."""
        order = list(range(60))
        random.Random(1).shuffle(order)
        plain, headed = tmp_path / "plain.csv", tmp_path / "headed.csv"
        plain.write_text("\n".join(map(str, order)))
        headed.write_text("\n".join(map(str, [0, *order])))
        found = [
            read_small_cnn_zoo(zoo, "test", order=path) for path in (plain, headed)
        ]
        assert found[0].rows == found[1].rows
        final = [row for row in order if row % 3 == 2]
        assert found[0].rows == tuple(final[10:])

    def test_an_order_of_another_zoo(self, zoo, tmp_path):
        path = tmp_path / "order.csv"
        path.write_text("0\n1\n2\n")
        with pytest.raises(ValueError, match="Take the file that belongs"):
            read_small_cnn_zoo(zoo, "test", order=path)


class TestTensors:
    def test_kernels_are_turned_round(self, zoo):
        networks = read_small_cnn_zoo(zoo, "test")
        row = networks.rows[0]
        kernel = networks.parameters["convs.1.weight"][0]
        for out, into, high, wide in ((0, 0, 0, 0), (3, 5, 1, 2), (15, 15, 2, 2)):
            place = 176 + ((high * 3 + wide) * 16 + into) * 16 + out
            assert float(kernel[out, into, high, wide]) == pytest.approx(
                row + place / 10_000, abs=1e-5
            )
        head = networks.parameters["head.weight"][0]
        assert float(head[7, 3]) == pytest.approx(
            row + (4810 + 3 * 10 + 7) / 10_000, abs=1e-5
        )

    def test_rows_come_back(self, zoo):
        networks = read_small_cnn_zoo(zoo, "train")
        rows = np.load(zoo / "weights.npy")[list(networks.rows)]
        assert np.array_equal(to_rows(networks.parameters).numpy(), rows)
        shapes = {f"{layer}.weight": shape for layer, shape in LAYERS.items()}
        for name, shape in shapes.items():
            assert networks.parameters[name].shape[1:] == shape

    def test_accuracies_and_activations_belong_to_the_rows(self, zoo):
        networks = read_small_cnn_zoo(zoo, "validation")
        expected = torch.tensor([row / 100 for row in networks.rows])
        torch.testing.assert_close(networks.accuracies, expected)
        assert networks.activations == tuple(
            "relu" if row % 2 else "tanh" for row in networks.rows
        )


class TestWhatIsRefused:
    def test_a_missing_file(self, zoo):
        (zoo / "layout.csv").unlink()
        with pytest.raises(FileNotFoundError, match="Run `l2o data cnn-zoo`"):
            read_small_cnn_zoo(zoo, "train")

    def test_files_of_two_archives(self, zoo):
        np.save(zoo / "weights.npy", np.zeros((3, 4970), np.float32))
        with pytest.raises(ValueError, match="from one archive"):
            read_small_cnn_zoo(zoo, "train")

    def test_a_layout_that_is_too_long(self, zoo):
        layout = (zoo / "layout.csv").read_text().replace("4970", "4980")
        (zoo / "layout.csv").write_text(layout)
        with pytest.raises(ValueError, match="from one archive"):
            read_small_cnn_zoo(zoo, "train")

    def test_metrics_without_a_column(self, zoo):
        (zoo / "metrics.csv.gz").write_bytes(gzip.compress(b"step\n86\n"))
        with pytest.raises(ValueError, match=r"Take metrics\.csv\.gz of the published"):
            read_small_cnn_zoo(zoo, "train")
