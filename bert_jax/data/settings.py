"""What shapes rows, and the labels and draws that the sampler's rooms share."""

import dataclasses
import enum

from bert_jax.config import DataConfig

IGNORED = -100  # the label of what is not to be predicted, as in torch's cross entropy


class Draw(enum.IntEnum):
    """What a draw of the sampler is for. Numbers are part of a run's identity: never reuse one."""

    ORDER = 0
    TARGET = 1
    SHORT = 2
    SPLIT = 3
    LABEL = 4
    DONOR = 5
    TIES = 6
    ROWS = 7


@dataclasses.dataclass(frozen=True)
class RowSettings:
    """What shapes rows: tokens a row, the objective, whether a row holds several examples, and how a block is cut."""

    seq_len: int
    objective: str
    packing: bool
    short_seq_prob: float
    block_tokens: int
    mlm_documents: str = "within"

    @classmethod
    def of(cls, data: DataConfig, seq_len: int) -> "RowSettings":
        """The settings of a phase with rows of `seq_len` tokens."""
        return cls(seq_len, data.objective, data.packing, data.short_seq_prob, data.block_tokens, data.mlm_documents)

    @property
    def max_examples(self) -> int:
        """Slots for examples in a row, K."""
        return max(1, self.seq_len // 16) if self.packing else 1
