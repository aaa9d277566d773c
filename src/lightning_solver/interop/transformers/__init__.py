"""Hugging Face transformers: ``TrainingArguments``, ``get_scheduler`` and the functions behind it.

Every schedule of transformers is a factor of each group's own learning rate that counts optimiser steps from 0.
"""

from lightning_solver.interop.transformers.entry import from_transformers

__all__ = ["from_transformers"]
