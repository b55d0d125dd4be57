from benchmarks.step_cost import Subject, time_in_turns


def test_subjects_are_timed_in_turns():
    calls = []
    subjects = [Subject(name=n, call=lambda n=n: calls.append(n)) for n in "abc"]
    seconds = time_in_turns(subjects, repetitions=4)
    assert [len(seconds[name]) for name in "abc"] == [4, 4, 4]
    rounds = [calls[start : start + 3] for start in range(0, 12, 3)]
    assert all(sorted(found) == ["a", "b", "c"] for found in rounds)
    assert len({tuple(found) for found in rounds}) > 1
