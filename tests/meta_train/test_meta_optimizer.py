import pytest
import torch

from l2o import load_rule
from meta_train.config import MetaTrainConfig
from meta_train.loop import MetaTrainer
from meta_train.meta_optimizer import ThetaAverage, choose_trained
from meta_train.resume import load_checkpoint


@pytest.fixture
def net():
    return torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))


class TestTrained:
    def test_patterns_choose(self, net):
        chosen = choose_trained(net, ("1.*", "0.bias"))
        assert [tuple(weight.shape) for weight in chosen] == [(3,), (1, 3), (1,)]
        frozen = [name for name, w in net.named_parameters() if not w.requires_grad]
        assert frozen == ["0.weight"]

    def test_a_pattern_must_fit(self, net):
        with pytest.raises(
            ValueError, match=r"'2\.\*', which fits none .* Correct the"
        ):
            choose_trained(net, ("1.*", "2.*"))

    @pytest.mark.parametrize(
        "estimator",
        [
            {"kind": "imitation", "replay": 0.5},
            {"kind": "tbptt", "window": 2},
            {"kind": "nres", "sigma": 0.1},
        ],
        ids=lambda value: value["kind"],
    )
    def test_the_rest_stays_as_it_was(self, tiny, tmp_path, estimator):
        """Weight decay included."""
        config = tiny(estimator=estimator, trained=["net.entry.last.*"])
        trainer = MetaTrainer(config, tmp_path)
        before = {n: w.clone() for n, w in trainer.rule.named_parameters()}
        trainer.train()
        moved = {
            name
            for name, weight in trainer.rule.named_parameters()
            if not torch.equal(weight, before[name])
        }
        assert moved == {"net.entry.last.weight", "net.entry.last.bias"}

    def test_by_default_all_move(self):
        assert MetaTrainConfig(name="a").trained == ("*",)


class TestAverage:
    def test_it_is_the_moving_average(self, net):
        average = ThetaAverage(net, 0.75)
        first = net[0].bias.detach().clone()
        with torch.no_grad():
            net[0].bias += 1
        average.update()
        with torch.no_grad():
            net[0].bias += 1
        average.update()
        expected = first + 0.25 * 0.75 + 2 * 0.25
        torch.testing.assert_close(average.theta["0.bias"], expected)
        with average.applied():
            torch.testing.assert_close(net[0].bias.detach(), expected)
        torch.testing.assert_close(net[0].bias.detach(), first + 2)

    def test_weights_come_back_after_a_fault(self, net):
        average = ThetaAverage(net, 0.5)
        with torch.no_grad():
            net[0].bias += 1
        kept = net[0].bias.detach().clone()
        with pytest.raises(RuntimeError), average.applied():
            raise RuntimeError
        assert torch.equal(net[0].bias.detach(), kept)

    def test_it_is_what_a_run_saves(self, tiny, tmp_path):
        config = tiny(meta_optimizer={"average": 0.9, "lr": 0.1, "warmup": 0})
        trainer = MetaTrainer(config, tmp_path)
        trainer.train()
        saved = load_rule(tmp_path / "last.safetensors").state_dict()
        values = load_checkpoint(tmp_path / "checkpoint.pt")
        for name, weight in saved.items():
            assert torch.equal(weight, values["average"][name])
        assert any(
            not torch.equal(weight, values["theta"][name])
            for name, weight in saved.items()
        )
