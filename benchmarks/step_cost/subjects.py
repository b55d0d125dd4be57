"""What is timed on a network: its own gradient, and steps of optimizers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.muon import MuonAndAdamW
from l2o import PRESETS, NeuralGraphOpt, load_rule, neural_graph
from l2o.graph import NeuralGraph
from l2o.nets.gnn import NGGNNNet
from l2o.rule.build import AnyRule, AnyRuleConfig, build_rule
from l2o.rule.neuron_config import NeuronRuleConfig

from .muon import FloatMuon
from .networks import Network
from .small_fc import SmallFC

RuleName: TypeAlias = Literal[
    "default",
    "default-ff",
    "default-ng-t",
    "paper",
    "paper-ng-t",
    "paper-nfn",
    "paper-lstm",
    "paper-ff",
    "neurons",
    "base",
]
CompiledName: TypeAlias = Literal[
    "default-compiled",
    "default-ff-compiled",
    "paper-compiled",
    "paper-ff-compiled",
    "neurons-compiled",
    "base-compiled",
]
GradientName: TypeAlias = Literal[
    "forward-backward", "forward-backward-32", "forward-backward-128"
]
SubjectName: TypeAlias = (
    GradientName
    | Literal["adam-foreach", "adam-fused", "muon", "muon-float32"]
    | RuleName
    | CompiledName
    | Literal["default-pyg", "small-fc", "paper-forward"]
)
RULES: tuple[RuleName, ...] = get_args(RuleName)
COMPILED: dict[CompiledName, RuleName] = {
    "default-compiled": "default",
    "default-ff-compiled": "default-ff",
    "paper-compiled": "paper",
    "paper-ff-compiled": "paper-ff",
    "neurons-compiled": "neurons",
    "base-compiled": "base",
}
"""The rule of each compiled step."""
GRADIENTS: dict[str, int | None] = {
    "forward-backward": None,
    "forward-backward-32": 32,
    "forward-backward-128": 128,
}
"""Samples of the batch of each `GradientName`; None for the usual number."""

LABELS: dict[SubjectName, str] = {
    "forward-backward": "forward + backward",
    "forward-backward-32": "forward + backward, batch 32",
    "forward-backward-128": "forward + backward, batch 128",
    "adam-foreach": "torch Adam, foreach",
    "adam-fused": "torch Adam, fused",
    "muon": "torch Muon (bfloat16 products), AdamW",
    "muon-float32": "Muon (float32 products as ours), AdamW",
    "neurons": "NG-GNN, neuron by neuron",
    "base": "base, a rule without a network",
    "default": "NG-GNN",
    "default-ff": "FF",
    "default-ng-t": "NG-T",
    "paper": "the paper's NG-GNN",
    "paper-ng-t": "the paper's NG-T",
    "paper-nfn": "the paper's NFN",
    "paper-lstm": "the paper's LSTM",
    "paper-ff": "the paper's FF",
    "default-compiled": "NG-GNN, compiled",
    "neurons-compiled": "NG-GNN, neuron by neuron, compiled",
    "base-compiled": "base, compiled",
    "default-ff-compiled": "FF, compiled",
    "paper-compiled": "the paper's NG-GNN, compiled",
    "paper-ff-compiled": "the paper's FF, compiled",
    "default-pyg": "NG-GNN on PyTorch Geometric",
    "small-fc": "per-parameter MLP of PyLO's form",
    "paper-forward": "the paper's NG-GNN, forward pass alone",
}


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A subject, ready to be timed."""

    call: Callable[[], object]
    """Does it once; the first time may take longer."""
    optimizer: Optimizer | None
    """Whose state is counted; None where there is none."""
    graph: NeuralGraph | None
    """What the rule reads; None for others."""


def prepare(name: SubjectName, network: Network) -> Prepared:
    """Build what is timed.

    Gradients are noise where only a step is timed: values do not change the cost. Rules
    are untrained for the same reason.

    Args:
        name: which subject.
        network: its parameters get gradients.
    """
    model = network.model
    if name in ("forward-backward", "forward-backward-32", "forward-backward-128"):

        def call() -> None:
            model.zero_grad()
            network.loss().backward()

        return Prepared(call=call, optimizer=None, graph=None)
    draw_gradients(model)
    match name:
        case "adam-foreach":
            return _step_of(torch.optim.Adam(model.parameters(), foreach=True))
        case "adam-fused":
            return _step_of(torch.optim.Adam(model.parameters(), fused=True))
        case "muon":
            muon = MuonAndAdamW(model, 0.02, weight_decay=0.0, momentum=0.95)
            return _step_of(muon)
        case "muon-float32":
            graph = neural_graph(model, network.inputs[:2])
            return _step_of(FloatMuon(model, graph))
        case "small-fc":
            return _step_of(SmallFC(model.parameters()))
        case (
            "default-compiled"
            | "neurons-compiled"
            | "base-compiled"
            | "default-ff-compiled"
            | "paper-compiled"
            | "paper-ff-compiled"
        ):
            return _compiled(network, COMPILED[name])
        case "default-pyg":
            from l2o.nets.pyg import PyGNGGNNNet  # extra [pyg]

            rule = _rule("default", network)
            assert isinstance(rule.net, NGGNNNet)
            rule.add_module("net", PyGNGGNNNet(rule.net))
            return _learned(network, rule)
        case "paper-forward":
            return _forward(network, _rule("paper", network))
        case _:  # the type checker knows that only rules are left
            return _learned(network, _rule(name, network))


def rule_gflop(name: RuleName, network: Network, graph: NeuralGraph) -> float:
    """Return the matrix products of one step of a rule, in 1e9 operations.

    It is taken on tensors without values, so that counting takes no arithmetic.

    Args:
        name: which rule.
        network: whose parameters it would move.
        graph: of the network.
    """
    params: list[tuple[str, nn.Parameter]] = []
    for key, param in network.model.named_parameters():
        shadow = nn.Parameter(torch.empty_like(param, device="meta"))
        shadow.grad = torch.empty_like(shadow)
        params.append((key, shadow))
    rule = build_rule(_config(name)).to("meta")
    optimizer = NeuralGraphOpt(params, rule=rule, graph=graph)
    with FlopCounterMode(display=False) as counter:
        optimizer.step()
    return counter.get_total_flops() / 1e9


def draw_gradients(model: nn.Module) -> None:
    """Give every parameter normal noise as its gradient, the same every time."""
    generator = torch.Generator().manual_seed(0)
    for param in model.parameters():
        noise = torch.randn(param.shape, generator=generator)
        param.grad = (0.01 * noise).to(param)


def _rule(name: RuleName, network: Network) -> AnyRule:
    return build_rule(_config(name)).to(network.inputs.device)


def _config(name: RuleName) -> AnyRuleConfig:
    """Return a rule's configuration; the default ones are those that are shipped."""
    match name:
        case "default":
            rule = load_rule("ng-gnn")
        case "default-ff":
            rule = load_rule("ff")
        case "default-ng-t":
            rule = load_rule("ng-t")
        case "neurons":
            return NeuronRuleConfig()
        case "base":
            rule = load_rule("base")
        case _:
            return PRESETS[name]
    return rule.config


def _step_of(optimizer: Optimizer, graph: NeuralGraph | None = None) -> Prepared:
    return Prepared(call=optimizer.step, optimizer=optimizer, graph=graph)


def _learned(network: Network, rule: AnyRule, **settings: Any) -> Prepared:
    graph = neural_graph(network.model, network.inputs[:2])
    named = network.model.named_parameters()
    optimizer = NeuralGraphOpt(named, rule=rule, graph=graph, **settings)
    return _step_of(optimizer, graph)


def _compiled(network: Network, name: RuleName) -> Prepared:
    """Prepare a compiled step; the first one, without state, is taken eagerly."""
    rule = _rule(name, network)
    eager = _learned(network, rule)
    eager.call()
    assert eager.optimizer is not None
    compiled = _learned(network, rule, compile=True)
    assert compiled.optimizer is not None
    compiled.optimizer.load_state_dict(eager.optimizer.state_dict())
    return compiled


def _forward(network: Network, rule: AnyRule) -> Prepared:
    params: dict[str, Tensor] = dict(network.model.named_parameters())
    grads = {name: p.grad for name, p in params.items() if p.grad is not None}
    graph = neural_graph(network.model, network.inputs[:2])
    state = rule.advance(rule.init_state(params), grads)

    @torch.no_grad()
    def call() -> None:
        rule(graph, params, grads, state)

    return Prepared(call=call, optimizer=None, graph=graph)
