from l2o.cli import main
from meta_train.log import read_json_lines


def test_more_steps_come_closer(tmp_path, digits, capsys):
    path = tmp_path / "siren-psnr.jsonl"
    few = [
        *("--images", "mnist-test", "--networks", "2", "--steps", "1", "20"),
        *("--lrs", "0.001", "--last-layers", "sine", "--results", str(path)),
    ]
    assert main(["benchmark", "siren-psnr", *few]) == 0
    rows = read_json_lines(path)
    assert [row["steps"] for row in rows] == [1, 20]
    assert rows[1]["psnr_mean_db"] > rows[0]["psnr_mean_db"]
    assert "| mnist, published" in capsys.readouterr().out
    assert main(["report", "siren-psnr", "--results", str(path)]) == 0
    assert f"Written: {tmp_path / 'siren-psnr.md'}\n" in capsys.readouterr().out
