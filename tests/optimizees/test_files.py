import pytest

from optimizees.files import has_files, holds_tensors, settle_description


@pytest.mark.parametrize("content", [b"", b"<html>", b"\x10" + bytes(7)])
def test_what_is_empty_or_damaged_holds_no_tensors(tmp_path, content):
    assert not holds_tensors(tmp_path / "file")
    (tmp_path / "file").write_bytes(content)
    assert not holds_tensors(tmp_path / "file")


def test_empty_files_do_not_count(tmp_path):
    (tmp_path / "one").touch()
    assert not has_files(tmp_path, "*")
    (tmp_path / "two").write_bytes(b"x")
    assert has_files(tmp_path, "*")
    assert not has_files(tmp_path / "missing", "*")


class TestDescriptions:
    def test_one_without_a_population_is_replaced(self, tmp_path):
        path = tmp_path / "park.json"
        settle_description(path, {"seed": 1}, is_binding=False)
        settle_description(path, {"seed": 2}, is_binding=False)
        settle_description(path, {"seed": 2}, is_binding=True)
        with pytest.raises(ValueError, match=r"others for seed\. Repeat them"):
            settle_description(path, {"seed": 1}, is_binding=True)

    @pytest.mark.parametrize("content", ["", "{", "[]", "<html></html>"])
    def test_a_damaged_one_is_named(self, tmp_path, content):
        path = tmp_path / "park.json"
        path.write_text(content)
        with pytest.raises(ValueError, match=r"park\.json.*or restore the file"):
            settle_description(path, {"seed": 1}, is_binding=True)
