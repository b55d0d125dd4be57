import gzip
import struct

import pytest
import torch

from optimizees.data.idx import read_idx, write_idx


@pytest.fixture
def path(tmp_path):
    return tmp_path / "images-idx3-ubyte.gz"


@pytest.fixture
def values():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (5, 4, 3), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("shape", [(60,), (5, 4, 3), (0, 2), ()])
def test_reading_is_the_inverse_of_writing(path, values, shape):
    values = values.flatten()[: torch.Size(shape).numel()].reshape(shape)
    write_idx(path, values)
    assert read_idx(path).shape == shape
    assert torch.equal(read_idx(path), values)


def test_the_bytes_are_those_of_the_format(path):
    write_idx(path, torch.tensor([[1, 2, 3], [4, 5, 6]], dtype=torch.uint8))
    expected = b"\0\0\x08\x02" + struct.pack(">II", 2, 3) + bytes([1, 2, 3, 4, 5, 6])
    assert gzip.decompress(path.read_bytes()) == expected


def test_a_file_that_is_not_gzipped_is_read_too(path, values):
    write_idx(path, values)
    path.write_bytes(gzip.decompress(path.read_bytes()))
    assert torch.equal(read_idx(path), values)


def test_the_same_values_give_the_same_bytes(tmp_path, values):
    write_idx(tmp_path / "first.gz", values)
    write_idx(tmp_path / "second.gz", values.transpose(0, 1).clone().transpose(0, 1))
    first, second = (tmp_path / name for name in ("first.gz", "second.gz"))
    assert first.read_bytes() == second.read_bytes()


def test_the_result_may_be_changed(path, values):
    write_idx(path, values)
    read_idx(path).zero_()
    assert torch.equal(read_idx(path), values)


def test_a_missing_file_says_how_to_get_it(path):
    with pytest.raises(FileNotFoundError, match="l2o data download fashion-mnist"):
        read_idx(path)


@pytest.mark.parametrize("kept", [0, 1, 3, 4, 10, 15, 16, 50, -1])
def test_a_truncated_file_is_refused(path, values, kept):
    write_idx(path, values)
    path.write_bytes(gzip.decompress(path.read_bytes())[:kept])
    with pytest.raises(ValueError, match=r"(is truncated|is empty).*Download it again"):
        read_idx(path)


@pytest.mark.parametrize("kept", [2, 9, 20, -9, -1])
def test_a_truncated_gzip_file_is_refused(path, values, kept):
    write_idx(path, values)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"(is truncated|is empty).*Download it again"):
        read_idx(path)


@pytest.mark.parametrize("damaged", [3, 10, 12, -8])
def test_a_corrupt_gzip_file_is_refused(path, values, damaged):
    write_idx(path, values)
    raw = bytearray(path.read_bytes())
    raw[damaged] ^= 0xFF
    path.write_bytes(raw)
    with pytest.raises(ValueError, match="Download it again"):
        read_idx(path)


def test_garbage_after_the_gzip_data_is_refused(path, values):
    write_idx(path, values)
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(ValueError, match=r"gzip data are damaged.*Download it again"):
        read_idx(path)


def test_trailing_bytes_are_refused(path, values):
    write_idx(path, values)
    path.write_bytes(gzip.decompress(path.read_bytes()) + b"\0")
    with pytest.raises(ValueError, match=r"has trailing bytes.*Download it again"):
        read_idx(path)


@pytest.mark.parametrize("magic", [b"\0\0\x0d\x03", b"\x01\0\x08\x03", b"PK\x03\x04"])
def test_another_magic_is_refused(path, magic):
    path.write_bytes(magic + bytes(100))
    with pytest.raises(ValueError, match=r"its magic is .*Download it again"):
        read_idx(path)


@pytest.mark.parametrize("compress", [gzip.compress, bytes])
def test_an_html_page_is_recognised(path, compress):
    path.write_bytes(compress(b"\n<!DOCTYPE html><html>404 Not Found</html>"))
    with pytest.raises(ValueError, match="HTML page"):
        read_idx(path)


def test_a_huge_declared_shape_is_refused_before_anything_is_allocated(path):
    path.write_bytes(b"\0\0\x08\x03" + b"\xff" * 12)
    with pytest.raises(ValueError, match="it is truncated"):
        read_idx(path)
