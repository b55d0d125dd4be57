"""What is read from files, under random damage: only documented errors, no hang."""

import gzip
import json
import random
import time
from functools import partial

import numpy as np
import pytest
import torch
import yaml
from fuzz import harness
from fuzz.harness import Target, damage_bytes, damage_json, damage_values, fuzz
from safetensors.torch import load, save
from torch import nn

from benchmarks.runs import read_rows
from l2o import NeuralGraphOpt, load_rule, read_provenance
from l2o.companion import NetworkPredictor, park_predictor
from l2o.companion.checkpoint import (
    load_companion,
    read_companion_provenance,
    save_companion,
)
from l2o.nets.config import FeedForwardConfig, NeuronGNNConfig, NGGNNConfig
from l2o.rule import checkpoint
from l2o.rule.build import any_rule_config_values, build_rule
from l2o.rule.config import RuleConfig
from l2o.rule.model_card import model_card
from l2o.rule.neuron_config import NeuronRuleConfig
from l2o.rule.rule import Rule
from meta_train.config import load_config
from meta_train.resume import load_checkpoint, save_checkpoint
from optimizees.data.cifar import MD5, load_cifar10
from optimizees.data.idx import read_idx, write_idx
from optimizees.siren import draw_siren
from optimizees.zoo.inr_archives import read_archive
from optimizees.zoo.inr_set import load_embedded_fits, pack_fits, read_fits
from optimizees.zoo.park_files import read_run
from optimizees.zoo.published_park import read_published_checkpoint
from optimizees.zoo.small_cnn_zoo import published_layout, read_small_cnn_zoo
from optimizees.zoo.wild_cnn import WildArchitecture, WildCNN, WildLayer
from optimizees.zoo.wild_park import EMBEDDED_PARK

SMALL = RuleConfig(net=FeedForwardConfig(width=4, layers=1))
SMALL_GRAPH = RuleConfig(net=NGGNNConfig(width=6, layers=1, head=SMALL.net))
SMALL_NEURONS = NeuronRuleConfig(net=NeuronGNNConfig(width=8))


def rule_bytes(folder):
    checkpoint.save_rule(Rule(SMALL), folder / "rule", provenance={"seed": 3})

    def read(path):
        load_rule(path)
        read_provenance(path)

    return Target("rule file, bytes", (folder / "rule").read_bytes(), read)


def rule_values(config):
    """Other values in the configuration, under a checksum that is right."""

    def build(_folder):
        rule = build_rule(config)
        whole = json.dumps(any_rule_config_values(config)).encode()

        def mutate(draw, whole):
            return rule_file(rule, damage_json(draw, whole).decode())

        def read(path):
            content = path.read_bytes()
            if content == whole:
                path.write_bytes(rule_file(rule, content.decode()))
            load_rule(path)

        return Target("rule file, values", whole, read, mutate=mutate)

    return build


def rule_file(rule, config):
    theta = {name: weight.detach() for name, weight in rule.state_dict().items()}
    metadata = {"format": "l2o-rule-2", "config": config, "license": "MIT"}
    metadata["sha256"] = checkpoint.content_hash(metadata, theta)
    return save(theta, metadata)


def companion(folder):
    """A network on networks, with its statistics."""
    save_companion(NetworkPredictor(park_predictor("ng_gnn")), folder / "companion")

    def read(path):
        load_companion(path)
        read_companion_provenance(path)

    return Target("companion", (folder / "companion").read_bytes(), read)


def card(folder):
    """No provenance that a file may hold breaks a model card."""
    rule = Rule(SMALL)
    known = {
        "config": {
            "tasks": [{"name": "x"}],
            "unroll": [1, 2],
            "estimator": {"kind": "es"},
        },
        "machine": {"processor": "x", "threads": 2},
        "validation": {"loss": 0.5},
        **dict.fromkeys(("seconds", "outer_step", "inner_steps", "num_diverged"), 7),
        **dict.fromkeys(("data", "commit", "tried", "results", "limits"), "text"),
    }

    def read(path):
        text = model_card(rule, repo_id="a/b", provenance=json.loads(path.read_bytes()))
        assert all(line.isprintable() for line in text.split("\n"))

    whole = json.dumps(known).encode()
    return Target("model card", whole, read, allowed=(), mutate=damage_json)


def optimizer_state(folder):
    """A state dictionary with other values: refused, and then nothing has changed."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = NeuralGraphOpt(model.parameters(), rule=Rule(SMALL), lr=0.5)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    saved = optimizer.state_dict()
    torch.save(saved, folder / "state.pt")

    def mutate(draw, whole):
        changed = damage_values(draw, saved)
        torch.save(changed, folder / "changed.pt")
        return (folder / "changed.pt").read_bytes()

    def read(path):
        found = torch.load(path, weights_only=False)
        optimizer.load_state_dict(saved)
        try:
            optimizer.load_state_dict(found)
        except (ValueError, TypeError, KeyError):
            assert optimizer.param_groups[0]["lr"] == 0.5
            raise

    whole = (folder / "state.pt").read_bytes()
    allowed = (ValueError, TypeError)
    return Target("optimizer state", whole, read, allowed=allowed, mutate=mutate)


RUN = {
    "name": "run",
    "rule": "default-ff",
    "outer_steps": 3,
    "num_tasks": 2,
    "unroll": [3, 12],
    "tasks": [{"name": "fashion-mlp", "image_size": 7}],
    "estimator": {"kind": "first_order", "window": 2, "replay": 0.5},
    "meta_optimizer": {"warmup": 2, "betas": [0.9, 0.99]},
    "validation": {"every": 2, "seeds": [9001], "tasks": [{"name": "fashion-mlp"}]},
}


def yaml_bytes(folder):
    whole = yaml.safe_dump(RUN).encode()
    allowed = (ValueError, FileNotFoundError)
    return Target("run's YAML, bytes", whole, load_config, allowed=allowed)


def yaml_values(folder):
    def mutate(draw, whole):
        return yaml.safe_dump(damage_values(draw, yaml.safe_load(whole))).encode()

    return Target(
        "run's YAML, values",
        yaml.safe_dump(RUN).encode(),
        load_config,
        allowed=(ValueError, FileNotFoundError),
        mutate=mutate,
    )


def results(folder):
    row = {"task": "x", "optimizer": "adam", "seed": 1, "scores": [{"step": 3}]}
    whole = "".join(json.dumps({**row, "seed": seed}) + "\n" for seed in range(4))
    return Target("results JSONL", whole.encode(), read_rows, suffix=".jsonl")


def run_checkpoint(folder):
    save_checkpoint({"theta": {"w": torch.ones(3)}, "step": 2}, folder / "whole.pt")
    whole = (folder / "whole.pt").read_bytes()
    return Target("run's checkpoint", whole, load_checkpoint)


def idx(folder):
    write_idx(folder / "images.gz", torch.arange(60, dtype=torch.uint8).view(5, 4, 3))
    return Target("IDX", (folder / "images.gz").read_bytes(), read_idx)


def idx_unpacked(folder):
    whole = gzip.decompress(idx(folder).whole)
    return Target("IDX, unpacked", whole, read_idx)


def cifar(folder):
    place = folder / "cifar"
    place.mkdir()

    def read(path):
        for name in MD5:
            (place / name).write_bytes(path.read_bytes())
        load_cifar10("test", root=place)

    allowed = (ValueError, FileNotFoundError)
    return Target("CIFAR-10", bytes(3 * 3073), read, allowed=allowed)


def fits(folder):
    few = load_embedded_fits().select(slice(0, 2), "few")
    return Target("fits", pack_fits(few, {"source": "made up"}), read_fits)


def archive(folder):
    place = folder / "archive" / "test" / "model_0.pth"
    place.parent.mkdir(parents=True)
    drawn = draw_siren(generator=torch.Generator().manual_seed(0))
    torch.save({**drawn, "label": 3}, place)

    def read(path):
        place.write_bytes(path.read_bytes())
        read_archive("fmnist-inrs", folder / "archive", "test")

    return Target("INR archive", place.read_bytes(), read)


def published(folder):
    layer = WildLayer(channels=4, kernel_size=3, activation="relu")
    content = {
        "model": WildCNN(WildArchitecture(layers=(layer,))).state_dict(),
        "config": {"activation": ["relu"], "residual": [-1]},
        "last_result": {"test/acc": 0.5},
    }
    torch.save(content, folder / "published.pt")
    whole = (folder / "published.pt").read_bytes()
    return Target("published checkpoint", whole, read_published_checkpoint)


def park(folder):
    source = sorted(EMBEDDED_PARK.glob("*.safetensors"))[0]
    return Target("park", source.read_bytes(), read_run)


def park_values(folder):
    """Other values in the description of a network."""
    source = sorted(EMBEDDED_PARK.glob("*.safetensors"))[0]
    tensors = load(source.read_bytes())
    size = int.from_bytes(source.read_bytes()[:8], "little")
    header = json.loads(source.read_bytes()[8 : 8 + size])
    whole = header["__metadata__"]["run"].encode()

    def mutate(draw, whole):
        return save(tensors, {"run": damage_json(draw, whole).decode()})

    def read(path):
        content = path.read_bytes()
        if content == whole:
            path.write_bytes(save(tensors, {"run": content.decode()}))
        read_run(path)

    return Target("park, values", whole, read, mutate=mutate)


def zoo(name):
    def build(folder):
        place = folder / "zoo"
        place.mkdir()
        np.save(place / "weights.npy", np.zeros((20, 4970), np.float32))
        lines = ["config.activation,step,test_accuracy"] + ["relu,1,0.5"] * 20
        metrics = gzip.compress("\n".join(lines).encode())
        (place / "metrics.csv.gz").write_bytes(metrics)
        (place / "layout.csv").write_text(published_layout())

        def read(path):
            (place / name).write_bytes(path.read_bytes())
            read_small_cnn_zoo(place, "test")

        return Target(f"zoo's {name}", (place / name).read_bytes(), read)

    return build


BUILDERS = {
    "rule-bytes": rule_bytes,
    "rule-values": rule_values(SMALL),
    "graph-rule-values": rule_values(SMALL_GRAPH),
    "neuron-rule-values": rule_values(SMALL_NEURONS),
    "companion": companion,
    "card": card,
    "optimizer-state": optimizer_state,
    "yaml-bytes": yaml_bytes,
    "yaml-values": yaml_values,
    "results": results,
    "run-checkpoint": run_checkpoint,
    "idx": idx,
    "idx-unpacked": idx_unpacked,
    "cifar": cifar,
    "fits": fits,
    "archive": archive,
    "published": published,
    "park": park,
    "park-values": park_values,
    "zoo-weights": zoo("weights.npy"),
    "zoo-metrics": zoo("metrics.csv.gz"),
    "zoo-layout": zoo("layout.csv"),
}
every_target = pytest.mark.parametrize("build", BUILDERS.values(), ids=list(BUILDERS))


@every_target
@pytest.mark.parametrize(
    "seconds", [0.1, pytest.param(30 / len(BUILDERS), marks=pytest.mark.slow)]
)
def test_only_documented_errors(build, tmp_path, seconds):
    assert fuzz(build(tmp_path), tmp_path, seconds=seconds) >= 20


class TestTheHarness:
    """The controls: each kind of fault is found."""

    @pytest.mark.parametrize(
        "error", [KeyError("x"), RecursionError(), SystemExit(1), ValueError("")]
    )
    def test_an_undocumented_error(self, tmp_path, error):
        def read(path):
            if path.read_bytes() != b"whole":
                raise error

        with pytest.raises(AssertionError, match=r"bad 0(: ValueError.* says| raised)"):
            fuzz(Target("bad", b"whole", read), tmp_path, seconds=0)

    def test_a_hang_that_swallows_exceptions(self, tmp_path):
        def read(_path):
            try:
                time.sleep(10)
            except Exception:
                raise ValueError("hidden") from None

        target = Target("slow", b"whole", read)
        with pytest.raises(AssertionError, match=r"slow 3 took over 0\.05 s"):
            harness.read_under_watch(target, tmp_path, 3, 0.05)

    def test_memory(self, tmp_path, monkeypatch):
        peaks = iter([0, 0, 600 * 2**20])
        monkeypatch.setattr(harness, "_peak_bytes", partial(next, peaks))
        with pytest.raises(AssertionError, match="large 1 took 629,145,600 bytes"):
            fuzz(Target("large", b"whole", bool), tmp_path, seconds=0)

    def test_variants_are_the_same_every_time_and_differ(self):
        whole = bytes(range(256))
        variants = [damage_bytes(random.Random(i), whole) for i in range(200)]
        assert variants == [damage_bytes(random.Random(i), whole) for i in range(200)]
        assert sum(variant != whole for variant in variants) > 190
        values = [damage_values(random.Random(i), RUN) for i in range(200)]
        assert sum(value != RUN for value in values) > 150
