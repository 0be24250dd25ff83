"""What a family's mapping table is made of, and how it is read in both directions.

A row of the table ties a parameter of ours to a tensor of theirs. Ours are stacked over layers, cut into heads,
[in, out] and padded in the vocabulary; theirs are one a layer, flat, [out, in] and unpadded. `form` says which of these
apply, and the same row serves export and import.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from bert_jax.config import ModelConfig

Shape = tuple[int, ...]
Params = dict[str, Any]

LAYER = "{layer}"
CARRIED = "carried/"  # how our paths of what a model brings and does not use begin


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
      ours: path in our tree, joined by slashes.
      theirs: name of the tensor; `{layer}` stands for the layer's number where ours is stacked.
      form: "table" (as it is), "vector" (flattened), or "dense" (kernel [in, out] to weight [out, in]).
      inputs: for "dense", how many leading dimensions of the kernel are inputs.
      vocabulary: the first dimension is the vocabulary, padded on our side only.
    """

    ours: str
    theirs: str
    form: str
    inputs: int = 1
    vocabulary: bool = False

    @property
    def stacked(self) -> bool:
        """Whether ours holds all layers."""
        return LAYER in self.theirs

    @property
    def carried(self) -> bool:
        """Whether the model does not use it."""
        return self.ours.startswith(CARRIED)

    def names(self, num_layers: int) -> list[str]:
        """Names of the tensors of this row, a layer each or just one."""
        return [self.theirs.replace(LAYER, str(i)) for i in range(num_layers)] if self.stacked else [self.theirs]

    def shape(self, ours: Shape, vocab_size: int) -> Shape:
        """Shape of one of their tensors, where a layer's parameter on our side has shape `ours`."""
        if self.vocabulary:
            ours = (vocab_size, *ours[1:])
        if self.form == "dense":
            return (math.prod(ours[self.inputs :]), math.prod(ours[: self.inputs]))
        return ours if self.form == "table" else (math.prod(ours),)

    def to_theirs(self, array: np.ndarray, vocab_size: int) -> np.ndarray:
        """One layer's parameter of ours as their tensor, contiguous."""
        if self.vocabulary:
            array = array[:vocab_size]
        if self.form == "dense":
            array = array.reshape(math.prod(array.shape[: self.inputs]), -1).T
        elif self.form == "vector":
            array = array.reshape(-1)
        return np.ascontiguousarray(array)

    def fill_ours(self, array: np.ndarray, tensor: np.ndarray) -> None:
        """Writes their tensor into one layer's parameter of ours; vocabulary rows past theirs stay as they are."""
        if self.vocabulary:
            array = array[: tensor.shape[0]]
        array[...] = (tensor.T if self.form == "dense" else tensor).reshape(array.shape)


@dataclasses.dataclass(frozen=True)
class Family:
    """A family of models: what its Hugging Face classes are called, its table, its config.

    Attributes:
      model_type: as in their config.json.
      prefix: of the encoder's tensors where there is a head; a bare encoder's lack it.
      architectures: their class to our objective (or task).
      bare: the class of the encoder without heads.
      table: the mapping.
      tied: names that are copies of another tensor where they are present; of an untied model its own.
      position_ids: name of a buffer that counts up and is not learned.
      renamed: endings of old tensor names to those of today.
      config_to_hf, config_from_hf: between our config and their config.json's fields.
    """

    model_type: str
    prefix: str
    architectures: Mapping[str, str]
    bare: str
    table: tuple[Row, ...]
    tied: Mapping[str, str]
    position_ids: str
    renamed: Mapping[str, str]
    config_to_hf: Callable[[ModelConfig], dict[str, Any]]
    config_from_hf: Callable[[dict[str, Any], str], ModelConfig]

    @property
    def heads(self) -> tuple[str, ...]:
        """How the names of tensors outside the encoder begin."""
        outside = (row.theirs for row in self.table if not row.theirs.startswith(self.prefix))
        return tuple(dict.fromkeys(name.split(".")[0] + "." for name in outside))

    def architecture(self, objective: str) -> str:
        """Their class for an objective or task."""
        return next(name for name, ours in self.architectures.items() if ours == objective and name != self.bare)

    def copies(self, tensors: Iterable[str]) -> dict[str, str]:
        """Those of `tied` that have no row of the table: of an untied model, what is written twice."""
        own = {row.theirs for row in self.table}
        return {copy: original for copy, original in self.tied.items() if copy not in own and original in tensors}

    def rows(self, tree: Params) -> Iterator[tuple[Row, Any]]:
        """Every leaf of the tree with its row of the table.

        Raises:
          KeyError: a leaf that the table does not know.
        """
        known = {row.ours: row for row in self.table}
        for path, leaf in leaves(tree):
            yield known[path], leaf


def leaves(tree: Params, above: str = "") -> Iterator[tuple[str, Any]]:
    """(path joined by slashes, leaf) of a nested dict, in order."""
    for name, value in tree.items():
        path = f"{above}{name}"
        if isinstance(value, dict):
            yield from leaves(value, f"{path}/")
        else:
            yield path, value


def nest(pairs: Iterable[tuple[str, Any]]) -> Params:
    """The inverse of `leaves`."""
    tree: Params = {}
    for path, value in pairs:
        *groups, name = path.split("/")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
        node[name] = value
    return tree


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One of their tensors, made when it is asked for: of a large model a second copy is never whole in memory.

    `make()` gives a contiguous float32 array of `shape`; `dtype` is the kind of numbers to write it in.
    """

    shape: Shape
    make: Callable[[], np.ndarray]
    dtype: str = "float32"


def to_tensors(family: Family, config: ModelConfig, params: Params) -> dict[str, Tensor]:
    """Our parameters as their tensors, by name."""
    tensors: dict[str, Tensor] = {}
    carried: dict[str, Tensor] = {}
    for row, array in family.rows(params):
        shape = row.shape(array.shape[1:] if row.stacked else array.shape, config.vocab_size)
        for layer, name in enumerate(row.names(config.num_layers)):
            make = functools.partial(_tensor, row, array, layer if row.stacked else None, config.vocab_size)
            (carried if row.carried else tensors)[name] = Tensor(shape, make)
    if not config.tie_word_embeddings:
        # transformers gives an untied decoder a bias of its own, which is the one in use, and keeps the other.
        tensors |= {copy: tensors[original] for copy, original in family.copies(tensors).items()}
    return tensors | carried


def _tensor(row: Row, array: Any, layer: int | None, vocab_size: int) -> np.ndarray:
    whole = np.asarray(array)
    return row.to_theirs(np.asarray(whole if layer is None else whole[layer], np.float32), vocab_size)
