"""The table of operators, and what follows operators that are not in it."""

import torch

from . import attention, contraction, layers, pointwise, reductions, reshaping
from .calls import Call, Found, Rule
from .labels import Labels
from .tracer import Tracer


def constant(tracer: Tracer, call: Call) -> Found:
    """Follow an operator that reads shapes alone."""
    return Labels()


def draw(tracer: Tracer, call: Call) -> Found:
    """Follow an operator that draws random numbers."""
    return Labels(noise=True)


def take_apart(tracer: Tracer, call: Call) -> Found:
    """Stand for an operator that `TraceMode` runs as several simpler ones."""
    return None


def _same(rule: Rule, *names: str) -> dict[str, Rule]:
    """Return entries of the table for operators with one rule."""
    return dict.fromkeys(names, rule)


OPERATORS: dict[str, Rule] = {
    **_same(contraction.matmul, "mm", "bmm", "addmm", "baddbmm", "mv", "addmv", "dot"),
    "_grouped_mm": contraction.grouped,
    "convolution": layers.convolution,
    "embedding": layers.embedding,
    **_same(layers.embedding_bag, "_embedding_bag", "_embedding_bag_forward_only"),
    "embedding_renorm": layers.renormalised,
    **_same(layers.norm, "native_layer_norm", "_fused_rms_norm"),
    "native_group_norm": layers.group_norm,
    **_same(
        layers.batch_norm,
        *("native_batch_norm", "_native_batch_norm_legit"),
        *("_native_batch_norm_legit_no_training", "cudnn_batch_norm"),
        *("miopen_batch_norm", "_batch_norm_with_update"),
        *("_batch_norm_no_update", "batch_norm_with_update"),
    ),
    "native_dropout": layers.dropout,
    **_same(
        layers.fake_quantised,
        "_fused_moving_avg_obs_fq_helper",
        "_fused_moving_avg_obs_fq_helper_functional",
        "fake_quantize_per_tensor_affine_cachemask",
        "_fake_quantize_per_tensor_affine_cachemask_tensor_qparams",
        "fake_quantize_per_channel_affine_cachemask",
        "_fake_quantize_learnable_per_tensor_affine",
        "_fake_quantize_learnable_per_channel_affine",
    ),
    **_same(
        attention.attention,
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention",
        "_scaled_dot_product_attention_math",
    ),
    # Entry by entry. Operators that torch tags as pointwise need no line here.
    **_same(
        pointwise.entrywise,
        *("_prelu_kernel", "prelu", "rrelu_with_noise", "hardswish", "hardsigmoid"),
        *("log_sigmoid_forward", "_to_copy", "copy", "fill", "zero", "masked_fill"),
        *("remainder", "fmod", "lift_fresh_copy", "erf", "floor_divide", "isin"),
    ),
    "glu": pointwise.halves,
    "_weight_norm_interface": pointwise.weight_norm,
    # Entries change places.
    "cat": reshaping.concatenate,
    "stack": reshaping.stack,
    **_same(
        reshaping.move,
        *("repeat", "im2col", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle"),
        *("reflection_pad1d", "reflection_pad2d", "reflection_pad3d"),
        *("replication_pad1d", "replication_pad2d", "replication_pad3d"),
        *("native_channel_shuffle", "rot90", "_pack_padded_sequence"),
        *("expand_copy", "unfold_copy", "diagonal_copy", "view_copy", "permute_copy"),
    ),
    **_same(reshaping.turn, "flip", "roll"),
    "constant_pad_nd": reshaping.pad,
    **_same(reshaping.triangle, "tril", "triu"),
    "gather": reshaping.gather,
    "index": layers.index,
    "index_select": layers.index_select,
    # Entries are reduced, scanned or pooled.
    **_same(
        reductions.symmetric,
        *("sum", "mean", "var", "std", "amax", "amin", "prod", "norm"),
        *("linalg_vector_norm", "logsumexp", "any", "all", "var_mean", "std_mean"),
        *("nansum", "count_nonzero", "aminmax"),
    ),
    **_same(
        reductions.ordered,
        *("argmax", "argmin", "median", "nanmedian", "mode", "kthvalue"),
    ),
    **_same(reductions.extreme, "max", "min"),
    **_same(reductions.softmax, "_softmax", "_log_softmax", "_safe_softmax"),
    **_same(reductions.scan, "cumsum", "cumprod", "cummax", "cummin", "logcumsumexp"),
    **_same(reductions.sort, "sort", "argsort", "topk"),
    **_same(reductions.transform, "_fft_r2c", "_fft_c2c", "_fft_c2r"),
    **_same(
        reductions.pool,
        *("avg_pool1d", "avg_pool2d", "avg_pool3d", "_adaptive_avg_pool2d"),
        *("_adaptive_avg_pool3d", "adaptive_max_pool2d", "adaptive_max_pool3d"),
        *("max_pool2d_with_indices", "max_pool3d_with_indices"),
        *("fractional_max_pool2d", "fractional_max_pool3d"),
        *("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d"),
        *("upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d"),
        *("upsample_bicubic2d", "_upsample_nearest_exact1d"),
        *("_upsample_nearest_exact2d", "_upsample_nearest_exact3d"),
        *("_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"),
    ),
    # No values are read.
    **_same(
        constant,
        *("empty_like", "zeros_like", "ones_like", "full_like", "new_empty"),
        *("new_zeros", "new_ones", "new_full", "new_empty_strided", "empty_strided"),
    ),
    **_same(
        draw,
        *("rand_like", "randn_like", "randint_like", "normal", "uniform"),
        "exponential",
    ),
    **_same(
        take_apart,
        *("_thnn_fused_lstm_cell", "_thnn_fused_gru_cell", "linear", "matmul"),
        *("addcmul", "addcdiv", "addbmm", "addr", "_trilinear"),
    ),
}
"""Which rule follows each operator, by the operator's name.

A name is that of the overload packet without the underscore of the in-place form, after
its namespace where that is not `aten`: "addmm", "mylib::scale". An operator without an
entry follows `entrywise` if torch tags it as pointwise. Otherwise what it reads is
given up: its parameters are listed as unplaced and its neurons are frozen.

An operator of another library is added with a line of code:

    from l2o.graph.trace import OPERATORS, entrywise

    OPERATORS["mylib::scale"] = entrywise
"""


def labels_of(tracer: Tracer, call: Call) -> Found:
    """Return the labels of an operator's results, None if it cannot be followed.

    Called after the operator has run. One `Labels` stands for all results.
    """
    rule = OPERATORS.get(call.name)
    if rule is not None and rule in (constant, draw):
        return rule(tracer, call)
    seen = [tracer.store.see(x).labels for x in call.tensors]
    if all(labels.is_plain for labels in seen):
        return _plain(call, seen)
    found = None if rule is None else rule(tracer, call)
    if found is None and torch.Tag.pointwise in call.func.tags:
        return pointwise.entrywise(tracer, call)
    return found


def _plain(call: Call, seen: list[Labels]) -> Labels:
    """Return the labels of results that come from unlabelled values alone."""
    depends = any(labels.depends for labels in seen)
    is_random = torch.Tag.nondeterministic_seeded in call.func.tags
    is_random |= torch.Tag.pointwise in call.func.tags and any(
        labels.noise for labels in seen
    )
    return Labels(depends=depends, noise=is_random and not depends)
