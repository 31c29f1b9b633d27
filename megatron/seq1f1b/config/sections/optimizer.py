"""The optimizer and its schedules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class OptimizerOptions:
    """Optimizer: what updates the weights, and its learning rate."""

    optimizer: Literal["adam", "sgd"] = "adam"
    """adam: AdamW; sgd: stochastic gradient descent with momentum."""
    lr: float
    """Highest learning rate."""
    min_lr: float = 0.0
    """Lowest learning rate."""
    decoupled_lr: float | None = None
    """Highest learning rate of the embedding and the output layer; --lr."""
    decoupled_min_lr: float | None = None
    """Lowest learning rate of these two; --min-lr."""
    lr_decay_style: Literal["constant", "linear", "cosine", "inverse-square-root", "WSD"] = "cosine"
    """How the learning rate falls."""
    lr_decay_iters: int | None = None
    """Steps over which it falls; all."""
    lr_decay_samples: int | None = None
    """With --train-samples: samples over which it falls; all."""
    lr_wsd_decay_style: Literal["linear", "cosine", "exponential", "minus_sqrt"] = "exponential"
    """How WSD falls in its last phase."""
    lr_wsd_decay_iters: int | None = None
    """Steps of WSD's last phase."""
    lr_wsd_decay_samples: int | None = None
    """With --train-samples: samples of WSD's last phase."""
    lr_warmup_iters: int = 0
    """Steps over which it rises."""
    lr_warmup_samples: int = 0
    """With --train-samples: samples over which it rises."""
    lr_warmup_fraction: float | None = None
    """Share of the decay's length over which it rises."""
    lr_warmup_init: float = 0.0
    """Learning rate at the first step of the warmup."""
    weight_decay: float = 0.01
    """Weight decay of matrices."""
    decoupled_weight_decay: bool = True
    """Decay weights beside Adam's step, as AdamW; else as a part of the gradient."""
    apply_wd_to_qk_layernorm: bool = False
    """Decay the weights of the norms of queries and keys, too."""
    start_weight_decay: float | None = None
    """Where an incrementing weight decay starts; --weight-decay."""
    end_weight_decay: float | None = None
    """Where an incrementing weight decay ends; --weight-decay."""
    weight_decay_incr_style: Literal["constant", "linear", "cosine"] = "constant"
    """How it gets there over the whole run."""
    adam_beta1: float = 0.9
    """Decay of the first moment."""
    adam_beta2: float = 0.999
    """Decay of the second moment."""
    adam_eps: float = 1e-8
    """Added to the root of the second moment."""
    sgd_momentum: float = 0.9
    """Share of its last step that SGD takes again; 0 for none."""
    clip_grad: float = 1.0
    """Largest gradient norm; 0 for no clipping."""
