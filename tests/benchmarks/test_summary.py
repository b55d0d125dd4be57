import pytest

from benchmarks.summary import best_rate, comparable, groups, merit, spread


def scored(accuracy):
    return [{"step": 1000, "train_loss": 0.5, "loss": 0.6, "accuracy": accuracy}]


def test_rows_of_one_optimizer_form_a_group(make_row):
    rule = {"sha256": "abcdef0123456789", "kind": "ff", "commit": "c"}
    learned = {"optimizer": "ff", "lr": None, "rule": rule, "rule_sha256": "abcdef01"}
    rows = [
        make_row(seed=1, **learned),
        make_row(seed=1),
        make_row(seed=2, **learned),
        make_row(seed=1, lr=0.02),
        make_row(seed=1, held_out_split="validation"),
    ]
    found = groups(rows, "test")
    assert [(group.label, len(group.rows)) for group in found] == [
        ("ff (abcdef01)", 2),
        ("Adam, lr 0.01", 1),
        ("Adam, lr 0.02", 1),
    ]


def test_another_file_of_the_same_name_is_another_optimizer(make_row):
    rows = [
        make_row(optimizer="ff", lr=None, rule={"sha256": sha}, rule_sha256=sha)
        for sha in ("aaaaaaaaaa", "bbbbbbbbbb")
    ]
    assert len(groups(rows, "test")) == 2


def test_what_cannot_be_compared_is_kept_apart(make_row):
    rows = [make_row(), make_row(steps=5), make_row(data="embedded"), make_row(seed=7)]
    rows.append(make_row(task="cifar-cnn"))
    assert [len(part) for part in comparable(rows)] == [2, 1, 1, 1]


def test_old_rows_without_task_and_settings_are_comparable(make_row):
    old = make_row(seed=1)
    del old["task"], old["settings"]
    (part,) = comparable([old, make_row(seed=2)])
    assert [len(group.rows) for group in groups(part, "test")] == [2]


def test_other_settings_make_another_optimizer(make_row):
    rows = [make_row(settings={"warmup": share}) for share in (0.0, 0.1)]
    assert len(groups(rows, "test")) == 2


def test_missing_numbers_are_left_out_and_counted_as_diverged(make_row):
    rows = [
        make_row(seed=1, scores=scored(0.8)),
        make_row(seed=2, scores=scored(None), diverged=True),
    ]
    (group,) = groups(rows, "test")
    assert group.values("accuracy") == [0.8]
    assert group.num_diverged == 1


@pytest.mark.parametrize(("end", "expected"), [(2.2, 0), (2.4, 1), (1e13, 1)])
def test_a_run_that_ends_worse_than_it_began_has_diverged(make_row, end, expected):
    score = {"step": 1000, "train_loss": end, "loss": end, "accuracy": 0.1}
    (group,) = groups([make_row(scores=[score])], "test")
    assert group.num_diverged == expected


def test_the_best_rate_has_the_highest_mean_accuracy(make_row):
    rows = [
        make_row(lr=lr, seed=seed, scores=scored(accuracy))
        for lr, seed, accuracy in (
            (0.01, 1, 0.8),
            (0.01, 2, 0.7),
            (0.02, 1, 0.9),
            (0.02, 2, None),
        )
    ]
    assert best_rate(groups(rows, "test")) == 0.01
    assert best_rate(groups(rows, "test"), "muon") is None
    assert best_rate([]) is None


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], "none"),
        ([0.5], "50.0"),
        ([0.1, 0.3], "20.0 ± 14.1"),
    ],
)
def test_spread_is_mean_and_sample_deviation(values, expected):
    assert spread(values, 1, scale=100) == expected


@pytest.mark.parametrize(
    ("accuracies", "expected"), [((0.8, None), 0.4), ((None, 0.0), 0.0)]
)
def test_a_run_without_accuracy_counts_as_zero(make_row, accuracies, expected):
    rows = [make_row(scores=scored(accuracy)) for accuracy in accuracies]
    assert merit(rows) == pytest.approx(expected)


def test_without_classes_the_loss_decides_and_divergence_is_worst(make_row):
    def of(loss):
        return merit([make_row(scores=[{"accuracy": None, "loss": loss}])])

    assert of(0.1) > of(0.2) > of(None)
