"""How well-known models name their layers, and the depth that each name then has.

A layout recognises a model by two names, one in its first block and one beside it, which also tells where in the
user's module the model sits (its *root*). It then numbers every name below the root: 0 is nearest the input, ``None``
stands for the top, which the head has. What lies outside the root is at the top too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

from lightning_solver.errors import SolverError

Numbers = tuple[Sequence["int | None"], int]
"""A depth for each name in turn, ``None`` for the top, and the depth of the top."""

_ROOT = r"(?P<root>(?:[^.]+\.)*?)"
_PREVIOUS = 99999  # timm's mark for "the same group as the one before" at the end of an ordinal
_PER_GROUP = 12  # tensors that timm takes as one layer where a model says nothing about its layers


@dataclass(frozen=True)
class Layout:
    """A way in which models name their layers.

    Args:
        words: What is recognised, for people.
        marks: Texts of which every name in the first block contains one; other names are not looked at.
        first: Matches a name in the first block; its group ``root`` is what lies before the model's own names; all
            its groups together tell one stack of blocks from another.
        beside: Matches, from the root on, a name that the model must have too.
        number: Depths for names from the root on.
        counted: The same with a number of layers that the user gives; ``None`` where the names alone say it.
    """

    words: str
    marks: tuple[str, ...]
    first: re.Pattern[str]
    beside: re.Pattern[str]
    number: Callable[[Sequence[str]], Numbers]
    counted: Callable[[Sequence[str], int | None], Numbers] | None = None

    def sightings(self, names: Sequence[str]) -> dict[str, list[str]]:
        """Where models of this layout sit among ``names``: their roots, each with a name of every stack of blocks."""
        found: dict[tuple[str | None, ...], tuple[str, str]] = {}
        for mark in self.marks:
            for name in names:
                if mark in name and (match := self.first.match(name)):
                    found.setdefault(match.groups(), (match["root"], name))
        stacks: dict[str, list[str]] = {}
        for root, name in found.values():
            stacks.setdefault(root, []).append(name)
        return {root: examples for root, examples in stacks.items() if self._is_model(root, names)}

    def _is_model(self, root: str, names: Sequence[str]) -> bool:
        return any(name.startswith(root) and self.beside.match(name, len(root)) for name in names)


@dataclass(frozen=True)
class Sighting:
    """A stack of blocks of a known layout, found among the names of a module.

    Args:
        key: The layout's key in ``LAYOUTS``.
        root: What lies before the model's own names, with its dot; empty where the model is the module itself.
        name: A name in its first block.
    """

    key: str
    root: str
    name: str


def recognise(names: Sequence[str], keys: Iterable[str]) -> list[Sighting]:
    """Every stack of the layouts ``keys`` among ``names``; of two layouts at one root, those of the first.

    Example:
        >>> recognise(["net.patch_embed.proj.weight", "net.blocks.0.norm1.weight"], ["swin", "vit"])
        [Sighting(key='vit', root='net.', name='net.blocks.0.norm1.weight')]
    """
    found: dict[str, list[Sighting]] = {}
    for key in keys:
        for root, examples in LAYOUTS[key].sightings(names).items():
            found.setdefault(root, [Sighting(key, root, name) for name in examples])
    return [sighting for sightings in found.values() for sighting in sightings]


def group_depths(names: Sequence[str], matcher: Any) -> tuple[list[int], int]:
    r"""Depths by the groups that a timm model's ``group_matcher`` describes.

    Each name gets an ordinal: the position of its group, then the numbers that the regex captured, then the suffix
    given with the regex. A name that no regex matches comes last of all. Ordinals in order are depths, and an ordinal
    that ends in 99999 shares the depth of the one before it. Regexes match from the start of the name, the first one
    that matches decides.

    Args:
        names: Names from the model on.
        matcher: A mapping of group to regex, or to a list of (regex, suffix), or a function from a name to an ordinal.

    Returns:
        A depth for each name, and the greatest depth.

    Raises:
        TypeError, ValueError, re.error: The matcher is not of that form.

    Example:
        >>> group_depths(["stem", "b.1", "b.7", "norm", "head"],
        ...              {"stem": "^stem", "blocks": [(r"^b\.(\d+)", None), ("^norm", (99999,))]})
        ([0, 1, 2, 2, 3], 3)
    """
    ordinal = _ordinals(matcher) if isinstance(matcher, Mapping) else _called(matcher)
    ordinals = [ordinal(name) for name in names]
    depth: dict[tuple[float, ...], int] = {}
    last = -1
    for key in sorted(set(ordinals)):
        if last < 0 or key[-1] != _PREVIOUS:
            last += 1
        depth[key] = last
    return [depth[key] for key in ordinals], max(last, 0)


def equal_groups(names: Sequence[str], heads: tuple[str, ...]) -> tuple[list[int], int]:
    """Depths for a model that says nothing about its layers, as timm has them: twelve tensors in a row are one layer.

    Args:
        names: Names from the model on, in order.
        heads: What the names of the classifier start with; without any, every name counts as the classifier's.

    Example:
        >>> equal_groups([*(f"trunk.{i}" for i in range(13)), "fc.weight"], ("fc",))[0][11:]
        [0, 1, 2]
        >>> equal_groups(["a", "b"], ())
        ([0, 0], 0)
    """
    in_head = [not heads or name.startswith(heads) for name in names]
    top = -(-in_head.count(False) // _PER_GROUP)
    depths = []
    before = 0
    for head in in_head:
        depths.append(top if head else before // _PER_GROUP)
        before += not head
    return depths, top


def _ordinals(groups: Mapping[Any, Any]) -> Callable[[str], tuple[float, ...]]:
    tests: list[tuple[re.Pattern[str], tuple[float, ...], tuple[float, ...]]] = []
    for position, given in enumerate(groups.values()):
        if given is None:
            continue
        for regex, suffix in given if isinstance(given, (tuple, list)) else [(given, None)]:
            tests.append((re.compile(regex), (float(position),), tuple(float(part) for part in suffix or ())))

    def ordinal(name: str) -> tuple[float, ...]:
        for regex, position, suffix in tests:
            if found := regex.match(name):
                return position + tuple(map(float, found.groups())) + suffix
        return (float("inf"),)

    return ordinal


def _called(function: Callable[[str], Any]) -> Callable[[str], tuple[float, ...]]:
    def ordinal(name: str) -> tuple[float, ...]:
        given = function(name)
        return tuple(map(float, given if isinstance(given, Iterable) else (given,)))

    return ordinal


def _stack(stem: str, block: str) -> partial[Numbers]:
    """One stack of blocks: the stem is 0, block ``i`` is ``i + 1``, the rest is the top, one above the last block."""
    return partial(_stacked, re.compile(stem), re.compile(block))


def _stacked(
    is_stem: re.Pattern[str], in_block: re.Pattern[str], names: Sequence[str], layers: int | None = None
) -> Numbers:
    depths: list[int | None] = []
    blocks = 0
    for name in names:
        if found := in_block.match(name):
            depth: int | None = int(found[1]) + 1
            blocks = max(blocks, int(found[1]) + 1)
        else:
            depth = 0 if is_stem.match(name) else None
        depths.append(depth)
    return depths, (blocks if layers is None else layers) + 1


def _by_matcher(matcher: Mapping[str, Any]) -> Callable[[Sequence[str]], Numbers]:
    def number(names: Sequence[str]) -> Numbers:
        return group_depths(names, matcher)

    return number


def _swin(stem: str) -> Callable[[Sequence[str]], Numbers]:
    """Stages of blocks, counted through; what lies between two stages belongs to the one that it is named in.

    It comes after the last block of its stage, or before the first block where the first stage has none of it.
    """
    is_stem = re.compile(stem)
    inner = re.compile(r"(?:encoder\.)?(?:layers|stages)\.(\d+)\.(?:blocks\.(\d+)\.)?")

    def number(names: Sequence[str]) -> Numbers:
        texts: list[str | None] = []
        places: dict[str, tuple[int, int | None]] = {}  # few texts for many names
        for name in names:
            match = inner.match(name)
            text = match and match[0]
            texts.append(text)
            if match and text and text not in places:
                places[text] = int(match[1]), int(match[2]) if match[2] else None
        starts = _starts((stage, block) for stage, block in places.values() if block is not None)
        at_end = (0, None) in places.values()
        depth_of: dict[str, int] = {}
        for text, (stage, block) in places.items():
            start = min(stage, len(starts) - 2)
            between = starts[start + 1] if at_end else starts[start] + 1
            depth_of[text] = between if block is None else starts[stage] + block + 1
        depths = [
            (0 if is_stem.match(name) else None) if text is None else depth_of[text] for name, text in zip(names, texts)
        ]
        return depths, starts[-1] + 1

    return number


def _starts(blocks: Iterable[tuple[int, int]]) -> list[int]:
    """How many blocks come before each stage, and last, how many there are."""
    sizes: dict[int, int] = {}
    for stage, block in blocks:
        sizes[stage] = max(sizes.get(stage, 0), block + 1)
    starts = [0]
    for stage in range(max(sizes, default=-1) + 1):
        starts.append(starts[-1] + sizes.get(stage, 0))
    return starts


def _mixmim(names: Sequence[str]) -> Numbers:
    """As Swin, but the backbone's norm and the neck share the depth of the last block."""
    prefix = "backbone." if any(name.startswith("backbone.") for name in names) else ""
    inside = [name[len(prefix) :] if name.startswith(prefix) else None for name in names]
    trunk, top = _swin("(?!)")([name for name in inside if name is not None])
    numbers = iter(trunk)
    depths: list[int | None] = []
    for full, name in zip(names, inside):
        if name is None:
            depths.append(top - 1 if full.startswith("neck") else None)
            continue
        depth = next(numbers)
        stem = "patch_embed" in name or "pos_embed" in name
        depths.append(0 if stem else top - 1 if depth is None else depth)
    return depths, top


_CONVNEXT = re.compile(
    r"(?:(?P<between>downsample_layers)\.(?P<a>\d+)\."
    r"|stages\.(?P<b>\d+)\.(?:(?:blocks\.)?(?P<block>\d+)\.|downsample\.)"
    r"|(?P<stem>stem)[._]"
    r"|features\.(?P<c>\d+)\.(?P<d>\d+)\.)"
)


def _convnext_place(name: str) -> tuple[int, int | None] | None:
    """The stage, and the block in it; ``None`` for what comes before the stage's first block."""
    found = _CONVNEXT.match(name)
    if found is None:
        return None
    if found["stem"]:
        return 0, None
    if found["between"]:
        return int(found["a"]), None
    if found["c"]:  # torchvision: even parts lie between the stages, odd ones are stages
        part = int(found["c"])
        return part // 2, int(found["d"]) if part % 2 else None
    return int(found["b"]), int(found["block"]) if found["block"] else None


def _convnext(names: Sequence[str], layers: int | None = None) -> Numbers:
    """Stage 0 is 1, stage 1 is 2, stage 2 in threes of blocks from 3 on, stage 3 the last below the top.

    The last is 12 where stage 2 has more than 9 blocks, else 6, or the number given (Liu et al. 2022, A ConvNet for
    the 2020s).
    """
    places = [_convnext_place(name) for name in names]
    if layers is None:
        third = max((block + 1 for stage, block in filter(None, places) if stage == 2 and block is not None), default=0)
        layers = 12 if third > 9 else 6
    last = layers

    def depth(stage: int, block: int | None) -> int:
        if stage > 2:
            return last
        if block is None:
            return 0 if stage == 0 else stage + 1
        return 3 + block // 3 if stage == 2 else stage + 1

    return [place and depth(*place) for place in places], last + 1


def _convnext_stages(names: Sequence[str], layers: int | None = None) -> Numbers:
    """What lies between the stages is 0, stage ``s`` is ``s + 1``, the rest is the top."""
    places = [_convnext_place(name) for name in names]
    stages = max((stage + 1 for stage, _ in filter(None, places)), default=0)
    depths = [None if place is None else 0 if place[1] is None else place[0] + 1 for place in places]
    return depths, (stages if layers is None else layers) + 1


_RESNET_BLOCK = re.compile(r"layer(\d+)\.(\d+)\.")
_RESNET_STEM = re.compile(r"(?:conv1|bn1|norm1|gn1|stem)[._]")
_RESNET_SHARES = {(4, 6): (2, 3), (4, 23): (2, 3), (8, 36): (4, 4), (24, 36): (4, 4), (30, 48): (5, 6)}


def _resnet(names: Sequence[str]) -> Numbers:
    """The stem is 0, each block one more, the rest is the top."""
    found = [_RESNET_BLOCK.match(name) for name in names]
    blocks = sorted({(int(m[1]), int(m[2])) for m in found if m})
    order = {block: position + 1 for position, block in enumerate(blocks)}
    depths: list[int | None] = []
    for name, match in zip(names, found):
        if match:
            depths.append(order[int(match[1]), int(match[2])])
        else:
            depths.append(0 if _RESNET_STEM.match(name) else None)
    return depths, len(blocks) + 1


def _grouped_resnet(names: Sequence[str]) -> Numbers:
    """Stages 1 and 4 are one depth each, stages 2 and 3 are cut into equal shares that go by their sizes."""
    found = [_RESNET_BLOCK.match(name) for name in names]
    starts = _starts((int(m[1]), int(m[2])) for m in found if m)
    sizes = tuple(after - before for before, after in pairwise(starts))[1:]
    if len(sizes) != 4 or sizes[1:3] not in _RESNET_SHARES:
        known = ", ".join(f"{second} and {third}" for second, third in _RESNET_SHARES)
        raise SolverError(
            "depth",
            "mmpretrain divides a ResNet into layers only where its second and third stage have certain sizes",
            got="stages of " + ", ".join(map(str, sizes)) + " blocks",
            do=f"it knows {known}; take resnet, which counts every block",
        )
    second, third = _RESNET_SHARES[sizes[1:3]]
    begins = 2 - (-sizes[1] // second)
    last = begins - (-sizes[2] // third)

    def depth(stage: int, block: int) -> int:
        if stage == 2:
            return 2 + block // second
        return 1 if stage == 1 else begins + block // third if stage == 3 else last

    return [depth(int(m[1]), int(m[2])) if m else 0 for m in found], last + 1


def _stem_only(names: Sequence[str]) -> Numbers:
    """Only the stem lies below the top, at the distance that the number of blocks makes.

    mmpretrain looks for the blocks of HiViT under a name that they do not have.
    """
    depths, top = _stack("pos_embed$|patch_embed", r"blocks\.(\d+)\.")(names)
    return [depth if depth == 0 else None for depth in depths], top


def _first(rest: str) -> re.Pattern[str]:
    return re.compile(_ROOT + rest)


def _backbone(rest: str) -> re.Pattern[str]:
    """As ``_first``, where the root is the part of the module that is called ``backbone``."""
    return re.compile(rf"(?P<root>(?:[^.]+\.)*?backbone\.){rest}")


_VIT = Layout(
    "a ViT: patch_embed and blocks",
    ("blocks.0.",),
    _first(r"blocks\.0\.(?!\d)"),
    re.compile(r"patch_embed[._]"),
    _stack(
        r"(?:cls_token|dist_token|mask_token|reg_token|register_token|pos_embed|patch_embed|norm_pre)",
        r"blocks\.(\d+)\.",
    ),
)
_MM_VIT = Layout(
    "a ViT of mmpretrain: patch_embed and layers",
    ("layers.0.",),
    _first(r"layers\.0\.(?!blocks\.|downsample\.|\d)"),
    re.compile(r"patch_embed\.projection\."),
    _stack(r"cls_token$|pos_embed$|patch_embed", r"layers\.(\d+)\."),
)
_CONVNEXT_FIRST = _first(r"(?:stages\.0\.0\.|stages\.0\.blocks\.0\.(?:conv_dw|dwconv)\.|features\.1\.0\.layer_scale)")
_HF_INSIDE = r"(?:(?:encoder|decoder|transformer)\.)?"
_HF_STEM = (
    _HF_INSIDE + r"(?:\w*embed\w*|wte|wpe|shared|feature_extractor|feature_projection|pre_layrnorm"
    r"|cls_token|class_token|mask_token|dist_token)(?:\.|$)"
)
_RESNET_FIRST = _first(r"layer1\.0\.")
_MMSEG_CONVNEXT = _backbone(r"stages\.0\.0\.")
_MMSEG_VIT = _stack(r"(?:cls_token|mask_token|pos_embed)$|patch_embed", r"layers\.(\d+)\.")
_DETECTRON2_VIT = _stack(
    r"backbone.*\.(?:pos_embed|patch_embed)",
    r"backbone(?!.*\.(?:residual\.|pos_embed|patch_embed)).*?\.blocks\.(\d+)\.",  # a table in a block is of the stem
)

LAYOUTS: dict[str, Layout] = {
    "vit": _VIT,
    "beit": _VIT,
    "swin": Layout(
        "a Swin: patch_embed, stages and blocks",
        (".0.blocks.0.",),
        _first(r"(?:encoder\.)?(?:layers|stages)\.0\.blocks\.0\."),
        re.compile(r"patch_embed[._]|embeddings\."),
        _swin(r"patch_embed|absolute_pos_embed|mask_token|embeddings\."),
    ),
    "convnext": Layout(
        "a ConvNeXt: stem or downsample_layers, stages and blocks",
        ("stages.0.", "features.1.0.layer_scale"),
        _CONVNEXT_FIRST,
        re.compile(r"downsample_layers\.0\.|stem[._]|features\.0\.0\."),
        _convnext,
    ),
    "resnet": Layout("a ResNet: layer1 to layer4", ("layer1.0.",), _RESNET_FIRST, _RESNET_STEM, _resnet),
    "hf": Layout(
        "an encoder or decoder of transformers: embeddings and layers",
        ("layer.0.", "layers.0.", "h.0.", "block.0."),
        _first(rf"(?P<list>{_HF_INSIDE}(?:layers?|h|block))\.0\.(?!blocks\.|downsample\.|\d)"),
        re.compile(_HF_STEM),
        _stack(_HF_STEM, _HF_INSIDE + r"(?:layers?|h|block)\.(\d+)\."),
    ),
    "mmpretrain_vit": _MM_VIT,
    "mmpretrain_beit": _MM_VIT,
    "mmpretrain_vit_sam": _MM_VIT,
    "mmpretrain_swin": Layout(
        "a Swin of mmpretrain: patch_embed, stages and blocks",
        ("stages.0.blocks.0.",),
        _first(r"stages\.0\.blocks\.0\."),
        re.compile(r"patch_embed\."),
        _swin("patch_embed"),
    ),
    "mmpretrain_convnext": Layout(
        "a ConvNeXt of mmpretrain: downsample_layers, stages",
        ("stages.0.0.",),
        _first(r"stages\.0\.0\."),
        re.compile(r"downsample_layers\.0\."),
        _convnext,
    ),
    "mmpretrain_resnet": Layout(
        "a ResNet of mmpretrain: layer1 to layer4", ("layer1.0.",), _RESNET_FIRST, _RESNET_STEM, _grouped_resnet
    ),
    "mmpretrain_mixmim": Layout(
        "a MixMIM of mmpretrain: patch_embed, layers and blocks",
        ("layers.0.blocks.0.",),
        _first(r"(?:backbone\.)?layers\.0\.blocks\.0\."),
        re.compile(r"(?:backbone\.)?patch_embed\."),
        _mixmim,
    ),
    "mmpretrain_hivit": Layout(
        "a HiViT of mmpretrain: patch_embed and blocks", ("blocks.0.",), _VIT.first, _VIT.beside, _stem_only
    ),
    "mmseg_layer_wise_convnext": Layout(
        "a segmentor with a ConvNeXt as its backbone",
        ("backbone.stages.0.0.",),
        _MMSEG_CONVNEXT,
        re.compile(r"downsample_layers\.0\."),
        _convnext,
        _convnext,
    ),
    "mmseg_stage_wise_convnext": Layout(
        "a segmentor with a ConvNeXt as its backbone",
        ("backbone.stages.0.0.",),
        _MMSEG_CONVNEXT,
        re.compile(r"downsample_layers\.0\."),
        _convnext_stages,
        _convnext_stages,
    ),
    "mmseg_layer_wise_vit": Layout(
        "a segmentor with a BEiT or MAE as its backbone",
        ("backbone.layers.0.",),
        _backbone(r"layers\.0\.(?!blocks\.|downsample\.|\d)"),
        re.compile(r"patch_embed\."),
        _MMSEG_VIT,
        _MMSEG_VIT,
    ),
    "detectron2_vit": Layout(
        "a detector with a ViT in its backbone",
        (".blocks.0.",),
        _first(r"backbone[^.]*\.(?:[^.]+\.)*?blocks\.0\.(?!\d)"),
        re.compile(r"backbone.*\.patch_embed"),
        _DETECTRON2_VIT,
        _DETECTRON2_VIT,
    ),
    "timm_vit": Layout(
        "a ViT of timm: patch_embed or stem, and blocks",
        ("blocks.0.",),
        _VIT.first,
        re.compile(r"patch_embed\.|stem\."),
        _by_matcher(
            {
                "stem": r"cls_token|reg_token|dist_token|pos_embed|patch_embed|norm_pre|rel_pos_bias|stem",
                "blocks": [(r"blocks\.(\d+)", None), ("norm", (_PREVIOUS,))],
            }
        ),
    ),
    "timm_swin": Layout(
        "a Swin of timm: patch_embed, layers and blocks",
        ("layers.0.blocks.0.",),
        _first(r"layers\.0\.blocks\.0\."),
        re.compile(r"patch_embed\."),
        _by_matcher(
            {
                "stem": "patch_embed|absolute_pos_embed",
                "blocks": [
                    (r"layers\.(\d+)\.downsample", (0,)),
                    (r"layers\.(\d+)\.\w+\.(\d+)", None),
                    ("norm", (_PREVIOUS,)),
                ],
            }
        ),
    ),
    "timm_convnext": Layout(
        "a ConvNeXt of timm: stem, stages and blocks",
        ("stages.0.blocks.0.",),
        _first(r"stages\.0\.blocks\.0\.conv_dw\."),
        re.compile(r"stem\."),
        _by_matcher(
            {
                "stem": "stem",
                "blocks": [
                    (r"stages\.(\d+)\.downsample", (0,)),
                    (r"stages\.(\d+)\.blocks\.(\d+)", None),
                    ("norm_pre", (_PREVIOUS,)),
                ],
            }
        ),
    ),
    "timm_resnet": Layout(
        "a ResNet of timm: layer1 to layer4",
        ("layer1.0.",),
        _RESNET_FIRST,
        _RESNET_STEM,
        _by_matcher({"stem": "conv1|bn1", "blocks": r"layer(\d+)\.(\d+)"}),
    ),
    "timm_efficientnet": Layout(
        "an EfficientNet of timm: conv_stem, blocks, bn2",
        ("blocks.0.0.",),
        _first(r"blocks\.0\.0\."),
        re.compile(r"bn2\."),
        _by_matcher(
            {
                "stem": "conv_stem|bn1",
                "blocks": [(r"blocks\.(\d+)\.(\d+)", None), ("conv_head|bn2", (_PREVIOUS,))],
            }
        ),
    ),
    "timm_mobilenetv3": Layout(
        "a MobileNetV3 of timm: conv_stem, blocks, no bn2",
        ("blocks.0.0.",),
        _first(r"blocks\.0\.0\."),
        re.compile(r"conv_stem\."),
        _by_matcher({"stem": "conv_stem|bn1", "blocks": r"blocks\.(\d+)\.(\d+)"}),
    ),
    "timm_regnet": Layout(
        "a RegNet of timm: stem, s1 to s4",
        ("s1.b1.",),
        _first(r"s1\.b1\."),
        re.compile(r"stem\."),
        _by_matcher({"stem": "stem", "blocks": r"s(\d+)\.b(\d+)"}),
    ),
}
"""Every layout by the name under which it can be asked for."""

FAMILIES: dict[str, tuple[str, ...]] = {
    "auto": ("mmpretrain_swin", "swin", "convnext", "resnet", "mmpretrain_vit", "vit", "hf"),
    "timm": tuple(key for key in LAYOUTS if key.startswith("timm_")),
    "mmpretrain": tuple(key for key in LAYOUTS if key.startswith("mmpretrain_")),
    "mmseg_layer_wise": ("mmseg_layer_wise_convnext", "mmseg_layer_wise_vit"),
    "mmseg_stage_wise": ("mmseg_stage_wise_convnext",),
}
"""Layouts that are tried together under one name, in this order."""
