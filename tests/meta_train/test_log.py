import pytest

from meta_train.log import (
    JsonLines,
    append_json_line,
    read_json_lines,
    write_json_lines,
)

FIRST, SECOND = b'{"outer_step": 1}\n', b'{"outer_step": 2}\n'


def test_records_come_back_in_order(tmp_path):
    log = JsonLines(tmp_path / "deep" / "log.jsonl")
    log.write(outer_step=1, loss=0.5)
    log.write(outer_step=2, loss=float("inf"))
    assert read_json_lines(log.path) == [
        {"outer_step": 1, "loss": 0.5},
        {"outer_step": 2, "loss": float("inf")},
    ]


def test_a_new_log_drops_the_old_one(tmp_path):
    path = tmp_path / "log.jsonl"
    JsonLines(path).write(outer_step=1)
    JsonLines(path)
    assert read_json_lines(path) == []


def test_a_resumed_log_keeps_what_came_before_the_checkpoint(tmp_path):
    path = tmp_path / "log.jsonl"
    log = JsonLines(path)
    for step in (1, 2, 2, 3, 4):
        log.write(outer_step=step)
    JsonLines(path, last_step=2).write(outer_step=3)
    assert [record["outer_step"] for record in read_json_lines(path)] == [1, 2, 2, 3]


def test_a_line_cut_short_by_a_crash_is_left_out(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"outer_step": 1}\n{"outer_st')
    assert read_json_lines(path) == [{"outer_step": 1}]
    JsonLines(path, last_step=5).write(outer_step=2)
    assert path.read_text() == '{"outer_step": 1}\n{"outer_step": 2}\n'


def test_a_log_that_is_not_there_is_empty(tmp_path):
    assert read_json_lines(tmp_path / "none.jsonl") == []


@pytest.mark.parametrize(
    "bad",
    [
        b"<<<<<<< HEAD\n",
        b'{"outer_st\n',
        b"12\n",
        b"\x00\x00\n",
        b"\xff\n",
        b"[" * 100_000 + b"\n",
    ],
    ids=["merge marker", "torn", "no object", "zeros", "no text", "deep"],
)
@pytest.mark.parametrize("tail", [b"", SECOND, b'{"outer_st'])
def test_a_damaged_line_is_named_and_the_file_stays(tmp_path, bad, tail):
    path = tmp_path / "log.jsonl"
    path.write_bytes(FIRST + bad + tail)
    with pytest.raises(ValueError, match=r"log\.jsonl, line 2\. Repair"):
        read_json_lines(path)
    with pytest.raises(ValueError, match="nothing was written"):
        JsonLines(path, last_step=5)
    assert path.read_bytes() == FIRST + bad + tail


def test_only_a_last_line_without_its_break_is_cut(tmp_path):
    path = tmp_path / "rows.jsonl"
    for tail in (b'{"outer_st', b'{"text": "\xc3', b"x" * 10_000):
        path.write_bytes(FIRST + b"\n" + tail)
        assert read_json_lines(path) == [{"outer_step": 1}]
        append_json_line(path, {"outer_step": 2})
        assert path.read_bytes() == FIRST + b"\n" + SECOND


def test_a_whole_last_line_without_its_break_is_kept(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(FIRST[:-1])
    assert read_json_lines(path) == [{"outer_step": 1}]
    append_json_line(path, {"outer_step": 2})
    assert path.read_bytes() == FIRST + SECOND


def test_appending_never_touches_other_lines(tmp_path):
    path = tmp_path / "deep" / "rows.jsonl"
    append_json_line(path, {"outer_step": 1})
    path.write_bytes(b"damaged\n" + path.read_bytes())
    append_json_line(path, {"outer_step": 2})
    assert path.read_bytes() == b"damaged\n" + FIRST + SECOND


def test_numbers_that_are_not_finite_are_refused_before_anything_is_written(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_json_lines(path, [{"outer_step": 1}])
    for write in (
        append_json_line,
        lambda path, record: write_json_lines(path, [record]),
    ):
        with pytest.raises(ValueError, match="not JSON compliant"):
            write(path, {"loss": float("nan")})
    assert path.read_bytes() == FIRST
