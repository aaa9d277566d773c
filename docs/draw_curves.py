"""Draws the pictures of curves.md from the YAML that stands in it.

Blocks of YAML belong to the next picture; its title may be ``"side by side"`` (axes for each block) or ``"the first N
steps"``. The first comment of a block is its label; a comment ``# groups: [...]`` gives
the base values of the groups (by default one group of 1), any other ``# NAME: [...]`` the values of a metric after each
epoch. Every picture carries a hash of its blocks, so that one that is out of date is found without drawing.

    python docs/draw_curves.py            draws every picture that is missing or out of date, and removes others
    python docs/draw_curves.py --all      draws every picture
    python docs/draw_curves.py --check    draws nothing: evaluates every block, checks that every picture fits them
"""

from __future__ import annotations

import argparse
import hashlib
import io
import re
import sys
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from lightning_solver import SolverSpec

PAGE = Path(__file__).with_name("curves.md")
FOLDER = Path(__file__).with_name("curves")
STEPS, EPOCHS = 1000, 10
_STYLE = "4"  # raise it when the drawing changes, so that every picture is drawn anew

_PART = re.compile(
    r"^```yaml\n(?P<yaml>.*?)^```|"
    r"!\[[^\]]*\]\(curves/(?P<name>[\w-]+)\.png"
    r"(?: \"(?P<panels>side by side)?(?:the first (?P<steps>\d+) steps)?\")?\)",
    re.DOTALL | re.MULTILINE,
)
_LIST = re.compile(r"^# (\w+): (\[.*\])$", re.MULTILINE)
_LABEL = re.compile(r"\A# (?!\w+: \[)(.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Line:
    """One line of a picture.

    Args:
        option: The option whose values it shows.
        label: What its block is called; may be empty.
        group: Which group it is of, where there are several.
        values: The value at each step.
    """

    option: str
    label: str
    group: str
    values: np.ndarray[Any, Any]


@dataclass(frozen=True)
class Block:
    """One block of YAML.

    Args:
        text: The block as it stands in the page.
        where: Where it stands, for messages.
    """

    text: str
    where: str

    @property
    def label(self) -> str:
        """What the block is called."""
        found = _LABEL.search(self.text)
        return found[1] if found else ""

    @property
    def spec(self) -> SolverSpec:
        """What the block says."""
        return SolverSpec.from_dict(yaml.safe_load(self.text), self.where)

    def lines(self) -> list[Line]:
        """The curves of the block, each over the whole run.

        Raises:
            ValueError: A value is not finite.
        """
        lines = list(self._planned() if self.spec.optimizer is not None else self._evaluated())
        for line in lines:
            if not np.isfinite(line.values).all():
                raise ValueError(f"{self.where}: {line.option} is not finite")
        return lines

    def _evaluated(self) -> Iterator[Line]:
        spec = self.spec
        lists = {name: yaml.safe_load(values) for name, values in _LIST.findall(self.text)}
        groups = lists.pop("groups", [1.0])
        for option in spec.schedules:
            values = spec.curve(
                option, groups, total_steps=STEPS, steps_per_epoch=STEPS // EPOCHS, metrics=lists or None
            )
            for i, group in enumerate(groups):
                name = (
                    f"{group:g}"
                    if isinstance(group, (int, float))
                    else ", ".join(f"{k} {v:g}" for k, v in group.items())
                )
                name = name.removeprefix(f"{option} ")
                yield Line(option, self.label, f"base {name}" if len(groups) > 1 else "", values[:, i])

    def _planned(self) -> Iterator[Line]:
        from torch import nn

        parts = {"backbone": nn.Linear(2, 2, bias=False), "head": nn.Linear(2, 2, bias=False)}
        plan = self.spec.plan(nn.Sequential(OrderedDict(parts)), total_steps=STEPS, steps_per_epoch=STEPS // EPOCHS)
        for option in plan.curves:
            values = plan.curve(option)
            for i, group in enumerate(plan.groups):
                yield Line(option, self.label, {"default": "head"}.get(group.name, group.name), values[:, i])


@dataclass(frozen=True)
class Picture:
    """A picture of the page and the blocks that it shows.

    Args:
        name: Name of its file, without ending.
        blocks: What it shows.
        panels: Whether each block has axes of its own.
        steps: How many steps it shows, from the first on.
    """

    name: str
    blocks: tuple[Block, ...]
    panels: bool
    steps: int

    @property
    def path(self) -> Path:
        """Its file."""
        return FOLDER / f"{self.name}.png"

    @property
    def hash(self) -> str:
        """A hash of all that it is drawn from."""
        text = "\n".join([_STYLE, str(self.panels), str(self.steps), *(block.text for block in self.blocks)])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def fits(self) -> bool:
        """Whether its file is there and was drawn from these blocks."""
        return self.path.exists() and b"blocks\0" + self.hash.encode() in self.path.read_bytes()


def pictures(text: str) -> list[Picture]:
    """The pictures of a page with their blocks.

    Raises:
        ValueError: A picture without a block, a block without a picture, or two pictures of one name.
    """
    found: list[Picture] = []
    blocks: list[Block] = []
    for part in _PART.finditer(text):
        where = f"curves.md:{text.count(chr(10), 0, part.start()) + 1}"
        if part["yaml"] is not None:
            blocks.append(Block(part["yaml"], where))
            continue
        if not blocks:
            raise ValueError(f"{where}: {part['name']}.png has no block of YAML above it")
        if part["name"] in {picture.name for picture in found}:
            raise ValueError(f"{where}: {part['name']}.png stands there twice")
        steps = int(part["steps"] or STEPS)
        found.append(Picture(part["name"], tuple(blocks), part["panels"] is not None, steps))
        blocks = []
    if blocks:
        raise ValueError(f"{blocks[0].where}: no picture shows this block")
    return found


def draw(picture: Picture) -> None:
    """Draw one picture into its file."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from PIL import Image, PngImagePlugin

    axes_of: dict[tuple[int, str], list[Line]] = {}
    for i, block in enumerate(picture.blocks):
        for line in block.lines():
            axes_of.setdefault((i if picture.panels else 0, line.option), []).append(line)
    columns = min(len(axes_of), 2 if len(axes_of) in (2, 4) else 3)
    rows = -(-len(axes_of) // columns)
    options = {option for _, option in axes_of}
    with rc_context({"font.size": 8, "axes.titlesize": 8, "axes.linewidth": 0.6}):
        figure = Figure(figsize=(4.8, 2.4 if rows == 1 else 1.65 * rows), dpi=100, layout="constrained")
        grid = figure.subplots(rows, columns, sharex=True, sharey=len(options) == 1, squeeze=False).flatten()
        for axis in grid[len(axes_of) :]:
            axis.remove()
        for axis, ((_, option), lines) in zip(grid, axes_of.items()):
            _draw_lines(axis, lines, picture.steps, one=len(axes_of) == 1)
            if len(axes_of) > 1:
                axis.set_title(lines[0].label if picture.panels and lines[0].label else option)
            if len(options) == 1 and axis.get_subplotspec().is_first_col():
                axis.set_ylabel(option)
            if axis.get_subplotspec().is_last_row():
                axis.set_xlabel("step")
        labels = grid[0].get_legend_handles_labels()
        if len(labels[0]) > 1:
            place = {"loc": "outside lower center", "ncols": len(labels[0])} if len(axes_of) > 1 else {"loc": "best"}
            where = figure if len(axes_of) > 1 else grid[0]
            where.legend(*labels, fontsize=7, frameon=False, handlelength=2.4, labelspacing=0.3, **place)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
    note = PngImagePlugin.PngInfo()
    note.add_text("blocks", picture.hash)
    image = Image.open(buffer).convert("RGB").quantize(48, dither=Image.Dither.NONE)
    picture.path.parent.mkdir(exist_ok=True)
    image.save(picture.path, optimize=True, pnginfo=note)


def _draw_lines(axis: Any, lines: list[Line], steps: int, one: bool) -> None:
    """Lines that lie on each other are told apart by their dashes."""
    dashes = ["-", (0, (4, 1.5)), (0, (1.5, 1)), "-.", (0, (6, 1, 1, 1, 1, 1))]
    for i, line in enumerate(lines):
        words = [line.label] * (one and len({line.label for line in lines}) > 1) + [line.group]
        label = ": ".join(filter(None, words))
        marks = {"drawstyle": "steps-post", "marker": "."} if steps <= 50 else {}
        style = dashes[i % 5] if len(lines) > 1 else "-"
        axis.plot(line.values[:steps], label=label or None, linewidth=1.5, linestyle=style, **marks)
    low, high = (float(f(f(line.values[:steps]) for line in lines)) for f in (min, max))
    if not 0.5 * high < low < high:  # what hardly moves, such as a momentum, is shown from near by
        low = 0.0
    margin = 0.05 * (high - low) or 1.0
    axis.set_ylim(min(low - margin, axis.get_ylim()[0]), max(high + margin, axis.get_ylim()[1]))
    axis.set_xlim(-0.01 * steps, 1.01 * steps)
    axis.set_xticks(np.arange(0, steps + 1, steps // (5 if one else 2)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.grid(alpha=0.25, linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)


def faults(found: list[Picture]) -> list[str]:
    """What is wrong with the files: those that are missing, out of date, or that no page names."""
    names = {picture.path for picture in found}
    return [
        *(f"{picture.path.name}: missing or out of date" for picture in found if not picture.fits()),
        *(f"{path.name}: the page does not name it" for path in sorted(FOLDER.glob("*")) if path not in names),
    ]


def main(arguments: list[str] | None = None) -> int:
    """The command line; gives the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--all", action="store_true", help="draw every picture, also those that are up to date")
    parser.add_argument("--check", action="store_true", help="draw nothing; fail where a block or a picture is wrong")
    given = parser.parse_args(arguments)
    found = pictures(PAGE.read_text(encoding="utf-8"))
    for picture in found:
        for block in picture.blocks:
            block.lines()
    if given.check:
        wrong = faults(found)
        print(
            "\n".join(
                [*wrong, f"{sum(len(p.blocks) for p in found)} blocks, {len(found)} pictures, {len(wrong)} faults"]
            )
        )
        return 1 if wrong else 0
    stale = [picture for picture in found if given.all or not picture.fits()]
    for picture in stale:
        draw(picture)
    for path in set(FOLDER.glob("*.png")) - {picture.path for picture in found}:
        path.unlink()
    print(f"{len(stale)} of {len(found)} pictures drawn")
    return 0


if __name__ == "__main__":
    sys.exit(main())
