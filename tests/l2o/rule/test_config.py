from dataclasses import replace

import pytest

from l2o import PRESETS, Rule, RuleConfig
from l2o.nets import FeedForwardConfig, LSTMConfig, NFNConfig, NGGNNConfig
from l2o.rule.config import (
    NominalHeadConfig,
    PaperHeadConfig,
    ScaleFreeFeaturesConfig,
    rule_config_from_values,
    rule_config_values,
    with_group_rows,
)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("paper", 744_322),
        ("paper-ng-t", 398_466 - 320_000 - 32),
        ("paper-ff", 5_250),
        ("paper-lstm", 11_554),
        ("paper-nfn", 436_930 - 3 * 4 * 4 * 32),
    ],
)
def test_the_papers_rules_have_the_papers_sizes(name, count):
    """NG-GNN: 1,384,322 less the 640,000 of a trained table of positions, which are
    computed here (Kofinas et al., 2024, and the released code). NG-T: the table has
    320,000, and 32 are a token that only the released read-out has. NFN: in each of
    three layers the released code adds four biases to each of four weights and two to
    each bias, where one does.
    """
    rule = Rule(PRESETS[name])
    assert rule.num_weights() == sum(p.numel() for p in rule.parameters()) == count


def test_with_its_token_ng_t_has_the_released_size():
    config = PRESETS["paper-ng-t"]
    released = replace(config, net=replace(config.net, readout="released"))
    assert Rule(released).num_weights() == 398_466 - 320_000


def test_the_default_is_a_preset():
    assert RuleConfig() == PRESETS["default"] == Rule().config


@pytest.mark.parametrize("name", PRESETS)
def test_values_and_back_is_identity(name):
    values = rule_config_values(PRESETS[name])
    assert rule_config_from_values(values) == PRESETS[name]
    assert values == rule_config_values(PRESETS[name])


def test_rows_that_are_whitened_together_are_saved_and_positive():
    config = with_group_rows(RuleConfig(), 7)
    values = rule_config_values(config)
    assert rule_config_from_values(values) == config != RuleConfig()
    del values["directions"]
    assert rule_config_from_values(values) == RuleConfig()
    values["whitening_rows"] = 7  # where older files have it
    assert rule_config_from_values(values) == config
    with pytest.raises(ValueError, match="group_rows must be above zero"):
        with_group_rows(RuleConfig(), 0)


def test_files_from_before_a_choice_keep_what_there_was():
    values = rule_config_values(PRESETS["default"])
    for key in "unit", "full_fan_in", "scaled":
        del values["head"][key]
    head = rule_config_from_values(values).head
    assert head == NominalHeadConfig(unit="one", scaled="adam")
    assert (NominalHeadConfig().unit, NominalHeadConfig().scaled) == ("fan_in", "all")


class TestStrictness:
    @pytest.fixture
    def values(self):
        return rule_config_values(PRESETS["default"])

    @pytest.mark.parametrize("part", ["net", "features", "head"])
    def test_an_unknown_key_is_named(self, values, part):
        values[part]["widht"] = 3
        with pytest.raises(ValueError, match=r"got also \['widht'\]"):
            rule_config_from_values(values)

    def test_an_unknown_key_at_the_top_is_named(self, values):
        with pytest.raises(ValueError, match=r"got also \['nett'\]"):
            rule_config_from_values({**values, "nett": {}})

    def test_an_unknown_key_of_a_nested_net_is_named(self, values):
        values["net"]["head"]["widht"] = 3
        with pytest.raises(ValueError, match=r"got also \['widht'\]"):
            rule_config_from_values(values)

    @pytest.mark.parametrize("part", ["net", "features", "head"])
    def test_an_unknown_kind_is_named(self, values, part):
        values[part]["kind"] = "pony"
        with pytest.raises(ValueError, match=r"got 'pony'.*the version of l2o"):
            rule_config_from_values(values)

    @pytest.mark.parametrize("part", ["net", "features", "head"])
    def test_a_missing_part_is_named(self, values, part):
        del values[part]
        with pytest.raises(ValueError, match=rf"needs \['{part}'\].*save_rule"):
            rule_config_from_values(values)


class TestRanges:
    @pytest.mark.parametrize(
        ("build", "name"),
        [
            (lambda: FeedForwardConfig(width=0), "width=0"),
            (lambda: FeedForwardConfig(layers=-1), "layers=-1"),
            (lambda: NGGNNConfig(width=0), "width=0"),
            (lambda: NGGNNConfig(layers=0), "layers=0"),
            (lambda: NGGNNConfig(kernel=0), "kernel=0"),
            (lambda: LSTMConfig(width=0), "width=0"),
            (lambda: NFNConfig(depth=0), "depth=0"),
            (lambda: NFNConfig(kernel=0), "kernel=0"),
            (lambda: NFNConfig(fourier_scale=0.0), r"fourier_scale=0\.0"),
            (lambda: PaperHeadConfig(step_size=0.0), r"step_size=0\.0"),
            (lambda: NominalHeadConfig(step_size=-1.0), r"step_size=-1\.0"),
            (lambda: NominalHeadConfig(max_log_scale=0.0), r"max_log_scale=0\.0"),
        ],
    )
    def test_what_is_not_positive_is_refused(self, build, name):
        with pytest.raises(ValueError, match=f"{name}.*Choose a positive value"):
            build()

    @pytest.mark.parametrize("width", [4, 7])
    def test_positions_need_an_even_width_of_six(self, width):
        with pytest.raises(ValueError, match=r"Use for example 32"):
            NGGNNConfig(width=width)

    def test_six_channels_are_enough(self):
        net = NGGNNConfig(width=6, layers=1)
        assert Rule(replace(RuleConfig(), net=net)).num_weights() > 0

    def test_clocks_may_be_left_out(self):
        features = ScaleFreeFeaturesConfig(time_scales=())
        rule = Rule(replace(RuleConfig(), features=features))
        clocks = len(ScaleFreeFeaturesConfig().time_scales)
        assert rule.features.num_context == Rule().features.num_context - clocks
