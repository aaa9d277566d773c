import pytest
import torch
from torch import nn

from lightning_solver import Rule, SolverSpec
from lightning_solver.rule import KINDS
from lightning_solver.rules.inventory import take_inventory
from lightning_solver.rules.kinds import is_norm


def kinds(module):
    """Name -> kinds, as one text, in the order of KINDS."""
    return {
        place.name: " ".join(kind for kind in KINDS if kind in place.kinds and kind != "flat")
        for parameter in take_inventory(module)
        for place in parameter.places
    }


class Holder(nn.Module):
    """Holds parameters of given names and shapes."""

    def __init__(self, **shapes):
        super().__init__()
        for name, shape in shapes.items():
            setattr(self, name, nn.Parameter(torch.ones(shape)))


class RMSNorm(nn.Module):
    """As in many language models: a vector called weight or scale."""

    def __init__(self, size, name="weight"):
        super().__init__()
        setattr(self, name, nn.Parameter(torch.ones(size)))


class T5LayerNorm(RMSNorm):
    pass


class GlobalResponseNorm(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, size))
        self.beta = nn.Parameter(torch.zeros(1, 1, 1, size))


class NormedLinear(nn.Linear):
    pass


class NormConv(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 4, 3, 3))
        self.bias = nn.Parameter(torch.ones(4))


class PreNorm(nn.Module):
    """A block that is called after its norm, and holds no parameter of its own."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(3)
        self.fn = nn.Linear(3, 3)


class LayerNorm2d(nn.LayerNorm):
    pass


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm1d(4),
        nn.BatchNorm2d(4),
        nn.BatchNorm3d(4),
        nn.SyncBatchNorm(4),
        nn.GroupNorm(2, 4),
        nn.LayerNorm(4),
        nn.InstanceNorm1d(4, affine=True),
        nn.InstanceNorm2d(4, affine=True),
        nn.InstanceNorm3d(4, affine=True),
        LayerNorm2d(4),
    ],
    ids=repr,
)
def test_weight_and_bias_of_torch_s_norms(norm):
    assert is_norm(norm)
    assert kinds(norm) == {"weight": "norm", "bias": "bias norm"}


@pytest.mark.parametrize(
    "norm",
    [
        nn.RMSNorm(4),
        nn.RMSNorm((4, 4)),
        nn.LayerNorm(4, bias=False),
        RMSNorm(4),
        T5LayerNorm(4),
    ],
    ids=lambda norm: type(norm).__name__,
)
def test_norms_without_a_bias(norm):
    assert kinds(norm) == {"weight": "norm"}


def test_a_norm_over_several_dimensions():
    assert kinds(nn.LayerNorm((4, 4))) == {"weight": "norm", "bias": "bias norm"}


def test_norms_whose_vectors_are_called_otherwise():
    assert kinds(RMSNorm(4, name="scale")) == {"scale": "norm"}
    assert kinds(GlobalResponseNorm(4)) == {"gamma": "norm", "beta": "norm"}


@pytest.mark.parametrize("norm", [nn.LayerNorm(4, elementwise_affine=False), nn.InstanceNorm2d(4)], ids=repr)
def test_norms_without_parameters(norm):
    assert is_norm(norm)
    assert kinds(norm) == {}


@pytest.mark.parametrize("layer", [NormedLinear(3, 2), NormConv()], ids=lambda layer: type(layer).__name__)
def test_layers_called_after_a_norm_that_hold_a_matrix_are_not_norms(layer):
    assert not is_norm(layer)
    assert kinds(layer) == {"weight": "", "bias": "bias"}


def test_a_block_called_after_its_norm_is_not_a_norm():
    assert not is_norm(PreNorm())
    assert kinds(PreNorm()) == {
        "norm.weight": "norm",
        "norm.bias": "bias norm",
        "fn.weight": "",
        "fn.bias": "bias",
    }


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.Linear(3, 2), {"weight": "", "bias": "bias"}),
        (nn.Linear(1, 1), {"weight": "", "bias": "bias"}),
        (nn.Bilinear(2, 3, 4), {"weight": "", "bias": "bias"}),
        (nn.Conv2d(3, 2, 1), {"weight": "", "bias": "bias"}),
        (nn.PReLU(), {"weight": ""}),
        (
            nn.MultiheadAttention(4, 2, add_bias_kv=True),
            {
                "in_proj_weight": "",
                "in_proj_bias": "bias",
                "bias_k": "bias",
                "bias_v": "bias",
                "out_proj.weight": "",
                "out_proj.bias": "bias",
            },
        ),
        (
            nn.LSTM(2, 3),
            {"weight_ih_l0": "", "weight_hh_l0": "", "bias_ih_l0": "bias", "bias_hh_l0": "bias"},
        ),
        (Holder(q_bias=(4,), v_bias=(4,), bias_mask=(4,)), {"q_bias": "bias", "v_bias": "bias", "bias_mask": "bias"}),
        (Holder(bias=(1, 4, 1, 1)), {"bias": "bias"}),
        (Holder(bias=()), {"bias": "bias"}),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, nn.Module) else "",
)
def test_biases(module, expected):
    assert kinds(module) == expected


@pytest.mark.parametrize("name", ["biased", "unbias", "debiasing", "biases2"])
def test_names_that_only_look_like_a_bias(name):
    assert kinds(Holder(**{name: (4,)})) == {name: ""}


def test_a_bias_that_is_a_matrix_is_not_of_that_kind():
    assert kinds(Holder(bias=(4, 4), attention_bias=(2, 3, 3))) == {"bias": "", "attention_bias": ""}


@pytest.mark.parametrize(
    "name", ["relative_position_bias_table", "rel_pos_h", "relative_position_bias", "rel_pos_bias"]
)
@pytest.mark.parametrize("shape", [(9, 4), (9,)])
def test_relative_position_tables_are_positions_and_no_biases(name, shape):
    assert kinds(Holder(**{name: shape})) == {name: "position"}


@pytest.mark.parametrize(
    "name",
    [
        "pos_embed",
        "pos_emb",
        "pos_embedding",
        "position_embedding",
        "position_embeddings",
        "positional_embedding",
        "positional_encoding",
        "absolute_pos_embed",
        "abs_pos_emb",
        "decoder_pos_embed",
        "pos_embed_window",
        "pos_table",
    ],
)
def test_position_tables(name):
    assert kinds(Holder(**{name: (1, 5, 4)})) == {name: "position"}


@pytest.mark.parametrize("name", ["pose_embed", "composite_embed", "weight", "positive", "embed", "exposed_table"])
def test_names_that_only_look_like_a_position_table(name):
    assert kinds(Holder(**{name: (1, 5, 4)})) == {name: ""}


@pytest.mark.parametrize(
    "name",
    [
        "cls_token",
        "class_token",
        "mask_token",
        "dist_token",
        "distill_token",
        "reg_token",
        "register_tokens",
        "storage_tokens",
        "prompt_tokens",
        "decoder_mask_token",
    ],
)
def test_tokens(name):
    assert kinds(Holder(**{name: (1, 1, 4)})) == {name: "token"}


@pytest.mark.parametrize("name", ["token", "tokens", "token_embed", "tokenizer", "cls_tokenizer", "cls_head"])
def test_names_that_only_look_like_a_token(name):
    assert kinds(Holder(**{name: (1, 1, 4)})) == {name: ""}


class TokenEmbedding(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(10, 4))


class PatchEmbed(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = nn.Conv2d(3, 4, 2)


@pytest.mark.parametrize("table", [nn.Embedding(5, 3), nn.EmbeddingBag(5, 3), TokenEmbedding()], ids=repr)
def test_embeddings(table):
    assert kinds(table) == {"weight": "embedding"}


def test_patch_embeddings_are_convolutions():
    assert kinds(PatchEmbed()) == {"proj.weight": "", "proj.bias": "bias"}


@pytest.mark.parametrize(
    ("layer", "depthwise"),
    [
        (nn.Conv1d(4, 4, 3, groups=4), True),
        (nn.Conv2d(4, 4, 3, groups=4), True),
        (nn.Conv3d(4, 4, 3, groups=4), True),
        (nn.Conv2d(4, 8, 3, groups=4), True),
        (nn.ConvTranspose2d(4, 4, 3, groups=4), True),
        (nn.Conv2d(4, 4, 3, groups=2), False),
        (nn.Conv2d(4, 4, 3), False),
        (nn.Conv2d(1, 8, 3), True),
    ],
    ids=repr,
)
def test_depthwise_convolutions(layer, depthwise):
    wise = "depthwise" if depthwise else ""
    assert kinds(layer) == {"weight": wise, "bias": f"bias {wise}".strip()}


def test_a_parameter_may_be_of_several_kinds():
    class PosEmbedNorm(nn.Module):
        def __init__(self):
            super().__init__()
            self.pos_embed = nn.Parameter(torch.ones(4))
            self.cls_token_bias = nn.Parameter(torch.ones(4))

    assert kinds(PosEmbedNorm()) == {"pos_embed": "norm position", "cls_token_bias": "bias norm token"}


def test_a_tied_matrix_is_seen_from_each_of_its_names():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(5, 3)
            self.head = nn.Linear(3, 5, bias=False)
            self.head.weight = self.embed.weight

    assert kinds(Tied()) == {"embed.weight": "embedding", "head.weight": ""}


def test_the_shape_that_zero_3_keeps_aside():
    # DeepSpeed empties parameters while the plan is made and leaves their shape in ds_shape.
    class NormedLinear(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.empty(0))
            self.weight.ds_shape = torch.Size([4, 4])

    assert kinds(NormedLinear()) == {"weight": ""}
    spec = SolverSpec(optimizer={"name": "SGD"}, rules=[Rule(ndim=2, lr_scale=0.5)])
    assert spec.plan(NormedLinear(), total_steps=1).parameters["weight"]["lr"] == 0.5e-3
