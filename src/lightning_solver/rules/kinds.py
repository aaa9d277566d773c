"""What a parameter is: bias, norm, embedding, position table, token, convolution of a special kind, flat."""

from __future__ import annotations

import re

from torch import Tensor, nn

_NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.LocalResponseNorm,
    nn.CrossMapLRN2d,
    nn.RMSNorm,
)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_BIAS = re.compile(r"(^|_)bias($|_)")  # also in_proj_bias, bias_ih_l0, q_bias
_POSITION = re.compile(
    r"(^|_)(abs(olute)?_)?pos(ition(al)?|itions)?_?(emb|embed|embedding|embeddings|encoding|table)s?($|_)"
)
_RELATIVE = re.compile(r"relative_position|rel_pos")
_TOKEN = re.compile(r"(^|_)(cls|class|mask|dist|distill|distillation|reg|register|storage|prompt)_tokens?($|_)")
_OFFSET = re.compile(r"(^|_)offsets?($|_)")


def kinds_of(
    owner: nn.Module,
    leaf: str,
    tensor: Tensor,
    owner_name: str = "",
    *,
    parent: nn.Module | None = None,
    norm: bool | None = None,
) -> frozenset[str]:
    """The kinds that a parameter shows by itself; it may be of several, or of none.

    What the rest of the model decides, ``head`` and ``hidden``, is in :mod:`lightning_solver.rules.heads`.

    Args:
        owner: The module that holds it.
        leaf: Its own name in that module.
        tensor: The parameter.
        owner_name: The own name of the module, which tells a table of positions from another embedding.
        parent: The module around ``owner``.
        norm: Whether ``owner`` is a normalisation layer, where that is known.
    """
    found: set[str] = set()
    shape = shape_of(tensor)
    norm = is_norm(owner) if norm is None else norm
    if norm:
        found.add("norm")
    if "bias" in leaf and _BIAS.search(leaf) and not _RELATIVE.search(leaf) and (norm or _vector_like(shape)):
        found.add("bias")
    names = (leaf, owner_name) if isinstance(owner, nn.Embedding) else (leaf,)
    if any("pos" in name and (_POSITION.search(name) or _RELATIVE.search(name)) for name in names):
        found.add("position")
    table = isinstance(owner, (nn.Embedding, nn.EmbeddingBag)) or (len(shape) == 2 and _named_embedding(owner))
    if table and leaf == "weight":
        found.add("embedding")
    if "token" in leaf and _TOKEN.search(leaf):
        found.add("token")
    if isinstance(owner, _CONVOLUTIONS):
        if owner.groups == owner.in_channels:  # torch's own definition, which a single channel satisfies too
            found.add("depthwise")
        if _OFFSET.search(owner_name) and parent is not None and is_deformable(parent):
            found.add("offset")
    if len(shape) <= 1:
        found.add("flat")
    return frozenset(found)


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a normalisation layer: one of torch's, or a class called so that holds only vectors.

    The second half finds RMSNorm-like classes of other packages, and leaves out layers such as a ``NormedLinear``,
    whose weight is a matrix.
    """
    if isinstance(module, _NORMS):
        return True
    if not any("norm" in cls.__name__.lower() for cls in type(module).__mro__ if cls is not nn.Module):
        return False
    own = list(module.parameters(recurse=False))
    alone = next(module.children(), None) is None
    return alone and bool(own) and all(_vector_like(shape_of(tensor)) for tensor in own)


def is_deformable(module: nn.Module) -> bool:
    """Whether a module is a deformable convolution (Dai et al. 2017), by the name of its class or of a base."""
    return any("deformconv" in cls.__name__.lower() for cls in type(module).__mro__)


def _named_embedding(module: nn.Module) -> bool:
    return type(module).__name__.lower().endswith(("embedding", "embeddings", "embed"))


def _vector_like(shape: tuple[int, ...]) -> bool:
    """At most one dimension is longer than 1, as in (C,), (C, 1, 1) or ()."""
    return len(shape) <= 1 or sum(size > 1 for size in shape) <= 1


def shape_of(tensor: Tensor) -> tuple[int, ...]:
    """The shape that the parameter has in the model: DeepSpeed's ZeRO-3 empties parameters and keeps it aside."""
    return tuple(getattr(tensor, "ds_shape", tensor.shape))
