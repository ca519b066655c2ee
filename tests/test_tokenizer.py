"""The tokenizer: every text comes back, tags and digits are single tokens, the same texts give the same model; and one
in Hugging Face's format gives the ids that its own library gives."""

import json

import pytest
import tokenizers
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
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match="no tokenizer at .*; run the stage that prepares it"):
            Tokenizer(epath.Path(path))
    damaged = epath.Path(tmp_path) / "tokenizer.model"
    for model, said in ((b"", "is empty"), (trained.read_bytes()[:5000], "is no model of sentencepiece")):
        damaged.write_bytes(model)
        with pytest.raises(UserError, match=f"tokenizer.model {said}; copy or download it again"):
            Tokenizer(damaged)
    pieces = Tokenizer(trained).vocabulary
    with pytest.raises(UserError, match=f"has {pieces} pieces, Transformer.vocabulary is 100; raise it"):
        Tokenizer(trained).check(100)
    with pytest.raises(UserError, match="a vocabulary of 100 pieces does not fit the corpus"):
        tokenizer.train(["a few words"], epath.Path(tmp_path) / "small", vocabulary=100)


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> epath.Path:
    """A folder as a model is published: byte-level BPE, <think> and two tokens that end something, one by name."""
    folder = tmp_path_factory.mktemp("published")
    found = tokenizers.Tokenizer(tokenizers.models.BPE())
    found.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<begin>", "<end>"],
        show_progress=False,
    )
    found.train_from_iterator([e["text"] for e in examples(World(documents=500), "pretrain")], trainer)
    found.add_special_tokens(["<|turn|>"])
    found.add_tokens(["<think>"])
    found.post_processor = tokenizers.processors.TemplateProcessing(
        single="<begin> $A", special_tokens=[("<begin>", found.token_to_id("<begin>"))]
    )
    found.enable_truncation(3)
    found.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "<end>"}}))
    return epath.Path(folder)


@pytest.mark.parametrize("text", ["7+5=2", "  two  spaces\n", "<think>7得2</think>", "日本? 🜁", "", "a<|turn|>b"])
def test_a_published_tokenizer_gives_the_ids_of_its_own_library(published, text):
    found, oracle = Tokenizer(published), tokenizers.Tokenizer.from_file(str(published / "tokenizer.json"))
    oracle.no_truncation()
    ids = found.encode(text)
    assert [oracle.token_to_id("<begin>"), *ids] == oracle.encode(text).ids  # which the template adds
    assert found.decode(ids) == text
    assert found.encode_all([text, "other"]) == [ids, found.encode("other")]


def test_the_end_of_a_published_tokenizer(published):
    found, oracle = Tokenizer(published), tokenizers.Tokenizer.from_file(str(published / "tokenizer.json"))
    assert found.eos == oracle.token_to_id("<end>") and found.vocabulary == oracle.get_vocab_size()
    assert found.encode("<think>") == [oracle.token_to_id("<think>")]
    assert found.decode([*found.encode("so 7"), found.eos]) == "so 7"
    assert found.decode([*found.encode("so 7"), 9_999, *found.encode("得")]) == "so 7\ufffd得"


def test_a_tokenizer_is_copied_with_the_end_that_is_wanted(published, trained, tmp_path):
    target = epath.Path(tmp_path)
    tokenizer.copy(published, target / "same")
    assert Tokenizer(target / "same").eos == Tokenizer(published).eos
    tokenizer.copy(published, target / "other", eos="<|turn|>")
    assert Tokenizer(target / "other").encode("a<|turn|>")[-1] == Tokenizer(target / "other").eos
    tokenizer.copy(target / "other", target / "again")
    assert Tokenizer(target / "again").eos == Tokenizer(target / "other").eos
    tokenizer.copy(trained.parent, target / "trained")
    assert (target / "trained" / "tokenizer.model").read_bytes() == trained.read_bytes()
    assert Tokenizer(target / "trained").eos == EOS


def test_mistakes_with_a_published_tokenizer_are_named(published, trained, tmp_path):
    target = epath.Path(tmp_path)
    (target / "bare").mkdir()
    (target / "bare" / "tokenizer.json").write_bytes((published / "tokenizer.json").read_bytes())
    with pytest.raises(UserError, match="bare/tokenizer_config.json names no eos_token; say with eos which"):
        tokenizer.copy(target / "bare", target / "copy")
    tokenizer.copy(target / "bare", target / "copy", eos="<stop>")
    with pytest.raises(UserError, match="tokenizer.json has no token '<stop>', which shall end a response"):
        Tokenizer(target / "copy")
    (target / "copy" / "tokenizer.json").write_text("version https://git-lfs")
    with pytest.raises(UserError, match="tokenizer.json is no tokenizer .*; copy or download it again"):
        Tokenizer(target / "copy")
    (target / "bare" / "tokenizer_config.json").write_text('{"eos_token": "<e')
    with pytest.raises(UserError, match="tokenizer_config.json is no JSON .*: copy or download it again"):
        tokenizer.copy(target / "bare", target / "copy")
    (target / "bare" / "tokenizer_config.json").write_text('{"eos_token": {}}')
    with pytest.raises(UserError, match="tokenizer_config.json names no eos_token"):
        tokenizer.copy(target / "bare", target / "copy")
    with pytest.raises(UserError, match="no tokenizer.json or tokenizer.model in"):
        tokenizer.copy(target, target / "copy")
    with pytest.raises(UserError, match="tokenizer.model has its own token that ends a response"):
        tokenizer.copy(trained.parent, target / "copy", eos="<end>")
