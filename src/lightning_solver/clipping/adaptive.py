"""Clipping whose limit is learnt from the norms so far, on the device, so that nothing has to wait for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_solver.clipping.kinds import AutoClip, ZClip
from lightning_solver.clipping.norms import Gradients, order_of
from lightning_solver.clipping.ways import Clipped, Way, scale_together

_EPS = 1e-6


def _wide(device: torch.device) -> torch.dtype:
    """The type of what is learnt: the widest that a device has, as small differences of norms count."""
    return torch.float32 if device.type == "mps" else torch.float64


class ByPercentile(Way):
    """Gradients are scaled down to a percentile of their norms so far; the latest norms are kept in a ring.

    Args:
        clip: The clipping.
    """

    def __init__(self, clip: AutoClip) -> None:
        self._order, self._part = order_of(clip.norm_type), clip.percentile / 100
        self._norms, self._seen = torch.full((clip.window,), torch.nan, dtype=torch.float64), torch.tensor(0)

    def clip(self, units: Sequence[Gradients], limit: float | None, *, measure: bool) -> Clipped:
        (unit,) = units
        norm = unit.norm(self._order)
        if self._norms.device != norm.device:
            self._norms = self._norms.to(norm.device, _wide(norm.device))
            self._seen = self._seen.to(norm.device)
        at, finite = (self._seen % len(self._norms)).reshape(1), norm.isfinite()
        seen = norm.to(self._norms.dtype)
        self._norms.index_copy_(0, at, torch.where(finite, seen, self._norms[at]))
        self._seen = self._seen + finite
        found = torch.nanquantile(self._norms, self._part)  # places that are not filled yet are nan
        coefficient = torch.clamp(found / (seen + _EPS), max=1.0)
        coefficient = torch.where(found.isnan() | (found >= seen), 1.0, coefficient).to(norm.dtype)
        scale_together(unit.parts(unit.present()), coefficient)
        return Clipped(norm, norm * coefficient, (coefficient < 1.0).float(), found)

    def state_dict(self) -> dict[str, Any]:
        norms, seen = self._norms.cpu(), int(self._seen)
        in_order = norms[:seen] if seen < len(norms) else torch.roll(norms, -(seen % len(norms)))
        return {"norms": in_order.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        kept = state["norms"][-len(self._norms) :]
        self._norms = torch.full((len(self._norms),), torch.nan, dtype=torch.float64)
        self._norms[: len(kept)] = kept
        self._seen = torch.tensor(len(kept))


class ByDeviation(Way):
    """Gradients are scaled down where their norm is a spike.

    Args:
        clip: The clipping.
    """

    def __init__(self, clip: ZClip) -> None:
        self._clip = clip
        self._seen, self._first = torch.tensor(0), torch.zeros(clip.warmup, dtype=torch.float64)
        self._mean, self._variance = torch.zeros(2, dtype=torch.float64).unbind()

    def clip(self, units: Sequence[Gradients], limit: float | None, *, measure: bool) -> Clipped:
        (unit,) = units
        norm = unit.norm()
        self._to(norm.device)
        seen = norm.to(self._mean.dtype)
        allowed = self._allowed(seen)
        self._learn(seen, allowed)
        if limit is not None:
            allowed = torch.clamp(allowed, max=limit)
        coefficient = torch.clamp(allowed / (seen + _EPS), max=1.0)
        coefficient = torch.where(seen.isfinite() & (allowed >= seen), 1.0, coefficient).to(norm.dtype)
        scale_together(unit.parts(unit.present()), coefficient)
        return Clipped(norm, norm * coefficient, (coefficient < 1.0).float(), allowed)

    def _allowed(self, norm: Tensor) -> Tensor:
        """What the norm may be: itself, unless it is a spike."""
        clip = self._clip
        deviation = self._variance.sqrt()
        z = (norm - self._mean) / (deviation + _EPS)
        reached = clip.factor * (self._mean + deviation * clip.threshold**2 / z)
        return torch.where((self._seen >= clip.warmup) & (z > clip.threshold), reached, norm)

    def _learn(self, norm: Tensor, allowed: Tensor) -> None:
        """Take a norm, if it is finite, into the statistics: as it is at first, as it was allowed to be later."""
        clip, finite = self._clip, norm.isfinite()
        first = self._seen < clip.warmup
        at = self._seen.clamp(max=clip.warmup - 1).reshape(1)
        self._first.index_copy_(0, at, torch.where(finite & first, norm, self._first[at]))
        mean = clip.decay * self._mean + (1 - clip.decay) * allowed
        variance = clip.decay * self._variance + (1 - clip.decay) * (allowed - mean) ** 2
        ready = self._seen == clip.warmup - 1
        mean = torch.where(ready, self._first.mean(), mean)
        variance = torch.where(ready, self._first.var(correction=0), variance)
        moves = finite & (ready | ~first)
        self._mean = torch.where(moves, mean, self._mean)
        self._variance = torch.where(moves, variance, self._variance)
        self._seen = self._seen + finite

    def _to(self, device: torch.device) -> None:
        if self._seen.device != device:
            wide = _wide(device)
            self._seen, self._first = self._seen.to(device), self._first.to(device, wide)
            self._mean, self._variance = self._mean.to(device, wide), self._variance.to(device, wide)

    def state_dict(self) -> dict[str, Any]:
        return {
            "seen": int(self._seen),
            "first": self._first.cpu().clone(),
            "mean": float(self._mean),
            "variance": float(self._variance),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        warmup, seen = self._clip.warmup, int(state["seen"])
        learnt = seen >= len(state["first"])  # with another warm-up what was learnt stays, what was not still is to be
        self._seen = torch.tensor(max(seen, warmup) if learnt else min(seen, warmup - 1))
        kept = state["first"][:warmup]
        self._first = torch.zeros(warmup, dtype=torch.float64)
        self._first[: len(kept)] = kept
        self._mean, self._variance = torch.tensor([state["mean"], state["variance"]], dtype=torch.float64).unbind()
