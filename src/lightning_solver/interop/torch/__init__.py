"""Optimisers, schedulers and averages of torch (``torch.optim``, ``swa_utils``, 2.13) as specs. torch is not imported.

A scheduler of torch either writes a rate by a formula, whatever it finds (``LambdaLR``, ``OneCycleLR``, ``CyclicLR``,
``CosineAnnealingWarmRestarts``), or moves the rate that it finds on by one call of ``step()`` (all others). What
several do together follows from the order of their calls. So their counters are run through, call by call at the calls
that switch from one scheduler to another, and each stretch between two such calls becomes a phase.

An optimiser's script is read for what its groups are made of (``model.head.parameters()``, comprehensions with tests on
names, filters): each becomes a set of parameters by globs, and the groups become rules. An ``AveragedModel`` becomes
an average; the loops and conditions around ``update_parameters`` say when it is updated.
"""

from lightning_solver.interop.torch.entry import from_torch

__all__ = ["from_torch"]
