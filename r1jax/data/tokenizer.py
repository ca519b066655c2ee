"""Text to token ids and back: one sentencepiece model with byte fallback.

The ids are fixed: 0 pad, 1 bos, 2 eos, 3 unk, then the template's tags, each one token wherever it stands. Nothing is
normalised, so every text comes back as it was, line breaks and ideographs included. Digits are single tokens.
"""

import io
from collections.abc import Iterable, Sequence

import sentencepiece
from etils import epath

from r1jax.base.fields import UserError, require
from r1jax.base.files import write_atomically

PAD, BOS, EOS, UNK = range(4)
TAGS = ("<think>", "</think>", "<answer>", "</answer>")


def train(texts: Iterable[str], path: epath.Path, *, vocabulary: int) -> None:
    """Trains a byte-pair model of at most `vocabulary` pieces on `texts` and writes it to `path` in one piece.

    The same texts give the same bytes: the number of threads is stored in the model, so it is fixed.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocabulary,
            hard_vocab_limit=False,
            user_defined_symbols=list(TAGS),
            byte_fallback=True,
            split_digits=True,
            pad_id=PAD,
            bos_id=BOS,
            eos_id=EOS,
            unk_id=UNK,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            character_coverage=1.0,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise UserError(
            f"a vocabulary of {vocabulary} pieces does not fit the corpus: {str(error).splitlines()[-1]}"
        ) from error
    write_atomically(path, model.getvalue())


class Tokenizer:
    """A trained model read from `path`."""

    def __init__(self, path: epath.Path):
        require(path.exists(), f"no tokenizer at {path}; run the stage that prepares it")
        self._model = sentencepiece.SentencePieceProcessor(model_proto=path.read_bytes())

    @property
    def vocabulary(self) -> int:
        """The number of pieces; a model's embedding has at least as many rows."""
        return self._model.vocab_size()

    def check(self, rows: int) -> None:
        """UserError where an embedding of `rows` rows lacks some of the pieces."""
        require(
            self.vocabulary <= rows,
            f"the tokenizer has {self.vocabulary} pieces, Transformer.vocabulary is {rows}; raise it to that at least",
        )

    def encode(self, text: str) -> list[int]:
        return self._model.encode(text)

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        return self._model.encode(list(texts))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`; pad, bos and eos vanish, ids beyond the vocabulary become the replacement character."""
        known = self.vocabulary
        if all(i < known for i in ids):
            return self._model.decode([int(i) for i in ids])
        return "".join(self._model.decode([int(i)]) if i < known else "\ufffd" for i in ids)
