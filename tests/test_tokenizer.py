"""The tokenizer: every text comes back, tags and digits are single tokens, the same texts give the same model."""

import pytest
from etils import epath

from r1jax.base.fields import UserError
from r1jax.data import tokenizer
from r1jax.data.tokenizer import EOS, TAGS, Tokenizer
from r1jax.data.world import World, examples


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> epath.Path:
    path = epath.Path(tmp_path_factory.mktemp("tokenizer")) / "tokenizer.model"
    texts = [e["text"] for e in examples(World(documents=2_000), "pretrain")]
    tokenizer.train(texts, path, vocabulary=512)
    return path


@pytest.mark.parametrize(
    "text",
    ["7+5=2", "  two  spaces ", "line\nbreak\ttab", "<think>7得2</think><answer>2</answer>", "wait等等", "日本? 🜁", ""],
)
def test_every_text_comes_back(trained, text):
    found = Tokenizer(trained)
    assert found.decode(found.encode(text)) == text


def test_tags_and_digits_are_single_tokens(trained):
    found = Tokenizer(trained)
    ids = [found.encode(f"a{tag}b") for tag in TAGS]
    assert [len(i) for i in ids] == [3] * len(TAGS)
    digits = [found.encode(str(digit)) for digit in range(10)]
    assert len(found.encode("5071936248")) == 10 and all(len(i) == 1 for i in digits)
    assert len(found.encode("+5=2")) == 4


def test_eos_vanishes_and_an_id_beyond_the_vocabulary_is_shown(trained):
    found = Tokenizer(trained)
    assert found.decode([*found.encode("so 7"), EOS]) == "so 7"
    assert found.decode([*found.encode("so 7"), 9_999]) == "so 7\ufffd"


def test_the_same_texts_give_the_same_bytes(trained, tmp_path):
    again = epath.Path(tmp_path) / "tokenizer.model"
    tokenizer.train([e["text"] for e in examples(World(documents=2_000), "pretrain")], again, vocabulary=512)
    assert again.read_bytes() == trained.read_bytes()


def test_mistakes_are_named(trained, tmp_path):
    with pytest.raises(UserError, match="no tokenizer at .*; run the stage that prepares it"):
        Tokenizer(epath.Path(tmp_path) / "none")
    pieces = Tokenizer(trained).vocabulary
    with pytest.raises(UserError, match=f"has {pieces} pieces, Transformer.vocabulary is 100; raise it"):
        Tokenizer(trained).check(100)
    with pytest.raises(UserError, match="a vocabulary of 100 pieces does not fit the corpus"):
        tokenizer.train(["a few words"], epath.Path(tmp_path) / "small", vocabulary=100)
