"""Networks to trace: small ones of every kind, and other libraries' in full size.

A factory takes nothing and returns a model and example inputs; it draws from the global
generator. `l2o graph zoo.attention:gpt` shows one, from the folder `tests`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn

from tests.zoo import (
    attention,
    convolutional,
    perceptrons,
    recurrent,
    residual,
    third_party,
)
from tests.zoo.third_party import from_timm, from_torchvision, from_transformers
from tests.zoo.wild_park import member

Factory = Callable[[], tuple[nn.Module, tuple]]


@dataclass(frozen=True, kw_only=True)
class Specimen:
    """A network, and what its graph must reach."""

    build: Factory
    """Returns the model and example inputs."""
    placed: float = 1.0
    """Least share of the parameter entries whose place is certain."""
    neurons: float = 1.0
    """Least share of the hidden neurons that some symmetry moves."""
    entries: float = 0.8
    """Least share of the parameter entries that a few random permutations move."""
    is_slow: bool = False
    """Whether the default tests leave it out."""
    tolerance: float = 1e-9
    """How far outputs may move, relative to the largest; more than 1e-9 only where
    the model itself computes in float32."""


_WHOLE = (
    *(perceptrons.mlp, perceptrons.mlp_without_biases, perceptrons.mlp_with_norms),
    *(perceptrons.siren, perceptrons.tied_autoencoder, perceptrons.shared_layer),
    *(perceptrons.two_inputs, perceptrons.dynamic_depth, perceptrons.weight_norm),
    *(convolutional.paper_cnn, convolutional.paper_cnn_with_flattened_head),
    *(convolutional.lenet, convolutional.vgg, convolutional.grouped_and_dilated),
    *(convolutional.transposed, convolutional.autoencoder, convolutional.conv1d),
    *(convolutional.conv3d, convolutional.group_norm, convolutional.instance_norm),
    *(convolutional.squeeze_excite, convolutional.unet),
    *(residual.cifar_resnet8, residual.preactivation_resnet),
    *(residual.densenet, residual.mobilenet, residual.convnext),
    *(attention.vit, attention.gpt, attention.einsum_attention),
    *(attention.cross_attention, attention.transformer_encoder),
    attention.encoder_decoder,
    *(recurrent.elman, recurrent.lstm, recurrent.gru, recurrent.bidirectional_lstm),
    *(recurrent.lstm_cell_loop, recurrent.bag_of_words),
)

SMALL: dict[str, Specimen] = {
    **{build.__name__: Specimen(build=build) for build in _WHOLE},
    **{
        f"wild_park_{k}": Specimen(build=partial(member, k))
        for k in (2, 5, 11, 12, 17, 23)
    },
    "cifar_resnet20": Specimen(build=residual.cifar_resnet20, is_slow=True),
    # One slope for all channels belongs to no neuron.
    "pixel_shuffle": Specimen(build=convolutional.pixel_shuffle, placed=0.99),
    # Channels that part at a later split or shuffle are told apart.
    "shufflenet": Specimen(build=residual.shufflenet, neurons=0.9),
    # Rotary positions turn each channel at a rate of its own.
    "llama": Specimen(build=attention.llama, neurons=0.75),
    # Positions are inputs, also in the residual stream of the token mixer.
    "mlp_mixer": Specimen(build=attention.mlp_mixer, neurons=0.85),
    # A router's outputs are told apart.
    "experts": Specimen(build=perceptrons.experts, neurons=0.9),
    "unused_parameters": Specimen(
        build=perceptrons.unused_parameters, placed=0.7, entries=0.65
    ),
    # A product of parameters has no place in a graph: nothing near it may move.
    "low_rank_adapter": Specimen(
        build=perceptrons.low_rank_adapter, placed=0.7, neurons=0.0, entries=0.0
    ),
}
"""Small networks by name: each is a fraction of a second in every law."""

FULL_SIZE: dict[str, Specimen] = {
    "gpt2": Specimen(build=third_party.gpt2),
    "resnet18": Specimen(build=third_party.resnet18),
    **{
        name: Specimen(build=partial(from_torchvision, name))
        for name in (
            *("mobilenet_v2", "mobilenet_v3_small", "densenet121", "squeezenet1_1"),
            *("efficientnet_b0", "regnet_y_400mf", "convnext_tiny"),
        )
    },
    "shufflenet_v2_x0_5": Specimen(
        build=partial(from_torchvision, "shufflenet_v2_x0_5"), neurons=0.9
    ),
    # The table of relative positions is indexed by offset and head.
    "swin_t": Specimen(build=partial(from_torchvision, "swin_t"), placed=0.99),
    "googlenet": Specimen(
        build=partial(from_torchvision, "googlenet", init_weights=False)
    ),
    "vit_b_16": Specimen(build=partial(from_torchvision, "vit_b_16", image_size=64)),
    "deit_tiny": Specimen(
        build=partial(from_timm, "deit_tiny_patch16_224", img_size=64)
    ),
    "mixer_s32": Specimen(
        build=partial(from_timm, "mixer_s32_224", img_size=64), neurons=0.99
    ),
    "bert": Specimen(
        build=partial(from_transformers, "BertForSequenceClassification", "BertConfig")
    ),
    "t5_small": Specimen(
        build=partial(
            from_transformers,
            "T5ForConditionalGeneration",
            "T5Config",
            use_cache=False,
        ),
        neurons=0.5,
        entries=0.7,
        tolerance=1e-5,
    ),
    "llama_small": Specimen(
        build=partial(
            from_transformers,
            "LlamaForCausalLM",
            "LlamaConfig",
            vocab_size=2000,
            hidden_size=256,
            intermediate_size=688,
            num_hidden_layers=4,
            num_attention_heads=8,
            num_key_value_heads=4,
            use_cache=False,
        ),
        neurons=0.8,
        tolerance=1e-5,
    ),
}
"""Other libraries' models by name."""
