"""How a meta-gradient is found: one frozen record for each estimator."""

from typing import Literal, TypeAlias

from l2o.config import NotNegative, Positive, Share, frozen_config

Objective: TypeAlias = Literal["mean", "log"]
"""A loss in nats, or its logarithm, which weighs late training more."""


@frozen_config
class OneStepConfig:
    """The paper's estimator: the loss after one update, on that update's own batch."""

    kind: Literal["one_step"] = "one_step"
    replay: Share[float] = 1.0
    """Share of the inner steps that are differentiated, drawn at random."""


@frozen_config
class FirstOrderConfig:
    """Losses on fresh batches up to the window's end, to first order in the updates."""

    kind: Literal["first_order"] = "first_order"
    window: Positive[int] = 20
    """Inner steps over which an update is judged, at most."""
    tail: Share[float] = 1.0
    """Share of the window, at its end, whose losses count; a small one judges updates
    by where they lead."""
    discount: Share[float] = 1.0
    """Weight of each later loss over the one before it. Below 1 it keeps the meaning of
    the estimate where training is nearly unstable and gradients alternate in sign."""
    replay: Share[float] = 0.25
    """Share of the inner steps that are differentiated, drawn at random."""
    objective: Objective = "log"
    """What is averaged over the window."""


@frozen_config
class ImitationConfig:
    """A warm start: the update of a hand-designed optimizer is the target.

    Linear maps follow the whitened momentum, all else follows Adam. Rates are in
    units of the head's step size. The rule drives the runs, so it learns on the states
    that it will meet.
    """

    kind: Literal["imitation"] = "imitation"
    matrix_rate: NotNegative[float] = 0.7
    """Root mean square of a linear map's update at the peak of the schedule, in the
    units that the head has for it."""
    kernel_rate: NotNegative[float] | None = None
    """The same for kernels of convolutions; None is `matrix_rate`."""
    rates: tuple[Positive[float], ...] = ()
    """Factors of `matrix_rate` that the teacher tries on each problem before it is
    imitated there; it takes the one with the lowest loss. Empty: no trials."""
    trial_steps: Positive[int] = 400
    """Inner steps of a trial; the mean loss of the last fifth counts."""
    vector_rate: NotNegative[float] = 1.0
    """Factor of Adam's direction for all else at the peak of the schedule."""
    warmup: Positive[int] = 20
    """Inner steps of linear warm-up."""
    decay_steps: Positive[float] = 400.0
    """Inner steps after which the decay has halved the rates."""
    decay_power: Positive[float] = 1.5
    """Power of time with which the rates fall in the end."""
    replay: Share[float] = 0.1
    """Share of the inner steps that are differentiated, drawn at random."""


@frozen_config
class TBPTTConfig:
    """Truncated backpropagation through time: autograd through a whole window.

    Parameters, momenta and features carry derivatives from one inner step to the next.
    The graph of a window is held in memory, so windows are short.
    """

    kind: Literal["tbptt"] = "tbptt"
    window: Positive[int] = 20
    """Inner steps through which autograd passes."""
    second_order: bool = True
    """Whether derivatives also pass through the optimizee's gradients, which takes its
    second derivatives. Without it, a gradient counts as a constant."""
    objective: Objective = "log"
    """What is averaged over the window."""


@frozen_config
class EvolutionConfig:
    """Evolution strategies: pairs of runs with opposite changes of theta are compared.

    No derivative is taken, so long and rough training does no harm; the price is
    variance, which grows with the number of weights that are changed. Keep `trained` of
    the run small.
    """

    kind: Literal["es", "pes", "nres"] = "nres"
    """`es`: every window starts from one network, so effects beyond it are lost.
    `pes`: both members of a pair keep their own network, and the changes of all windows
    so far share the credit. `nres`: one change for the whole life of the pair. The last
    two are unbiased; with a window as long as a life they are the same."""
    pairs: Positive[int] = 1
    """Pairs that share one inner problem: its initial parameters and its batches."""
    sigma: Positive[float] = 0.01
    """Standard deviation of the change of each weight of theta."""
    objective: Objective = "mean"
    """What is averaged over the inner steps."""
    final_share: NotNegative[float] = 0.0
    """Share of the meta-loss that the end of a life makes; its whole makes the rest."""
    tail: Share[float] = 0.1
    """Share of a life that counts as its end."""
    max_loss: Positive[float] = 1.5
    """Losses count at most this multiple of the first loss, and so does every step of a
    network that diverged, so that one of them does not outweigh all others."""
    end_batches: NotNegative[int] = 0
    """Above 0, a window's meta-loss is the loss at its end, on at most this many
    batches of the validation split, or, where the task has none, of training data from
    another seed: of the averaged weights in problems whose rule is told that they
    count, else of the latest. At 0 it is the mean loss of the steps."""
    stacked: bool = False
    """Whether the runs of a problem are one `vmap`; it pays for small networks and on
    accelerators. Otherwise they take turns."""

    def __post_init__(self) -> None:
        if self.final_share > 1:
            raise ValueError(
                "EvolutionConfig final_share must be at most 1; got "
                f"final_share={self.final_share}. Choose a share, for example 0.5."
            )


EstimatorConfig: TypeAlias = (
    OneStepConfig | FirstOrderConfig | ImitationConfig | TBPTTConfig | EvolutionConfig
)
"""The choice of estimator, by its `kind`."""
