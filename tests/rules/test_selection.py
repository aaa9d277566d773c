"""Every way to select parameters, what is left out, and what is said of selectors that select nothing."""

import re

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from lightning_solver import Rule, SolverError, SolverSpec
from lightning_solver.rule import SELECTORS, Selector, depth_holds

OPTIMIZER = {"name": "AdamW", "args": {"lr": 0.01, "weight_decay": 0.1}}
DEPTH = ("tok|pos|cls", r"blocks\.(\d+)\.")


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.proj = nn.Linear(4, 4)


class Encoder(nn.Module):
    """Lists names as seen from itself."""

    def __init__(self):
        super().__init__()
        self.tok = nn.Embedding(7, 4)
        self.pos_embed = nn.Parameter(torch.zeros(1, 5, 4))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 4))
        self.blocks = nn.Sequential(Block(), Block(), Block())

    def no_weight_decay(self):
        return {"pos_embed", "cls_token", "blocks.*.norm.weight", "never.there"}

    def listed_wrongly(self):
        return [1, 2]

    def listing_fails(self):
        raise RuntimeError("not today")


class DeformConv2d(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv_offset = nn.Conv2d(4, 18, 3)
        self.weight = nn.Parameter(torch.zeros(4, 4, 3, 3))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = Encoder()
        self.depthwise = nn.Conv2d(4, 4, 3, groups=4)
        self.deformable = DeformConv2d()
        self.scale = nn.Parameter(torch.ones(()))
        self.head = nn.Linear(4, 2)


NAMES = [name for name, _ in Net().named_parameters()]


def plan(*rules, module=None, **more):
    spec = SolverSpec(optimizer=OPTIMIZER, rules=rules, default_rules=False, depth=DEPTH, **more)
    return spec.plan(Net() if module is None else module, total_steps=10)


def touched(module=None, **selectors):
    made = plan(Rule(**selectors, lr=0.5), module=module)
    return [name for name, got in made.parameters.items() if got["lr"] != 0.01]


def blocks(*leaves, of=(0, 1, 2)):
    return [f"encoder.blocks.{i}.{leaf}" for i in of for leaf in leaves]


ALL_OF_A_BLOCK = ("norm.weight", "norm.bias", "proj.weight", "proj.bias")


@pytest.mark.parametrize(
    ("selectors", "selected"),
    [
        ({"kind": "position"}, ["encoder.pos_embed"]),
        ({"kind": "token"}, ["encoder.cls_token"]),
        ({"kind": "embedding"}, ["encoder.tok.weight"]),
        ({"kind": "depthwise"}, ["depthwise.weight", "depthwise.bias"]),
        ({"kind": "offset"}, ["deformable.conv_offset.weight", "deformable.conv_offset.bias"]),
        ({"kind": "head"}, ["head.weight", "head.bias"]),
        ({"kind": "hidden"}, blocks("proj.weight")),
        (
            {"kind": "flat"},
            [
                "scale",
                *blocks("norm.weight", "norm.bias", "proj.bias"),
                "depthwise.bias",
                "deformable.conv_offset.bias",
                "head.bias",
            ],
        ),
        ({"inside": "Block"}, blocks(*ALL_OF_A_BLOCK)),
        ({"inside": "Encoder", "ndim": 3}, ["encoder.pos_embed", "encoder.cls_token"]),
        ({"inside": ["DeformConv2d", "Embedding"], "kind": ["embedding", "bias"]}, ["encoder.tok.weight", "deformable.conv_offset.bias"]),
        ({"module_class": "Encoder"}, ["encoder.pos_embed", "encoder.cls_token"]),
        ({"module_class": "nn.LayerNorm"}, blocks("norm.weight", "norm.bias")),
        ({"ndim": 0}, ["scale"]),
        ({"depth": 0}, ["encoder.tok.weight", "encoder.pos_embed", "encoder.cls_token"]),
        ({"depth": -2}, blocks(*ALL_OF_A_BLOCK, of=[2])),
        ({"depth": "1-2", "kind": "norm"}, blocks("norm.weight", "norm.bias", of=[0, 1])),
        ({"depth": ["<1", ">=4"], "match": ["head.*", "*.tok.*"]}, ["encoder.tok.weight", "head.weight", "head.bias"]),
        ({"depth": [1, "3-9"], "match": "*.proj.bias"}, blocks("proj.bias", of=[0, 2])),
        ({"listed_by": "no_weight_decay"}, ["encoder.pos_embed", "encoder.cls_token", *blocks("norm.weight")]),
    ],
    ids=repr,
)  # fmt: skip
def test_each_selector_selects(selectors, selected):
    assert sorted(touched(**selectors)) == sorted(selected)


def test_every_selector_that_there_is_has_a_test_here_or_beside_the_cascade():
    assert {*SELECTORS} == {
        "match", "regex", "kind", "module_class", "inside", "ndim", "depth", "listed_by",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("choice", "at"),
    [(0, [0]), (3, [3]), (-1, [4]), (-5, [0]), (-6, []), ("1-3", [1, 2, 3]), ("<2", [0, 1]), ("<=2", [0, 1, 2]), (">2", [3, 4]), (">=2", [2, 3, 4])],
)  # fmt: skip
def test_what_a_depth_says(choice, at):
    assert [depth for depth in range(5) if depth_holds(choice, depth, 4)] == at


def test_a_stretch_that_runs_backwards_selects_nothing_and_is_told():
    with pytest.raises(SolverError, match=re.escape("rules[0].depth: no parameter lies at this depth; got '3-1'")):
        touched(depth="3-1")


# ------------------------------------------------------------------ unless


@pytest.mark.parametrize(
    ("unless", "left"),
    [
        ({"kind": "bias"}, ["encoder.blocks.0.norm.weight", "encoder.blocks.0.proj.weight"]),
        ({"match": "*.proj.*", "kind": "bias"}, blocks("norm.weight", "norm.bias", "proj.weight", of=[0])),
        ([{"match": "*.proj.*"}, {"kind": "bias"}], ["encoder.blocks.0.norm.weight"]),
        ({"inside": "LayerNorm"}, blocks("proj.weight", "proj.bias", of=[0])),
        ({"depth": ">=2"}, blocks(*ALL_OF_A_BLOCK, of=[0])),
        ({"listed_by": "no_weight_decay"}, blocks("norm.bias", "proj.weight", "proj.bias", of=[0])),
    ],
    ids=repr,
)
def test_unless_leaves_out_what_it_selects(unless, left):
    unless = [Selector(**one) for one in unless] if isinstance(unless, list) else Selector(**unless)
    assert sorted(touched(match="encoder.blocks.0.*", unless=unless)) == sorted(left)


def test_unless_may_be_a_rule_s_own_kind_of_several():
    chosen = touched(kind=["bias", "norm"], unless=Selector(kind="norm"), match="encoder.*")
    assert chosen == blocks("proj.bias")


def test_unless_that_selects_nothing_by_name_is_an_error_with_its_path():
    with pytest.raises(SolverError, match=re.escape("rules[0].unless.match: matches no parameter; got 'haed.*'; ")):
        touched(match="*", unless=Selector(match="haed.*"))
    several = [Selector(kind="bias"), Selector(match="haed.*")]
    with pytest.raises(SolverError, match=re.escape("rules[0].unless[1].match: matches no parameter; got 'haed.*'")):
        touched(match="*", unless=several)


def test_unless_whose_selectors_contradict_each_other_is_an_error():
    message = "rules[0].unless: its selectors contradict each other"
    with pytest.raises(SolverError, match=re.escape(message)):
        touched(match="*", unless=Selector(match="head.*", kind="norm"))


def test_unless_that_leaves_nothing_is_an_error_or_a_note():
    rule = {"match": "head.*", "unless": Selector(module_class="Linear"), "lr": 0.5}
    with pytest.raises(SolverError, match=re.escape("rules[0].unless: leaves out all that the rule selects; narrow")):
        plan(Rule(**rule))
    made = plan(Rule(**rule, unmatched="allow"))
    assert (
        "rules[0] (match head.*, unless module_class Linear): selects nothing, as unless leaves out all" in made.notes
    )
    assert len(made.groups) == 1


def test_unless_that_takes_nothing_away_is_harmless():
    assert touched(match="head.*", unless=Selector(match="encoder.*")) == ["head.weight", "head.bias"]


def test_unless_with_a_kind_that_the_model_lacks_is_noted():
    net = nn.Sequential(nn.Linear(2, 2))
    made = SolverSpec(
        optimizer=OPTIMIZER, rules=[Rule(match="*", unless=Selector(kind="embedding"), lr=0.5)]
    ).plan(net, total_steps=3)  # fmt: skip
    assert made.notes == ("rules[0].unless.kind (embedding): the model has no such parameter",)
    assert made.parameters["0.weight"]["lr"] == 0.5


@pytest.mark.parametrize("selectors", [{"kind": "embedding"}, {"match": "embed.*"}, {"module_class": "Embedding"}])
def test_unless_leaves_out_a_tied_tensor_under_all_of_its_names(selectors):
    """What is left out is a tensor: it does not come back by its other name."""

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(5, 3)
            self.middle = nn.Linear(3, 3)
            self.head = nn.Linear(3, 5, bias=False)
            self.head.weight = self.embed.weight

    spec = SolverSpec(optimizer=OPTIMIZER, rules=[Rule(match="*", unless=Selector(**selectors), lr=0.5)])
    made = spec.plan(Tied(), total_steps=3)
    assert made.parameters["embed.weight"]["lr"] == 0.01
    assert made.parameters["middle.weight"]["lr"] == 0.5


# ------------------------------------------------------------------ listed_by


class Outer(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.model = inner
        self.loss = nn.Linear(4, 2)


def test_names_are_relative_to_the_module_that_lists_them():
    chosen = touched(Outer(Encoder()), listed_by="no_weight_decay")
    assert sorted(chosen) == sorted(
        ["model.pos_embed", "model.cls_token", *(f"model.blocks.{i}.norm.weight" for i in range(3))]
    )


def test_the_outermost_module_with_the_method_has_the_word():
    class Lists(Outer):
        def no_weight_decay(self):
            return ["loss.bias", "model.tok.weight"]

    assert touched(Lists(Encoder()), listed_by="no_weight_decay") == ["model.tok.weight", "loss.bias"]


def test_several_modules_side_by_side_each_list_their_own():
    net = nn.ModuleDict({"left": Encoder(), "right": Encoder()})
    chosen = touched(net, listed_by="no_weight_decay")
    assert {name.partition(".")[0] for name in chosen} == {"left", "right"}
    assert len(chosen) == 10


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda net: torch.compile(net, backend="eager")])
def test_the_method_is_found_below_a_wrapper(wrap):
    assert touched(wrap(Encoder()), listed_by="no_weight_decay") == touched(Encoder(), listed_by="no_weight_decay")


def test_a_method_that_no_module_has():
    message = "rules[0].listed_by: no module of Net has a method no_wd; got 'no_wd'; correct the name of the method"
    with pytest.raises(SolverError, match=re.escape(message)):
        touched(listed_by="no_wd")
    made = plan(Rule(listed_by="no_wd", lr=0.5, unmatched="allow"))
    assert "rules[0].listed_by (no_wd): the model has no such parameter" in made.notes


def test_a_method_that_lists_something_else_than_names():
    message = "rules[0].listed_by: Encoder.listed_wrongly() lists something else than names; got [1, 2]"
    with pytest.raises(SolverError, match=re.escape(message)):
        touched(listed_by="listed_wrongly")


def test_a_method_that_fails():
    message = "rules[0].listed_by: Encoder.listing_fails() failed: RuntimeError: not today"
    with pytest.raises(SolverError, match=re.escape(message)):
        touched(listed_by="listing_fails")


def test_an_attribute_that_is_no_method_is_none():
    class Attribute(nn.Linear):
        no_weight_decay = ("bias",)

    with pytest.raises(SolverError, match="no module of Attribute has a method no_weight_decay"):
        plan(Rule(listed_by="no_weight_decay", lr=0.5), module=Attribute(2, 2))


def test_no_weight_decay_of_a_model_is_honoured_on_request_only():
    without = plan().parameters
    assert without["encoder.pos_embed"]["weight_decay"] == 0.1
    made = plan(Rule(listed_by="no_weight_decay", weight_decay=0.0)).parameters
    listed = {name for name, got in made.items() if got["weight_decay"] == 0}
    assert listed == {"encoder.pos_embed", "encoder.cls_token", *blocks("norm.weight")}


# ------------------------------------------------------------------ what selects nothing


@pytest.mark.parametrize(
    ("selectors", "message"),
    [
        ({"inside": "Blok"}, "rules[0].inside: no parameter is inside a module of this class; got 'Blok'; nearest names: Block"),
        ({"module_class": "Block"}, "rules[0].module_class: no parameter is held by a module of this class; got 'Block'"),
        ({"depth": 9}, "rules[0].depth: no parameter lies at this depth; got 9; depths go from 0 to 4 by regexes"),
        ({"depth": [0, "<0"]}, "rules[0].depth: no parameter lies at this depth; got '<0'; depths go from 0 to 4"),
        ({"match": "encoder.blocks.0"}, "got 'encoder.blocks.0'; encoder.blocks.0 is a module: write encoder.blocks.0.*"),
        ({"match": "encoder.block.0.*"}, "rules[0].match: matches no parameter; got 'encoder.block.0.*'; nearest names: encoder.blocks"),
        ({"regex": r"encodr\."}, r"rules[0].regex: matches no parameter; got 'encodr\\.'; nearest names: encoder"),
    ],
    ids=repr,
)  # fmt: skip
def test_what_selects_nothing_is_an_error_with_the_nearest_names(selectors, message):
    with pytest.raises(SolverError, match=re.escape(message)):
        touched(**selectors)


@pytest.mark.parametrize(
    ("selectors", "note"),
    [
        ({"inside": "Blok"}, "rules[0].inside (Blok): matches no parameter"),
        ({"depth": 9}, "rules[0].depth (9): matches no parameter"),
        ({"match": "*", "unless": Selector(match="haed.*")}, "rules[0].unless.match (haed.*): matches no parameter"),
    ],
    ids=repr,
)
def test_what_selects_nothing_is_a_note_where_that_is_allowed(selectors, note):
    assert note in plan(Rule(**selectors, lr=0.5, unmatched="allow")).notes


def test_a_module_without_names_of_its_own_is_selected_below_a_parametrisation():
    net = nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 3)))
    assert touched(net, match="0.parametrizations.*") == [
        "0.parametrizations.weight.original0",
        "0.parametrizations.weight.original1",
    ]


# ------------------------------------------------------------------ what cannot be written


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "Rule: selects nothing, as it has no selector; give one of match, regex, kind,"),
        ({"unless": Selector(match="a")}, "Rule: selects nothing, as it has no selector"),
        ({"match": []}, "Rule.match: is empty"),
        ({"kind": []}, "Rule.kind: is empty"),
        ({"regex": "("}, "Rule.regex: is not a regular expression"),
        ({"depth": "4-"}, "Rule.depth: is not a depth; got '4-'; write 3, -1, 0-5, <4, <=4, >4 or >=4"),
        ({"depth": ["<4", "4ep"]}, "Rule.depth: is not a depth; got '4ep'"),
        ({"kind": "nrom"}, "Rule.kind: "),
        ({"ndim": True}, "Rule.ndim: "),
        ({"match": "a", "unless": []}, "Rule.unless: is empty"),
        ({"match": "a", "fresh": []}, "Rule.fresh: is empty"),
    ],
    ids=repr,
)
def test_selectors_that_say_nothing(given, message):
    with pytest.raises(SolverError, match=re.escape(message)):
        Rule(**given, lr=0.5)


def test_an_exception_without_a_selector_is_refused():
    with pytest.raises(SolverError, match="Selector: selects nothing, as it has no selector"):
        Selector()


# ------------------------------------------------------------------ plain data


ROUND = [
    {"match": ["a.*", "b"], "regex": "c$", "ndim": [1, 2], "lr": 0.5},
    {"kind": ["bias", "offset"], "module_class": "nn.Linear", "inside": "Block", "lr": 0.5},
    {"depth": [0, -1, "<4", "2-3"], "lr": 0.5},
    {"depth": -1, "listed_by": ["no_weight_decay"], "lr": 0.5},
    {"match": "*", "unless": {"kind": "bias", "depth": "<=2"}, "lr": 0.5},
    {"match": "*", "unless": [{"match": "a"}, {"ndim": 0}], "fresh": True, "lr": 0.5},
    {"match": "*", "fresh": ["lr", "weight_decay"]},
    {"match": "*", "frozen_until": "5ep", "frozen_from": "80%"},
    {"match": "*", "unfreeze_every": 100, "optimizer": {"name": "SGD", "args": {"momentum": 0.9}}},
    {"match": "*", "lr_scale": {"class_path": "FanIn", "init_args": {"base": 256}}, "scale": {"eps": 2.0}},
    {"match": "*", "weight_decay_scale": {"class_path": "ByName", "init_args": {"function": "math.sqrt"}}, "frozen": False},
]  # fmt: skip


@pytest.mark.parametrize("rule", ROUND, ids=repr)
def test_rules_are_plain_data(rule):
    spec = SolverSpec.from_dict({"rules": [rule]})
    written = spec.to_dict()["rules"]
    assert written == [rule]
    assert SolverSpec.from_dict(spec.to_dict()) == spec
    assert hash(SolverSpec.from_dict(spec.to_dict())) == hash(spec)


class Listing(nn.Linear):
    def no_weight_decay(self):
        return {"weight"}


def test_parts_of_numbered_blocks_are_not_asked_for_their_lists():
    module = nn.ModuleDict({"stem": Listing(2, 2), "blocks": nn.ModuleList([Listing(2, 2)])})
    spec = SolverSpec(optimizer=OPTIMIZER, rules=[Rule(listed_by="no_weight_decay", lr=0.5)])
    made = spec.plan(module, total_steps=3)
    assert {name for name, options in made.parameters.items() if options["lr"] == 0.5} == {"stem.weight"}
