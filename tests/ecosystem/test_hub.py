"""Sharing rules: through a folder, and through a hub on this machine."""

import inspect
import sys
import time

import pytest
import torch
from torch import nn

from l2o import PRESETS, NeuralGraphOpt, companion, read_provenance
from l2o.hub import from_pretrained, push_to_hub, save_pretrained

REPOSITORY = "someone/a-rule"
PROVENANCE = {"data": "eight digits", "inner_steps": 12_000, "limits": "Digits only."}


@pytest.fixture
def rule(random_rule):
    return random_rule(PRESETS["default-ff"], dtype=torch.float32)


def assert_same_rule(found, expected):
    assert found.config == expected.config
    for name, weight in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], weight)


class TestFolder:
    def test_a_rule_comes_back_with_its_provenance(self, rule, tmp_path):
        folder = save_pretrained(rule, tmp_path / "mine", provenance=PROVENANCE)
        assert_same_rule(from_pretrained(folder), rule)
        assert_same_rule(from_pretrained(str(folder)), rule)
        known = read_provenance(folder / "rule.safetensors")
        assert known == {**PROVENANCE, "license": "MIT"}
        assert "Digits only." in (folder / "README.md").read_text()

    def test_a_rule_file_brings_its_provenance(self, tmp_path):
        folder = save_pretrained("ff", tmp_path, provenance={"limits": "Told later."})
        known = read_provenance(folder / "rule.safetensors")
        assert known == {**read_provenance("ff"), "limits": "Told later."}

    def test_the_licence_is_the_owners_to_choose(self, rule, tmp_path):
        folder = save_pretrained(rule, tmp_path, provenance={"license": "Apache-2.0"})
        path = folder / "rule.safetensors"
        assert read_provenance(path) == {"license": "Apache-2.0"}
        assert "license: apache-2.0\n" in (folder / "README.md").read_text()
        again = save_pretrained(path, tmp_path / "again")
        assert read_provenance(again / "rule.safetensors") == read_provenance(path)

    def test_another_file_name(self, rule, tmp_path):
        save_pretrained(rule, tmp_path)
        (tmp_path / "rule.safetensors").rename(tmp_path / "best.safetensors")
        assert_same_rule(from_pretrained(tmp_path, filename="best.safetensors"), rule)
        with pytest.raises(FileNotFoundError, match=r"\['best.*Pass filename="):
            from_pretrained(tmp_path)

    def test_a_file_is_no_folder(self, rule, tmp_path):
        folder = save_pretrained(rule, tmp_path)
        with pytest.raises(ValueError, match="Load a single file with load_rule"):
            from_pretrained(folder / "rule.safetensors")

    def test_a_file_of_another_format(self, tmp_path):
        (tmp_path / "rule.safetensors").write_text("<html>not found</html>")
        with pytest.raises(ValueError, match="copy or download it again"):
            from_pretrained(tmp_path)

    def test_it_trains(self, rule, tmp_path):
        model = nn.Linear(3, 2)
        before = model.weight.detach().clone()
        shared = from_pretrained(save_pretrained(rule, tmp_path))
        optimizer = NeuralGraphOpt(model.parameters(), rule=shared)
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        assert (model.weight != before).all()

    def test_without_the_package_a_folder_will_do(self, rule, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
        assert_same_rule(from_pretrained(save_pretrained(rule, tmp_path)), rule)
        with pytest.raises(ImportError, match=r"pip install 'l2o\[hub\]'"):
            from_pretrained(REPOSITORY)
        with pytest.raises(ImportError, match="push_to_hub needs the package"):
            push_to_hub(rule, REPOSITORY)


class TestHub:
    def test_what_is_pushed_can_be_pulled(self, hub, rule):
        address = push_to_hub(rule, REPOSITORY, provenance=PROVENANCE)
        assert address.startswith(f"{hub.address}/{REPOSITORY}/commit/")
        assert_same_rule(from_pretrained(REPOSITORY), rule)
        commit = address.rsplit("/", 1)[-1]
        assert_same_rule(from_pretrained(REPOSITORY, revision=commit), rule)
        card = hub.repositories[REPOSITORY]["README.md"].decode()
        assert f'l2o.hub.from_pretrained("{REPOSITORY}")' in card
        assert "Digits only." in card

    def test_what_was_pulled_once_needs_no_network(self, hub, rule):
        push_to_hub(rule, REPOSITORY)
        from_pretrained(REPOSITORY)
        hub.repositories.clear()
        assert_same_rule(from_pretrained(REPOSITORY, local_files_only=True), rule)

    def test_what_was_never_pulled_does(self, hub):
        with pytest.raises(FileNotFoundError, match="Connect once, or copy the folder"):
            from_pretrained(REPOSITORY, local_files_only=True)

    @pytest.mark.parametrize(
        "place",
        [
            {"repo_or_folder": "someone/else"},
            {"repo_or_folder": REPOSITORY, "filename": "best.safetensors"},
            {"repo_or_folder": REPOSITORY, "revision": "v9"},
        ],
        ids=["repository", "file", "revision"],
    )
    def test_what_is_not_there(self, hub, rule, place):
        push_to_hub(rule, REPOSITORY)
        with pytest.raises(FileNotFoundError, match="Check name, revision and file"):
            from_pretrained(**place)

    def test_what_is_no_name(self, hub, rule):
        with pytest.raises(FileNotFoundError, match="Check the spelling"):
            from_pretrained("./no/such/folder")
        with pytest.raises(ValueError, match=r"owner/name; got 'a b'"):
            push_to_hub(rule, "a b")
        assert not hub.asked

    @pytest.mark.parametrize("status", [401, 403])
    def test_a_token_that_may_not_write(self, hub, rule, status):
        hub.refuses_with = status
        with pytest.raises(PermissionError, match=f"{status}.*hf auth login"):
            push_to_hub(rule, REPOSITORY)

    def test_other_refusals_are_one_line(self, hub, rule):
        hub.refuses_with = 422
        with pytest.raises(ConnectionError, match=r"422.*then try again") as found:
            push_to_hub(rule, REPOSITORY)
        assert str(found.value).isprintable()

    @pytest.mark.parametrize("private", [True, False])
    def test_a_repository_can_be_private(self, hub, rule, private):
        push_to_hub(rule, REPOSITORY, private=private)
        wanted = hub.repositories[REPOSITORY]["private"]
        assert (wanted.get("visibility") == "private") == private


class TestCompanions:
    """Networks that read networks are shared in the same way."""

    @pytest.fixture
    def predictor(self):
        inputs = companion.InputsConfig(num_inputs=2, num_hidden=1, num_outputs=1)
        backbone = companion.NGGNNBackboneConfig(width=6, layers=2)
        config = companion.CompanionConfig(inputs=inputs, backbone=backbone)
        return companion.NetworkPredictor(config)

    def test_a_folder_holds_the_network_and_its_card(self, predictor, tmp_path):
        folder = companion.save_pretrained(
            predictor, tmp_path / "mine", provenance={"seed": 3, "limits": "Toys only."}
        )
        assert_same_rule(companion.from_pretrained(folder), predictor)
        card = (folder / "README.md").read_text()
        assert "Toys only." in card
        assert 'companion.from_pretrained("mine")' in card
        again = companion.save_pretrained(
            folder / "companion.safetensors", tmp_path / "again"
        )
        found = companion.read_companion_provenance(again / "companion.safetensors")
        assert found == {"seed": 3, "limits": "Toys only."}

    def test_what_is_pushed_can_be_pulled(self, hub, predictor):
        companion.push_to_hub(predictor, REPOSITORY)
        assert_same_rule(companion.from_pretrained(REPOSITORY), predictor)

    def test_a_rule_is_no_companion(self, rule, tmp_path):
        folder = save_pretrained(rule, tmp_path)
        with pytest.raises(ValueError, match="load_companion reads the format"):
            companion.from_pretrained(folder, filename="rule.safetensors")


class TestFaults:
    """Each failure of hub or network is one line that says what to do."""

    @pytest.fixture(autouse=True)
    def at_once(self, monkeypatch):
        """The hub's client waits between its attempts."""
        monkeypatch.setattr(time, "sleep", lambda _seconds: None)

    @pytest.mark.parametrize(
        ("fault", "kind", "message"),
        [
            ("truncated body", ConnectionError, "hub; got 'peer closed.*Try again, or"),
            ("redirect loop", ConnectionError, "hub; got .Exceeded.*Try again, or"),
            ("dropped connection", ConnectionError, "hub; got 'Server dis.*Try again"),
            (401, PermissionError, r"token that may read.*401.*pass token="),
            (403, FileNotFoundError, r"got neither.*Connect once"),
            (500, FileNotFoundError, r"got neither.*Connect once"),
        ],
    )
    def test_a_download_that_fails(self, hub, rule, fault, kind, message):
        push_to_hub(rule, REPOSITORY)
        hub.fault = fault
        with pytest.raises(kind, match=message) as found:
            from_pretrained(REPOSITORY)
        assert str(found.value).isprintable()
        hub.fault = None
        assert_same_rule(from_pretrained(REPOSITORY), rule)

    def test_a_hub_that_is_not_there(self, hub, rule):
        hub.shutdown()
        hub.server_close()
        with pytest.raises(FileNotFoundError, match="Connect once, or copy"):
            from_pretrained(REPOSITORY)
        with pytest.raises(ConnectionError, match="then try again"):
            push_to_hub(rule, REPOSITORY)

    @pytest.mark.parametrize("name", [None, 3, b"someone/a-rule"])
    def test_what_is_no_name(self, name):
        with pytest.raises(TypeError, match="Pass a path, or owner/name"):
            inspect.unwrap(from_pretrained)(name)

    @pytest.mark.parametrize("name", ["x" * 5000, "\x1b[31m/red", "a\0/b", ""])
    def test_what_nothing_can_be_called(self, hub, name):
        with pytest.raises(
            FileNotFoundError, match=r"Check the spelling|Pass filename"
        ):
            from_pretrained(name)
        assert not hub.asked
