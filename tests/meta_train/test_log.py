from meta_train.log import JsonLines, read_json_lines


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
