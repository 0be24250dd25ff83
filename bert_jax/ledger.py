"""What a run remembers beside its arrays: where it reads next, what it has counted, how its losses have gone.

A ledger is saved with every checkpoint, so whatever is decided by it is decided alike after a restart.
"""

import dataclasses
import math
from typing import Any

from bert_jax.data.load import Position

FINE, SPIKE, NOT_FINITE = "fine", "spike", "not finite"
_MEMORY = 100  # steps that the running mean looks back
_LEAST_SEEN = 50  # steps of a phase before a spike can be told
_DEVIATIONS, _LEAST_RISE = 6.0, 0.5  # a spike is above the mean by so many standard deviations, and by so many nats


@dataclasses.dataclass(frozen=True)
class Losses:
    """The running mean and variance of a phase's losses, and how many updates were not made.

    `skipped` counts the updates of the run that were left out for a loss or gradient that is no finite number,
    `skipped_in_a_row` those since the last good step.
    """

    phase: int = 0
    seen: int = 0
    mean: float = 0.0
    variance: float = 0.0
    skipped: int = 0
    skipped_in_a_row: int = 0

    def after(self, phase: int, loss: float, grad_norm: float) -> tuple["Losses", str]:
        """Takes in a step; with it goes what the step was: `FINE`, `SPIKE` or `NOT_FINITE`."""
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            more = dict(skipped=self.skipped + 1, skipped_in_a_row=self.skipped_in_a_row + 1)
            return dataclasses.replace(self, **more), NOT_FINITE
        known = self if phase == self.phase else Losses(phase)  # rows of another length have other losses
        rise = loss - known.mean
        limit = max(_DEVIATIONS * math.sqrt(known.variance), _LEAST_RISE)
        spike = known.seen >= _LEAST_SEEN and rise > limit
        taken = limit if spike else rise  # so that a spike does not hide the next one
        share = max(1 / _MEMORY, 1 / (known.seen + 1))
        mean = known.mean + share * taken
        variance = (1 - share) * (known.variance + share * taken * taken)
        return Losses(phase, known.seen + 1, mean, variance, self.skipped), SPIKE if spike else FINE


@dataclasses.dataclass(frozen=True)
class Best:
    """The evaluation with the lowest held-out loss of the phase, after `step` updates."""

    step: int
    phase: int
    loss: float


@dataclasses.dataclass(frozen=True)
class Ledger:
    """See above; `position` is where the next step reads, `tokens` and `examples` what all steps so far have read.
    `went_back` says that since the newest checkpoint, but for those that a signal asked for, the run has gone back.
    """

    position: Position
    tokens: int = 0
    examples: int = 0
    losses: Losses = Losses()
    best: Best | None = None
    went_back: bool = False

    def to_json(self) -> dict[str, Any]:
        """As it is stored in a checkpoint."""
        return dataclasses.asdict(self) | {"position": self.position.to_json()}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "Ledger":
        """The inverse of `to_json`."""
        return cls(
            position=Position.from_json(fields["position"]),
            tokens=fields["tokens"],
            examples=fields["examples"],
            losses=Losses(**fields.get("losses", {})),  # checkpoints of format 1 have neither
            best=Best(**fields["best"]) if fields.get("best") else None,
            went_back=fields.get("went_back", False),
        )

    def with_evaluation(self, step: int, held_out: dict[str, float]) -> "Ledger":
        """The ledger with an evaluation in it, which is the best so far where its losses are the lowest."""
        loss = held_out["mlm_loss"] + held_out.get("nsp_loss", 0.0)
        best = self.best
        if not math.isfinite(loss) or (best and best.phase == self.position.phase and best.loss <= loss):
            return self
        return dataclasses.replace(self, best=Best(step, self.position.phase, loss))

    def passing_over(self, first: int, count: int, phase_ends: list[int]) -> "Ledger":
        """The ledger that will not read the rows of steps `first` to `first + count - 1`, a part for each phase."""
        parts = []
        for start, end in zip([0, *phase_ends], phase_ends, strict=False):
            low, high = max(first, start), min(first + count, end)
            if low < high:
                parts.append((low, high - low))
        position = dataclasses.replace(self.position, skip=(*self.position.skip, *parts))
        return dataclasses.replace(self, position=position, went_back=True)
