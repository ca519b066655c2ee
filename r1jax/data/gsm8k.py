"""GSM8K (2110.14168): grade-school word problems, through tensorflow-datasets from files that lie on this machine.

The files are train.jsonl and test.jsonl of github.com/openai/grade-school-math. The answer is what follows `####`,
without the commas of thousands; the difficulty is the number of calculations in the published solution.
"""

from collections.abc import Callable
from dataclasses import dataclass

from etils import epath
from tensorflow_datasets.text.gsm8k import gsm8k

from r1jax.base.fields import at_least, check, require
from r1jax.data.jsonlines import lines
from r1jax.data.questions import Question
from r1jax.data.records import build


@dataclass(frozen=True, kw_only=True)
class Gsm8k:
    """files: the folder with train.jsonl and test.jsonl. validation: so many questions of the training set are held
    out, the first ones in the order in which tensorflow-datasets shuffles, which is the same on every machine."""

    files: str
    validation: int = 256

    def __post_init__(self):
        check(self)
        at_least(0, self, "validation")

    @property
    def sizes(self) -> dict[str, int]:
        return {}  # not known before the files are read

    def prepare(self, folder: epath.Path, tell: Callable[[int], None]) -> dict[str, int]:
        """Writes the data set below `folder`, unless it is there. UserError where a file is not GSM8K's."""
        for where, row in lines([f"{self.files}/{split}.jsonl" for split in ("train", "test")]):
            whole = isinstance(row.get("question"), str) and str(row.get("answer", "")).count("#### ") == 1
            require(whole, f'{where}: a line of GSM8K has a "question", and an "answer" with one "#### " in it')
        builder = _Builder(folder, self.files)
        build(builder)
        sizes = {split: found.num_examples for split, found in builder.info.splits.items()}
        require(
            self.validation < sizes["train"],
            f"Gsm8k.validation is {self.validation}, the training set has {sizes['train']} questions",
        )
        return {"questions": sizes["train"] - self.validation, "held_out": self.validation + sizes["test"]}

    def questions(self, split: str, folder: epath.Path) -> list[Question]:
        """The questions of split `rl`, `validation` or `test`, in a fixed order."""
        builder = _Builder(folder, self.files)
        require(builder.data_path.exists(), f"no gsm8k in {folder}; run the stage that prepares it")
        source = builder.as_data_source("test" if split == "test" else "train")
        rows = source.__getitems__(range(len(source)))
        if split != "test":
            rows = rows[: self.validation] if split == "validation" else rows[self.validation :]
        return [
            Question(
                id=index,
                text=row["question"].decode().strip(),
                answer=row["short_answer"].decode().strip().replace(",", ""),
                language="en",
                difficulty=row["annotation"].count(b"<<"),
            )
            for index, row in enumerate(rows)
        ]

    def texts(self, folder: epath.Path) -> list[str]:
        return []


class _Builder(gsm8k.Gsm8k, skip_registration=True):
    """Its own builder, which would download, reading local files instead; without TensorFlow it writes ArrayRecord."""

    name = "gsm8k"

    def __init__(self, folder: epath.Path, files: str):
        self._files = epath.Path(files).expanduser()
        super().__init__(data_dir=str(folder), file_format="array_record")

    def _split_generators(self, dl_manager):
        del dl_manager
        return {split: self._generate_examples(self._files / f"{split}.jsonl") for split in ("train", "test")}
