"""Networks to trace: small ones of every kind, and other libraries' in full size.

A factory takes nothing and returns a model and example inputs; it draws from the global
generator. `l2o graph zoo.attention:gpt` shows one, from the folder `tests`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn

from . import attention, convolutional, perceptrons, recurrent, residual, third_party
from .third_party import from_timm, from_torchvision, from_transformers
from .wild_park import member

Factory = Callable[[], tuple[nn.Module, tuple]]


@dataclass(frozen=True, kw_only=True)
class Specimen:
    """A network, and what its graph must reach."""

    build: Factory
    """Returns the model and example inputs."""
    placed: float = 1.0
    """Least share of the parameter entries whose place is certain."""
    moved: float = 1.0
    """Least share of the hidden neurons that some symmetry moves."""
    tolerance: float = 1e-9
    """How far outputs may move, relative to the largest; more than 1e-9 only where
    the model itself computes in float32."""


_EVERY_ENTRY = (
    *(perceptrons.mlp, perceptrons.mlp_without_biases, perceptrons.mlp_with_norms),
    *(perceptrons.siren, perceptrons.tied_autoencoder, perceptrons.shared_layer),
    *(perceptrons.two_inputs, perceptrons.dynamic_depth, perceptrons.experts),
    *(convolutional.paper_cnn, convolutional.paper_cnn_with_flattened_head),
    *(convolutional.lenet, convolutional.vgg, convolutional.grouped_and_dilated),
    *(convolutional.transposed, convolutional.autoencoder, convolutional.conv1d),
    *(convolutional.conv3d, convolutional.group_norm, convolutional.instance_norm),
    *(convolutional.pixel_shuffle, convolutional.squeeze_excite, convolutional.unet),
    *(residual.cifar_resnet8, residual.cifar_resnet20, residual.preactivation_resnet),
    *(residual.densenet, residual.mobilenet, residual.shufflenet, residual.convnext),
    *(attention.vit, attention.gpt, attention.llama, attention.einsum_attention),
    *(attention.cross_attention, attention.transformer_encoder),
    *(attention.encoder_decoder, attention.mlp_mixer),
    *(recurrent.elman, recurrent.lstm, recurrent.gru, recurrent.bidirectional_lstm),
    *(recurrent.lstm_cell_loop, recurrent.bag_of_words),
)

SMALL: dict[str, Specimen] = {
    **{build.__name__: Specimen(build=build) for build in _EVERY_ENTRY},
    **{
        f"wild_park_{k}": Specimen(build=partial(member, k))
        for k in (2, 5, 11, 12, 17, 23)
    },
    "unused_parameters": Specimen(build=perceptrons.unused_parameters),
    "low_rank_adapter": Specimen(build=perceptrons.low_rank_adapter),
    "weight_norm": Specimen(build=perceptrons.weight_norm),
}
"""Small networks by name: each is a fraction of a second in every law."""

FULL_SIZE: dict[str, Specimen] = {
    "gpt2": Specimen(build=third_party.gpt2),
    "resnet18": Specimen(build=third_party.resnet18),
    **{
        name: Specimen(build=partial(from_torchvision, name))
        for name in (
            *("mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2_x0_5"),
            *("densenet121", "squeezenet1_1", "efficientnet_b0", "regnet_y_400mf"),
            *("convnext_tiny", "swin_t"),
        )
    },
    "googlenet": Specimen(
        build=partial(from_torchvision, "googlenet", init_weights=False)
    ),
    "vit_b_16": Specimen(build=partial(from_torchvision, "vit_b_16", image_size=64)),
    "deit_tiny": Specimen(
        build=partial(from_timm, "deit_tiny_patch16_224", img_size=64)
    ),
    "mixer_s32": Specimen(build=partial(from_timm, "mixer_s32_224", img_size=64)),
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
        tolerance=1e-5,
    ),
}
"""Other libraries' models by name."""
