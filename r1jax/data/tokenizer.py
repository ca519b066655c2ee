"""Text to token ids and back: a model trained here, or the one of a published model.

`train` makes a sentencepiece model with byte fallback, `tokenizer.model`. Its ids are fixed: 0 pad, 1 bos, 2 eos, 3
unk, then the template's tags, each one token wherever it stands. Nothing is normalised, so every text comes back as it
was, line breaks and ideographs included. Digits are single tokens.

`tokenizer.json` is read by Hugging Face's tokenizers; the token that ends a response is named by `eos_token` in the
tokenizer_config.json beside it. No other token is added to a text: a model that wants one at the beginning, as
DeepSeek-V3 does, has it in its template.
"""

import io
import itertools
import json
from collections.abc import Iterable, Sequence

import sentencepiece
import tokenizers
from etils import epath

from r1jax.base.fields import UserError, require
from r1jax.base.files import read_json, write_atomically

PAD, BOS, EOS, UNK = range(4)
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
TRAINED, PUBLISHED, CONFIG = "tokenizer.model", "tokenizer.json", "tokenizer_config.json"  # names of files
DAMAGED = "copy or download it again"


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


def copy(source: epath.Path, folder: epath.Path, eos: str | None = None) -> None:
    """Puts the tokenizer of another folder, of a stage or a published model, into `folder`. eos: the token that ends a
    response, for a tokenizer.json; None: the one that the folder's tokenizer_config.json names."""
    if not (source / PUBLISHED).exists():
        path = source / TRAINED
        require(path.exists(), f"no {PUBLISHED} or {TRAINED} in {source}")
        require(eos is None, f"{path} has its own token that ends a response; leave eos away")
        write_atomically(folder / TRAINED, path.read_bytes())
        return
    eos = eos or _eos(source)
    write_atomically(folder / CONFIG, json.dumps({"eos_token": eos}, ensure_ascii=False) + "\n")
    write_atomically(folder / PUBLISHED, (source / PUBLISHED).read_bytes())


class Tokenizer:
    """The tokenizer in a folder, which a stage prepared or a model was published in; or one tokenizer.model."""

    def __init__(self, path: epath.Path):
        kind = _Published if (path / PUBLISHED).exists() else _Trained
        self._model = kind(path)

    @property
    def vocabulary(self) -> int:
        """One more than the highest id; a model's embedding has at least as many rows."""
        return self._model.vocabulary

    @property
    def eos(self) -> int:
        """The id that ends a document or a response."""
        return self._model.eos

    def check(self, rows: int) -> None:
        """UserError where an embedding of `rows` rows lacks some of the pieces."""
        require(
            self.vocabulary <= rows,
            f"the tokenizer has {self.vocabulary} pieces, Transformer.vocabulary is {rows}; raise it to that at least",
        )

    def encode(self, text: str) -> list[int]:
        return self._model.encode_all([text])[0]

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        return self._model.encode_all(list(texts))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`; pad, bos and eos vanish (of a published tokenizer, eos), ids beyond the vocabulary become
        the replacement character."""
        known = self.vocabulary
        runs = itertools.groupby(map(int, ids), key=lambda i: i < known)
        return "".join(
            self._model.decode(list(run)) if is_known else "\ufffd" * len(list(run)) for is_known, run in runs
        )


class _Trained:
    """sentencepiece."""

    def __init__(self, path: epath.Path):
        path = path / TRAINED if path.is_dir() else path
        require(path.exists(), f"no tokenizer at {path}; run the stage that prepares it")
        model = path.read_bytes()
        try:
            require(len(model) > 0, f"{path} is empty; {DAMAGED}")  # which the library takes for a model
            self._model = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise UserError(f"{path} is no model of sentencepiece; {DAMAGED}") from error
        self.vocabulary, self.eos = self._model.vocab_size(), self._model.eos_id()
        self.encode_all, self.decode = self._model.encode, self._model.decode


class _Published:
    """Hugging Face's tokenizers."""

    def __init__(self, folder: epath.Path):
        path = folder / PUBLISHED
        try:
            self._model = tokenizers.Tokenizer.from_str(path.read_text())
        except Exception as error:  # the library raises nothing narrower
            raise UserError(f"{path} is no tokenizer ({error}); {DAMAGED}") from error
        self._model.no_truncation()
        self._model.no_padding()
        eos = _eos(folder)
        self.vocabulary, self.eos = max(self._model.get_vocab().values()) + 1, self._model.token_to_id(eos)
        require(self.eos is not None, f"{path} has no token {eos!r}, which shall end a response; name another")

    def encode_all(self, texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._model.encode_batch(texts, add_special_tokens=False)]

    def decode(self, ids: list[int]) -> str:
        return self._model.decode([i for i in ids if i != self.eos], skip_special_tokens=False)


def _eos(folder: epath.Path) -> str:
    path = folder / CONFIG
    found = read_json(path, remedy=DAMAGED).get("eos_token") if path.exists() else None
    found = found.get("content") if isinstance(found, dict) else found
    require(isinstance(found, str), f"{path} names no eos_token; say with eos which token ends a response")
    return found
