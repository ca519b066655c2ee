"""Data sets on the disk: written through tensorflow-datasets as ArrayRecord, read at random, without TensorFlow.

A data set that is complete is never written again; one that was cut off is written anew. Other settings are another
data set: their fingerprint names its folder.
"""

import contextlib
import dataclasses
import io
import zlib
from collections.abc import Callable, Iterable

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from r1jax.base.fields import require

tfds.disable_progress_bar()  # r1jax shows its own

_FEATURES = {str: tfds.features.Text, int: lambda: np.int64, float: lambda: np.float64}


@dataclasses.dataclass(frozen=True)
class Records:
    """The data set `name` below `folder`. settings: whatever it is a function of, told apart by its repr. fields: the
    type of each field of a row, str, int or float."""

    folder: epath.Path
    name: str
    settings: object
    fields: dict[str, type]

    def write(
        self, splits: dict[str, Callable[[], Iterable[dict]]], tell: Callable[[int], None] = lambda count: None
    ) -> None:
        """Writes the rows of each split, unless they are there; `tell` hears how many are written."""
        build(_Builder(self, splits, tell))

    def read(self, split: str) -> list[dict]:
        """The rows of one split, in the order in which they were written."""
        builder = _Builder(self, {}, lambda count: None)
        require(
            builder.data_path.exists(),
            f"no data set {self.name} of these settings in {self.folder}; run the stage that prepares it",
        )
        source = builder.as_data_source(split)
        text = [name for name, kind in self.fields.items() if kind is str]
        plain = [name for name, kind in self.fields.items() if kind is not str]
        return [
            {name: row[name].decode() for name in text} | {name: row[name] for name in plain}
            for row in source.__getitems__(range(len(source)))
        ]


def build(builder: tfds.core.DatasetBuilder) -> None:
    """Writes the data set of a builder, unless it is there."""
    for unfinished in builder.data_path.parent.glob("incomplete.*"):  # what a killed run left
        unfinished.rmtree()
    with contextlib.redirect_stdout(io.StringIO()):  # tensorflow-datasets speaks of downloads; there are none
        builder.download_and_prepare()


class _Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, records: Records, splits: dict[str, Callable[[], Iterable[dict]]], tell: Callable[[int], None]):
        self.name = records.name
        self._fields, self._splits, self._tell, self._written = records.fields, splits, tell, 0
        fingerprint = f"{zlib.crc32(repr(records.settings).encode()):08x}"
        config = tfds.core.BuilderConfig(name=fingerprint, version=self.VERSION, description=repr(records.settings))
        super().__init__(data_dir=str(records.folder), file_format="array_record", config=config)

    def _info(self):
        features = {name: _FEATURES[kind]() for name, kind in self._fields.items()}
        features = tfds.features.FeaturesDict(features)
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, download_manager):
        del download_manager
        return {split: self._generate_examples(rows) for split, rows in self._splits.items()}

    def _generate_examples(self, rows: Callable[[], Iterable[dict]]):
        for index, row in enumerate(rows()):
            self._written += 1
            if self._written % 1000 == 0:
                self._tell(self._written)
            yield index, row
