"""Which layer gives the output, and which matrices are hidden ones."""

import re

import pytest
import torch
from torch import nn

from lightning_solver import Rule, SolverError, SolverSpec
from lightning_solver.rules.heads import find_heads, is_hidden
from lightning_solver.rules.inventory import take_inventory


def heads(module):
    found = find_heads(take_inventory(module))
    return [name for name, tensor in module.named_parameters() if id(tensor) in found]


def hidden(module):
    inventory = take_inventory(module)
    found = find_heads(inventory)
    return [parameter.name for parameter in inventory if is_hidden(parameter, found)]


def tree(**parts):
    return nn.ModuleDict(parts)


class Says(nn.ModuleDict):
    """A model whose own method names the layer, in the way that timm and transformers have it."""

    def __init__(self, answer, method="get_classifier", **parts):
        super().__init__(parts)
        self.answer = answer
        setattr(self, method, lambda: self.answer(self))


def blocks(count=2):
    return nn.Sequential(*(nn.Linear(3, 3) for _ in range(count)))


# ------------------------------------------------------------------ the head


@pytest.mark.parametrize("method", ["get_classifier", "get_output_embeddings"])
def test_the_model_s_own_word_comes_first(method):
    net = Says(lambda net: net["out"], method, body=blocks(), out=nn.Linear(3, 2), head=nn.Linear(3, 2))
    assert heads(net) == ["out.weight", "out.bias"]


def test_several_heads_at_once():
    net = Says(lambda net: (net["one"], net["two"]), body=blocks(), one=nn.Linear(3, 2), two=nn.Linear(3, 2))
    assert heads(net) == ["one.weight", "one.bias", "two.weight", "two.bias"]


def test_a_model_that_says_that_it_has_none_is_looked_at_by_names():
    net = Says(lambda net: None, body=blocks(), head=nn.Linear(3, 2))
    assert heads(net) == ["head.weight", "head.bias"]


def test_a_model_whose_head_was_taken_off():
    net = Says(lambda net: net["head"], body=blocks(), head=nn.Identity())
    assert heads(net) == ["body.1.weight", "body.1.bias"]


def test_the_outermost_module_with_the_method_has_the_word():
    inner = Says(lambda net: net["head"], body=blocks(), head=nn.Linear(3, 3))
    outer = Says(lambda net: net["final"], model=inner, final=nn.Linear(3, 2))
    assert heads(outer) == ["final.weight", "final.bias"]
    assert heads(tree(model=inner, last=nn.Linear(3, 2))) == ["model.head.weight", "model.head.bias"]


def test_models_side_by_side_each_have_their_own():
    net = tree(**{side: Says(lambda net: net["out"], out=nn.Linear(3, 2), body=blocks()) for side in ("a", "b")})
    assert heads(net) == ["a.out.weight", "a.out.bias", "b.out.weight", "b.out.bias"]


@pytest.mark.parametrize("name", ["head", "heads", "classifier", "lm_head", "fc_out", "qa_outputs"])
def test_the_usual_names(name):
    net = tree(**{name: nn.Linear(3, 2)}, body=blocks())
    assert heads(net) == [f"{name}.weight", f"{name}.bias"]


def test_everything_inside_a_head_belongs_to_it():
    net = tree(body=blocks(), head=nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 2)))
    assert heads(net) == ["head.0.weight", "head.0.bias", "head.1.weight", "head.1.bias"]


def test_heads_of_attention_in_repeated_blocks_are_not_meant():
    layer = tree(heads=nn.Linear(3, 3), mlp=nn.Linear(3, 3))
    net = tree(layers=nn.ModuleList([layer, tree(heads=nn.Linear(3, 3))]), final=nn.Linear(3, 2))
    assert heads(net) == ["final.weight", "final.bias"]


def test_else_it_is_the_last_linear_layer():
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2), nn.LayerNorm(2))
    assert heads(net) == ["1.weight", "1.bias"]
    assert heads(nn.Sequential(nn.Conv2d(3, 3, 1))) == []


def test_a_tied_head_is_a_head_and_no_hidden_matrix():
    net = tree(embed=nn.Embedding(5, 3), body=blocks(1), lm_head=nn.Linear(3, 5, bias=False))
    net["lm_head"].weight = net["embed"].weight
    assert heads(net) == ["embed.weight"]
    assert hidden(net) == ["body.0.weight"]


@pytest.mark.parametrize("fault", ["argument", "raises"])
def test_a_method_that_cannot_be_asked_is_an_error_with_its_name(fault):
    class Model(nn.Sequential):
        if fault == "argument":

            def get_classifier(self, name):
                return self[0]

        else:

            def get_classifier(self):
                raise NotImplementedError("no head yet")

    spec = SolverSpec(optimizer={"name": "AdamW"}, rules=[Rule(kind="head", lr=0.5)])
    with pytest.raises(SolverError, match="get_classifier"):
        spec.plan(Model(nn.Linear(2, 2)), total_steps=3)


# ------------------------------------------------------------------ hidden matrices


class Shaped(nn.Module):
    """Parameters of every number of dimensions, held by the module itself."""

    def __init__(self):
        super().__init__()
        self.query = nn.Parameter(torch.zeros(3, 3))
        self.cube = nn.Parameter(torch.zeros(3, 3, 3))
        self.gain = nn.Parameter(torch.zeros(3))
        self.pos_embed = nn.Parameter(torch.zeros(4, 3))
        self.cls_token = nn.Parameter(torch.zeros(1, 3))
        self.relative_position_bias_table = nn.Parameter(torch.zeros(9, 3))


def test_a_hidden_matrix_has_two_dimensions_and_is_nothing_else():
    net = tree(
        own=Shaped(), conv=nn.Conv2d(3, 3, 1), table=nn.Embedding(4, 3), norm=nn.LayerNorm((2, 2)), head=nn.Linear(3, 2)
    )
    assert hidden(net) == ["own.query"]


def test_attention_s_matrices_are_hidden():
    net = tree(attn=nn.MultiheadAttention(4, 2), head=nn.Linear(4, 2))
    assert hidden(net) == ["attn.in_proj_weight", "attn.out_proj.weight"]


def test_a_low_rank_factor_of_a_weight_is_hidden_too():
    net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)), nn.Linear(3, 2))
    assert "0.parametrizations.weight.original1" in hidden(net)


def test_a_matrix_that_is_tied_to_a_table_is_not_hidden():
    net = tree(embed=nn.Embedding(3, 3), mix=nn.Linear(3, 3, bias=False), head=nn.Linear(3, 2))
    net["mix"].weight = net["embed"].weight
    assert hidden(net) == []


# ------------------------------------------------------------------ in rules


def plan(net, *rules):
    spec = SolverSpec(optimizer={"name": "AdamW", "args": {"lr": 0.1}}, rules=rules, default_rules=False)
    return spec.plan(net, total_steps=3)


def test_head_and_hidden_select_in_rules():
    net = tree(table=nn.Embedding(4, 3), body=blocks(), head=nn.Linear(3, 2))
    made = plan(net, Rule(kind="hidden", lr=0.5), Rule(kind="head", weight_decay=0.5)).parameters
    assert [name for name, got in made.items() if got["lr"] == 0.5] == ["body.0.weight", "body.1.weight"]
    assert [name for name, got in made.items() if got["weight_decay"] == 0.5] == ["head.weight", "head.bias"]


def test_a_tied_head_is_selected_by_either_kind():
    net = tree(embed=nn.Embedding(5, 3), body=blocks(1), lm_head=nn.Linear(3, 5, bias=False))
    net["lm_head"].weight = net["embed"].weight
    assert plan(net, Rule(kind="head", lr=0.5)).parameters["embed.weight"]["lr"] == 0.5
    assert plan(net, Rule(kind="embedding", lr=0.5)).parameters["embed.weight"]["lr"] == 0.5


def test_the_plan_tells_what_an_optimiser_of_hidden_matrices_does_not_get():
    net = tree(table=nn.Embedding(4, 3), conv=nn.Conv2d(3, 3, 1), body=blocks(), head=nn.Linear(3, 2))
    rule = Rule(kind="hidden", optimizer={"name": "Muon"})
    (note,) = plan(net, rule).routes
    start = "rules[0] (kind hidden): Muon gets the hidden matrices, not "
    assert note.startswith(start)
    left = re.findall(r"(\S+) \(([^)]+)\)", note.removeprefix(start))
    assert left == [("table.weight", "embedding"), ("conv.weight", "4-D"), ("head.weight", "head")]


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.fc = nn.Linear(2, 2), nn.Linear(2, 3)

    def get_classifier(self):
        return self.fc


def test_a_head_beside_a_model_that_has_one_is_a_head_too():
    found = heads(nn.ModuleDict({"backbone": Backbone(), "head": nn.Linear(3, 2), "neck": nn.Linear(2, 2)}))
    assert set(found) == {"backbone.fc.weight", "backbone.fc.bias", "head.weight", "head.bias"}
