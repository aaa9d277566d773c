"""How long a plan takes: models of 10,000 to 1,000,000 tensors on the meta device, and a ViT-L with layer-wise decay.

    python benchmarks/plans.py

Each figure is the best of several; the machine's own speed cancels out in the last column, the time of a plan over that
of `list(module.named_parameters())`, which any builder of groups needs.
"""

import gc
import time

import torch
from torch import nn

from lightning_solver import SolverSpec

SPEC = SolverSpec.from_dict(
    {
        "optimizer": {"name": "AdamW", "args": {"lr": 1e-3, "weight_decay": 0.05}},
        "rules": [
            {"match": "head.*", "lr_scale": 10.0},
            {"regex": r"fc\d", "kind": "bias", "lr_scale": 2.0},
        ],
        "schedules": {"lr": {"class_path": "Cosine"}},
    }
)
DECAYED = SPEC.replace(layer_decay=0.75, rules=())
RULE_PER_LAYER = 1000


class Layer(nn.Module):
    """Ten tensors: two norms, two linear layers, a depthwise convolution."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.fc1 = nn.Linear(16, 16)
        self.fc2 = nn.Linear(16, 16)
        self.conv = nn.Conv2d(8, 8, 3, groups=8)
        self.norm2 = nn.LayerNorm(16)


def deep(tensors):
    with torch.device("meta"):
        return nn.ModuleDict({"blocks": nn.ModuleList(Layer() for _ in range(tensors // 10)), "head": nn.Linear(16, 4)})


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})


class ViTLarge(nn.Module):
    def __init__(self, width=1024, depth=24):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 197, width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, 16, 16)})
        self.blocks = nn.Sequential(*(Block(width) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 1000)


def best(run, times):
    found = []
    for _ in range(times):
        gc.collect()
        start = time.perf_counter()
        run()
        found.append(time.perf_counter() - start)
    return min(found)


def line(name, module, spec, times, steps=1000):
    tensors = sum(1 for _ in module.parameters())
    took = best(lambda: spec.plan(module, total_steps=steps), times)
    walk = best(lambda: list(module.named_parameters()), times)
    print(f"{name:34} {tensors:>9,} {took * 1e3:>10,.1f} ms {took / tensors * 1e6:>7.1f} us {took / walk:>8.1f}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, 1 thread")
    print(f"{'model':34} {'tensors':>9} {'plan':>13} {'a tensor':>10} {'over a walk':>8}")
    with torch.device("meta"):
        large = ViTLarge()
    line("ViT-L, layer decay", large, DECAYED, 10)
    for count, times in ((10_000, 5), (100_000, 3), (1_000_000, 1)):
        line("two rules, cosine", deep(count), SPEC, times)
    rules = [{"match": f"blocks.{i}.*", "lr_scale": 1 + i / 1000} for i in range(RULE_PER_LAYER)]
    per_layer = SolverSpec.from_dict({**SPEC.to_dict(), "rules": rules})
    line("a rule for each of 1,000 layers", deep(10_000), per_layer, 3)
