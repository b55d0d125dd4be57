import inspect

import pytest
import torch

from optimizees.data.text import TextData, TextSampler, load_manual, text_split


@pytest.fixture
def numbers():
    return TextData(torch.arange(11), "abcdefghijk", source="the first numbers")


def test_the_parts_of_the_manual_make_the_whole_without_overlap():
    parts = [load_manual(split) for split in ("train", "validation", "test")]
    assert len({part.vocabulary for part in parts}) == 1
    both = load_manual("train+validation")
    assert torch.equal(torch.cat([parts[0].tokens, parts[1].tokens]), both.tokens)
    total = sum(len(part.tokens) for part in parts)
    assert len(parts[2].tokens) == pytest.approx(0.05 * total, rel=1e-3)
    assert "training characters" in parts[0].source
    assert int(both.tokens.max()) < len(both.vocabulary)


def test_a_text_has_only_these_parts():
    with pytest.raises(ValueError, match="Pass one of train, validation"):
        # Unwrapped, since the type hook would refuse it first.
        inspect.unwrap(text_split)("some words", "all", name="a song")


def test_windows_cover_the_text_once_and_targets_are_one_later(numbers):
    inputs, targets = numbers.windows(3)
    assert inputs.tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert torch.equal(targets, inputs + 1)


@pytest.mark.parametrize("length", [0, 11])
def test_a_window_must_fit(numbers, length):
    with pytest.raises(ValueError, match="Choose a length inside the text"):
        numbers.windows(length)
    with pytest.raises(ValueError, match="Choose a length inside the text"):
        TextSampler(numbers, 2, length, seed=0)


def test_a_batch_is_not_empty(numbers):
    with pytest.raises(ValueError, match="Pass 32"):
        TextSampler(numbers, 0, 3, seed=0)


def test_samples_begin_anywhere_and_are_decided_by_the_seed(numbers):
    samplers = [TextSampler(numbers, 50, 10, seed=1) for _ in range(2)]
    inputs, targets = samplers[0].next()
    assert torch.equal(inputs, samplers[1].next().inputs)
    assert torch.equal(targets, inputs + 1)
    assert set(inputs[:, 0].tolist()) == {0}
    shorter, _ = TextSampler(numbers, 200, 4, seed=1).next()
    assert set(shorter[:, 0].tolist()) == set(range(7))
