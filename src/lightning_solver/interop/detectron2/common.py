"""detectron2's own ``configs/common/optim.py``, which Python configs take their optimiser from."""

from __future__ import annotations

import ast
from typing import Any

from lightning_solver.interop.base import Notes

_FILE = "common/optim.py"
_OPTIMIZERS = {
    "SGD": "L(SGD)(params=L(get_default_optimizer_params)(weight_decay_norm=0.0),"
    " lr=0.02, momentum=0.9, weight_decay=1e-4)",
    "AdamW": "L(AdamW)(params=L(get_default_optimizer_params)(base_lr='${..lr}', weight_decay_norm=0.0),"
    " lr=1e-4, betas=(0.9, 0.999), weight_decay=0.1)",
}
"""What the file holds, by name."""


def with_common(text: str, notes: Notes) -> str:
    """The text of a Python config in which the optimisers of that file are written out.

    They are known by ``model_zoo.get_config("common/optim.py").AdamW`` and by ``from .common.optim import AdamW``. A
    text without them comes back as it is.
    """
    if "optim" not in text:
        return text
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return text
    writer = _Writer()
    tree = ast.fix_missing_locations(writer.visit(tree))
    for name in writer.found:
        notes.say("optimizer", f"{name} is what detectron2's configs/{_FILE} holds")
    return ast.unparse(tree) if writer.found else text


class _Writer(ast.NodeTransformer):
    """Writes the optimisers out; ``found`` are their names."""

    def __init__(self) -> None:
        self.found: dict[str, None] = {}

    def visit_Attribute(self, node: ast.Attribute) -> Any:
        call = node.value
        if isinstance(call, ast.Call) and isinstance(call.func, (ast.Name, ast.Attribute)) and len(call.args) == 1:
            function = call.func.id if isinstance(call.func, ast.Name) else call.func.attr
            path = call.args[0]
            ours = isinstance(path, ast.Constant) and path.value == _FILE and node.attr in _OPTIMIZERS
            if function == "get_config" and ours:
                return self._written(node.attr)
        return self.generic_visit(node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> Any:
        if not (node.module or "").endswith("common.optim"):
            return node
        return [
            ast.Assign([ast.Name(alias.asname or alias.name, ast.Store())], self._written(alias.name))
            for alias in node.names
            if alias.name in _OPTIMIZERS
        ] or node

    def _written(self, name: str) -> ast.expr:
        self.found[name] = None
        return ast.parse(_OPTIMIZERS[name], mode="eval").body
