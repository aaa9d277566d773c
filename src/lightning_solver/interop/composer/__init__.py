"""MosaicML's Composer: its scheduler classes, as arguments of its ``Trainer`` and in llm-foundry's YAML.

A scheduler is a factor of each group's own learning rate that looks at the clock of the training; the trainer asks it
after a batch but before the clock moves on, so that the rates come one batch late. The algorithms ``EMA`` and ``SWA``
are asked after it has moved on.
"""

from lightning_solver.interop.composer.entry import from_composer

__all__ = ["from_composer"]
