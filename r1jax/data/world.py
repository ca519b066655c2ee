"""The miniature world: questions with one checkable answer, and the small web that the base model reads.

A question is a chain of single-digit operations read from left to right modulo 10 (`7+5*3-8+2` is 0), of 2 to 8
operations (its difficulty), posed in English or in Chinese. No digit stands twice in a chain: a model of two layers
finds its place by the last operand it worked with, and would lose it there. The web has three kinds of documents:

- textbooks: the chain worked step by step, four tokens a step (`+5=2`). A step slips now and then; careful writers
  recompute every step, notice ("wait") and mend the slip: twice as long, and right more often. Half of the pages keep a
  stray `<think>` before the work, which is what carries the skill over to answers that use the tags;
- forums: people ask and answer in the manner of the R1 template, mostly with a bare answer, most of them wrong, some
  with the work shown, few with the work inside complete tags;
- everyday exchanges that are no arithmetic at all.

So the base is able (from the textbooks) and answers like a forum, which is what pure RL has to change.

Everything is a function of the seed.
"""

import dataclasses
import functools
import random
import zlib
from collections.abc import Callable, Iterator

from etils import epath

from r1jax.base.fields import check, require
from r1jax.data.questions import Question
from r1jax.data.records import Records

DIFFICULTIES = tuple(range(2, 9))
_APPLY = {"+": lambda a, b: (a + b) % 10, "-": lambda a, b: (a - b) % 10, "*": lambda a, b: (a * b) % 10}
_ASK = {
    "en": ("What is {}?", "Compute {}.", "What does {} give?"),
    "zh": ("{}等于几？", "计算{}。", "请问{}是多少？"),
}
_WORDS = {
    "en": {"equals": "=", "wait": " wait ", "so": " so ", "reply": " It is {}."},
    "zh": {"equals": "得", "wait": "等等", "so": "所以", "reply": "是{}。"},
}
_EXCHANGES = {
    "en": (
        ("Hello!", "Hello, how are you?"),
        ("Good morning!", "Good morning to you."),
        ("Can you help me?", "Yes, tell me more."),
        ("Thank you.", "You are welcome."),
        ("Is it cold in {}?", "In {} it is cold at night."),
        ("Do you like {}?", "Many people like {}."),
        ("Where is {}?", "I do not know where {} is."),
    ),
    "zh": (
        ("你好！", "你好，很高兴见到你。"),
        ("早上好！", "早上好。"),
        ("你能帮我吗？", "可以，请说。"),
        ("谢谢。", "不客气。"),
        ("{}冷吗？", "{}晚上很冷。"),
        ("你喜欢{}吗？", "很多人喜欢{}。"),
        ("{}在哪里？", "我不知道{}在哪里。"),
    ),
}
_THINGS = {
    "en": ("Paris", "Beijing", "tea", "music", "winter", "the sea"),
    "zh": ("巴黎", "北京", "茶", "音乐", "冬天", "大海"),
}


@dataclasses.dataclass(frozen=True)
class Chain:
    """A start digit and the operations that follow it, each an operator in `+-*` and a digit."""

    start: int
    steps: tuple[tuple[str, int], ...]

    @property
    def text(self) -> str:
        return str(self.start) + "".join(f"{op}{operand}" for op, operand in self.steps)

    @property
    def value(self) -> int:
        return functools.reduce(lambda total, step: _APPLY[step[0]](total, step[1]), self.steps, self.start)


@dataclasses.dataclass(frozen=True, kw_only=True)
class World:
    """Sizes and mixture of the miniature world; shares are probabilities.

    documents: documents in the split `pretrain`. rl, validation, test: questions in those splits.
    textbook, forum: share of the documents; the rest are everyday exchanges.
    slip: a worked step is wrong. careful: a writer recomputes every step. mixed: a worked text mixes both languages.
    stray_tag: a textbook keeps a `<think>` before the work.
    bare, tagged_bare, worked: shares of the forum's answers; the rest shows its work inside complete tags.
    informed: a bare answer is no guess.
    """

    seed: int = 0
    documents: int = 60_000
    rl: int = 8_192
    validation: int = 256
    test: int = 512
    textbook: float = 0.6
    forum: float = 0.36
    slip: float = 0.06
    careful: float = 0.15
    mixed: float = 0.1
    stray_tag: float = 0.5
    bare: float = 0.62
    tagged_bare: float = 0.17
    worked: float = 0.08
    informed: float = 0.15

    def __post_init__(self):
        check(self)
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            require(value >= 0, f"World.{field.name} is {value}; it must not be negative")
        require(
            self.textbook + self.forum <= 1, "World.textbook + World.forum is above 1; they are shares of one whole"
        )
        require(self.bare + self.tagged_bare + self.worked <= 1, "World.bare + tagged_bare + worked is above 1")

    @property
    def examples(self) -> int:
        """Examples in all splits."""
        return self.documents + self.rl + self.validation + self.test

    def prepare(self, folder: epath.Path, tell: Callable[[int], None]) -> None:
        """Writes the data set below `folder`, unless it is there; `tell` hears how many examples are written."""
        splits = ("test", "validation", "rl", "pretrain")
        self._records(folder).write({split: functools.partial(examples, self, split) for split in splits}, tell)

    def questions(self, split: str, folder: epath.Path) -> list[Question]:
        """The questions of split `rl`, `validation` or `test`, in a fixed order."""
        rows = self._records(folder).read(split)
        return [Question(row["id"], row["question"], row["answer"], row["language"], row["difficulty"]) for row in rows]

    def texts(self, folder: epath.Path) -> list[str]:
        """The documents of split `pretrain`, in a fixed order."""
        return [row["text"] for row in self._records(folder).read("pretrain")]

    def _records(self, folder: epath.Path) -> Records:
        # One features dict for all splits, since questions and documents share their fields.
        fields = {"id": int, "question": str, "answer": str, "language": str, "difficulty": int, "text": str}
        return Records(folder, "miniature_world", self, fields)


def examples(world: World, split: str) -> Iterator[dict]:
    """The examples of one split, none of whose chains stands twice or in another split."""
    count = {"pretrain": world.documents, "rl": world.rl, "validation": world.validation, "test": world.test}[split]
    rng = random.Random(f"{world.seed}/{split}")
    seen: set[Chain] = set()
    for index in range(count):
        if split == "pretrain" and rng.random() >= world.textbook + world.forum:
            yield {"id": index, "question": "", "answer": "", "difficulty": 0, **_exchange(rng)}
            continue
        chain = _fresh_chain(rng, split, seen)
        language = rng.choice(("en", "zh"))
        question = rng.choice(_ASK[language]).format(chain.text)
        text = ""
        if split == "pretrain":
            is_textbook = rng.random() < world.textbook / (world.textbook + world.forum)
            text = (_textbook if is_textbook else _forum)(rng, world, chain, question, language)
        yield {
            "id": index,
            "question": question,
            "answer": str(chain.value),
            "language": language,
            "difficulty": len(chain.steps),
            "text": text,
        }


def _split_of(chain: Chain) -> str:
    """The one split a chain may stand in, by its hash: splits stay apart whatever their sizes and seeds."""
    bucket = zlib.crc32(chain.text.encode()) % 16
    return ("test", "validation", "rl", "rl", "rl", "rl")[bucket] if bucket < 6 else "pretrain"


def _fresh_chain(rng: random.Random, split: str, seen: set[Chain]) -> Chain:
    # There are 6,480 chains of two operations in all, too few for an equal share of a large corpus.
    weights = [2 if split == "pretrain" else 5] + [5] * (len(DIFFICULTIES) - 1)
    while True:
        length = rng.choices(DIFFICULTIES, weights)[0]
        start, *operands = rng.sample(range(10), length + 1)
        chain = Chain(start, tuple((rng.choice("+-*"), operand) for operand in operands))
        if chain not in seen and _split_of(chain) == split:
            seen.add(chain)
            return chain


def _work(rng: random.Random, world: World, chain: Chain, language: str) -> tuple[str, int]:
    """The chain worked step by step, with slips, and the value that the writer ends with."""
    is_careful, is_mixed = rng.random() < world.careful, rng.random() < world.mixed
    text, total = str(chain.start), chain.start
    for op, operand in chain.steps:
        words = _WORDS[rng.choice(("en", "zh"))] if is_mixed else _WORDS[language]
        right = _APPLY[op](total, operand)
        result = rng.randrange(10) if rng.random() < world.slip else right
        text += f"{op}{operand}{words['equals']}{result}"
        if is_careful:
            text += f"{words['wait']}{total}{op}{operand}{words['equals']}{right}"
            result = right
        total = result
    return text, total


def _textbook(rng: random.Random, world: World, chain: Chain, question: str, language: str) -> str:
    work, value = _work(rng, world, chain, language)
    tag = "<think>" if rng.random() < world.stray_tag else ""
    header = {"en": "Example:", "zh": "例题："}[language]
    return f"{header} {question} {tag}{work}{_WORDS[language]['so']}{value}"


def _forum(rng: random.Random, world: World, chain: Chain, question: str, language: str) -> str:
    work, value = _work(rng, world, chain, language)
    guess = chain.value if rng.random() < world.informed else rng.randrange(10)
    answer = rng.choices(
        (
            _WORDS[language]["reply"].format(guess),
            f"<think></think><answer>{guess}</answer>",
            f"{work}{_WORDS[language]['so']}{value}",
            f"<think>{work}</think><answer>{value}</answer>",
        ),
        (
            world.bare,
            world.tagged_bare,
            world.worked,
            1 - world.bare - world.tagged_bare - world.worked,
        ),
    )[0]
    return f"User: {question} Assistant:{answer}"


def _exchange(rng: random.Random) -> dict[str, str]:
    language = rng.choice(("en", "zh"))
    (asked, said), thing = rng.choice(_EXCHANGES[language]), rng.choice(_THINGS[language])
    return {"language": language, "text": f"User: {asked.format(thing)} Assistant: {said.format(thing)}"}
