"""The command `l2o`: how verbs are found, called and fail."""

import importlib.metadata
import os
import subprocess
import sys
from dataclasses import dataclass

import pytest

from l2o import cli
from l2o.cli import main

MAIN = "import sys; from l2o.cli import main; sys.exit(main())"
HEAVY = ("torch", "torch_geometric", "matplotlib", "scipy", "pydantic", "yaml")
VERBS = (
    *("benchmark", "demo", "graph", "meta-train", "report", "rules", "validate"),
    *("data.cnn-zoo", "data.download", "data.locate", "data.siren-fits"),
    *("data.verify", "data.wild-park"),
)


@pytest.fixture
def offer(monkeypatch):
    """Make an object the only verb, under a name."""

    def make(name, verb):
        class Entry:
            module, attr = "tests.nowhere", "nothing"

            def __init__(self, name):
                self.name = name

            def load(self):
                return verb

        monkeypatch.setattr(cli, "verbs", lambda: {name: Entry(name)})

    return make


class TestVerbs:
    def test_all_are_there_and_can_be_imported(self):
        found = cli.verbs()
        assert set(VERBS) <= found.keys()
        for name in VERBS:
            assert callable(found[name].load())

    def test_help_has_a_line_for_each(self, capsys):
        assert main(["--help"]) == 0
        text = capsys.readouterr().out
        for name in VERBS:
            (line,) = [
                line
                for line in text.splitlines()
                if line.startswith(f"    {name.replace('.', ' ')} ")
            ]
            assert line.endswith(".")

    def test_without_a_verb_it_is_a_usage_error(self, capsys):
        assert main([]) == 2
        assert "usage: l2o VERB" in capsys.readouterr().err

    def test_a_group_lists_its_verbs(self, capsys):
        assert main(["data"]) == 2
        assert main(["data", "--help"]) == 0
        said = capsys.readouterr()
        assert said.out == said.err
        assert "data locate" in said.out
        assert "rules" not in said.out

    def test_an_unknown_verb_is_a_usage_error(self, capsys):
        assert main(["grap"]) == 2
        assert "Did you mean l2o graph?" in capsys.readouterr().err
        assert main(["data", "lokate"]) == 2
        assert "Did you mean l2o data locate?" in capsys.readouterr().err

    def test_the_version_is_the_installed_one(self, capsys):
        assert main(["--version"]) == 0
        version = importlib.metadata.version("l2o")
        assert capsys.readouterr().out == f"l2o {version}\n"

    def test_rules_loads_nothing_that_it_does_not_need(self):
        code = (
            "import sys; from l2o.cli import main; status = main(['rules']); "
            f"print([name for name in {HEAVY} if name in sys.modules]); "
            "sys.exit(status)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        assert done.stdout.splitlines()[-1] == "[]"


class TestCalls:
    def test_a_function_gets_its_options(self, offer):
        seen = []

        def verb(count: int, /, *, name: str = "x") -> None:
            seen.append((count, name))

        offer("verb", verb)
        assert main(["verb", "3", "--name", "y"]) == 0
        assert seen == [(3, "y")]

    def test_a_dataclass_is_run(self, offer):
        seen = []

        @dataclass(frozen=True, kw_only=True)
        class Verb:
            count: int = 1

            def run(self):
                seen.append(self.count)

        offer("group.verb", Verb)
        assert main(["group", "verb", "--count", "2"]) == 0
        assert seen == [2]

    def test_a_function_of_arguments_gets_the_words(self, offer):
        def verb(arguments):
            return len(arguments)

        offer("verb", verb)
        assert main(["verb", "--any", "thing"]) == 2

    def test_an_option_out_of_range_is_a_usage_error(self, capsys):
        with pytest.raises(SystemExit) as stop:
            main(["data", "wild-park", "--networks", "-1"])
        assert stop.value.code == 2
        assert "Raise --networks" in " ".join(capsys.readouterr().err.split())


class TestFailures:
    @pytest.mark.parametrize("kind", [OSError, ValueError, TypeError])
    def test_an_error_is_one_line(self, offer, capsys, monkeypatch, kind):
        def fail(arguments):
            raise kind("rule must exist; got none. Pass one.")

        monkeypatch.delenv("L2O_TRACEBACK", raising=False)
        offer("verb", fail)
        assert main(["verb"]) == 1
        said = capsys.readouterr().err
        assert said == "l2o: rule must exist; got none. Pass one.\n"
        monkeypatch.setenv("L2O_TRACEBACK", "1")
        assert main(["verb"]) == 1
        assert "Traceback" in capsys.readouterr().err

    def test_a_fault_of_the_library_is_a_traceback(self, offer):
        def fail(arguments):
            raise AssertionError

        offer("verb", fail)
        with pytest.raises(AssertionError):
            main(["verb"])

    def test_a_missing_extra_is_named(self, offer, capsys):
        def fail(arguments):
            raise ModuleNotFoundError("No module named 'yaml'", name="yaml")

        offer("verb", fail)
        assert main(["verb"]) == 1
        said = capsys.readouterr().err
        assert "l2o verb needs the package yaml" in said
        assert "pip install 'l2o[train]'" in said

    def test_a_failed_import_with_a_message_of_ours_is_one_line(self, offer, capsys):
        def fail(arguments):
            raise ImportError("push_to_hub needs huggingface_hub. Install it.")

        offer("verb", fail)
        assert main(["verb"]) == 1
        assert capsys.readouterr().err == (
            "l2o: push_to_hub needs huggingface_hub. Install it.\n"
        )

    def test_a_module_that_no_extra_has_is_our_fault(self, offer):
        def fail(arguments):
            raise ModuleNotFoundError("No module named 'nothing'", name="nothing")

        offer("verb", fail)
        with pytest.raises(ModuleNotFoundError):
            main(["verb"])

    @pytest.mark.parametrize(
        ("module", "extra"),
        [
            ("matplotlib.figure", "benchmarks"),
            ("pydantic", "train"),
            ("torch_geometric", "pyg"),
            ("huggingface_hub", "hub"),
            ("torch", None),
        ],
    )
    def test_the_metadata_say_which_extra_has_a_module(self, module, extra):
        assert cli._extra_of(module) == extra

    def test_an_interrupt_has_a_status_of_its_own(self, offer, capsys):
        def interrupt(arguments):
            raise KeyboardInterrupt

        offer("verb", interrupt)
        assert main(["verb"]) == 130
        assert "go on where they stopped" in capsys.readouterr().err

    def test_a_closed_pipe_is_silent(self):
        read, write = os.pipe()
        os.close(read)
        done = subprocess.run(
            [sys.executable, "-c", MAIN, "rules"],
            stdout=write,
            stderr=subprocess.PIPE,
            check=False,
        )
        os.close(write)
        assert (done.returncode, done.stderr) == (141, b"")

    @pytest.mark.slow
    def test_an_interrupt_while_importing(self):
        interrupted = (
            "import os, signal, sys\n"
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "class Finder:\n"
            "    def find_spec(self, name, path=None, target=None):\n"
            "        if name == 'torch.nn':\n"
            "            os.kill(os.getpid(), signal.SIGINT)\n"
            "sys.meta_path.insert(0, Finder())\n"
        )
        process = subprocess.run(
            [
                sys.executable,
                "-c",
                interrupted + MAIN,
                "graph",
                "optimizees:fashion_cnn",
            ],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert process.returncode == 130
        assert process.stderr.startswith("l2o: interrupted")
        assert process.stderr.count("\n") == 1

    @pytest.mark.slow
    def test_no_home_and_no_user(self):
        code = (
            "import pwd, sys\n"
            "def missing(uid): raise KeyError(uid)\n"
            "pwd.getpwuid = missing\n"
            "from l2o.cli import main\n"
            "print(main(['rules']), main(['data', 'locate', 'cifar-10']), "
            "main(['data', 'download', 'cifar-10']))"
        )
        environment = {
            name: value
            for name, value in os.environ.items()
            if name in ("PATH", "PYTHONPATH")
        }
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.splitlines()[-1] == "0 1 1"
        located, downloaded = done.stderr.splitlines()
        assert "l2o data download cifar-10" in located
        assert "Pass --dest" in downloaded
