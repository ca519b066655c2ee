"""The miniature world: questions, and the small web that the base model reads.

Questions are chains of operations and functions (data/problems.py) and everyday requests (data/requests.py), in
English or in Chinese. The web has three kinds of documents:

- textbooks: problems worked, `stride` operations at a time. A step slips now and then; careful writers check one by one
  ("wait") and mend the slip: longer, and right more often. With a stride of 3 the first attempt of a model this small
  stays uncertain however much it is trained, so that checking goes on to pay. Half of the pages keep a stray `<think>`
  before the work, which is what carries the skill over to answers that use the tags;
- forums: people ask and answer in the manner of the R1 template, mostly with a bare answer, most of them wrong, some
  with the work shown, few with the work inside complete tags; requests they answer curtly;
- everyday exchanges that are no question at all.

So the base is able (from the textbooks) and answers like a forum, which is what pure RL has to change.

Everything is a function of the seed.
"""

import dataclasses
import functools
import json
import random
import zlib
from collections.abc import Callable, Iterator

from etils import epath

from r1jax.base.fields import UserError, at_least, between, check, require
from r1jax.data.examples import Example
from r1jax.data.problems import WORDS, Chain, Function, Problem, Writer
from r1jax.data.questions import Question
from r1jax.data.records import Records
from r1jax.data.requests import Request
from r1jax.data.template import Template

_REPLY = {"en": " It is {}.", "zh": "是{}。"}
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class World:
    """Sizes and mixture of the miniature world; shares are probabilities.

    documents: documents in the split `pretrain`. rl, validation, test: questions in those splits.
    functions, helpful, harmless: shares of the questions; the rest are chains.
    textbook, forum: share of the documents; the rest are everyday exchanges.
    slip: a worked step is wrong. stride: operations of a chain that writers do at once. careful: a writer checks.
    mixed: a worked text mixes both languages; careful_mixed: such a writer checks, None: as often as others.
    stray_tag: a textbook keeps a `<think>` before the work.
    bare, tagged_bare, worked: shares of the forum's answers; the rest shows its work inside complete tags.
    informed: a bare answer is no guess. virtue, taught: a reply to a request, in a forum and in `general`, has each
    of the things that make it good.
    """

    seed: int = 0
    documents: int = 60_000
    rl: int = 8_192
    validation: int = 256
    test: int = 512
    functions: float = 0.0
    helpful: float = 0.0
    harmless: float = 0.0
    textbook: float = 0.6
    forum: float = 0.36
    slip: float = 0.06
    stride: int = 1
    careful: float = 0.15
    mixed: float = 0.1
    careful_mixed: float | None = None
    stray_tag: float = 0.5
    bare: float = 0.62
    tagged_bare: float = 0.17
    worked: float = 0.08
    informed: float = 0.15
    virtue: float = 0.4
    taught: float = 0.8

    def __post_init__(self):
        check(self)
        numbers = [field.name for field in dataclasses.fields(self) if field.type is int]
        at_least(0, self, *numbers)
        at_least(1, self, "stride")
        between(0, 1, self, *(field.name for field in dataclasses.fields(self) if field.name not in numbers))
        require(
            self.textbook + self.forum <= 1, "World.textbook + World.forum is above 1; they are shares of one whole"
        )
        require(self.bare + self.tagged_bare + self.worked <= 1, "World.bare + tagged_bare + worked is above 1")
        require(sum(self._shares) <= 1, "World.functions + helpful + harmless is above 1")

    @property
    def _shares(self) -> tuple[float, ...]:
        return self.functions, self.helpful, self.harmless

    @property
    def sizes(self) -> dict[str, int]:
        """Examples in each split."""
        return {"test": self.test, "validation": self.validation, "rl": self.rl, "pretrain": self.documents}

    def prepare(self, folder: epath.Path, tell: Callable[[int], None]) -> dict[str, int]:
        """Writes the data set below `folder`, unless it is there; `tell` hears how many examples are written."""
        self._records(folder).write({split: functools.partial(examples, self, split) for split in self.sizes}, tell)
        return {"documents": self.documents, "questions": self.rl}

    def questions(self, split: str, folder: epath.Path) -> list[Question]:
        """The questions of split `rl`, `validation` or `test`, in a fixed order."""
        return [
            Question(
                id=row["id"],
                text=row["question"],
                answer=row["answer"],
                language=row["language"],
                difficulty=row["difficulty"],
                domain=row["domain"],
                tests=tuple(map(tuple, json.loads(row["tests"]))),
                facts=tuple(map(tuple, json.loads(row["facts"]))),
                reference=row["text"],
            )
            for row in self._records(folder).read(split)
        ]

    def texts(self, folder: epath.Path) -> list[str]:
        """The documents of split `pretrain`, in a fixed order."""
        return [row["text"] for row in self._records(folder).read("pretrain")]

    def general(self, count: int, template: Template) -> list[Example]:
        """Replies to requests of the split `pretrain` by somebody well-mannered, in the form 'chat': what fine-tuning
        adds to the reasoning (R1 paper, supplement B.3.3, the non-reasoning data)."""
        rng = random.Random(f"{self.seed}/general")
        found = []
        while len(found) < count:
            harmful = rng.random() * (self.helpful + self.harmless) < self.harmless
            request = Request.draw(rng, "harmless" if harmful else "helpful")
            if _split_of(request.text) == "pretrain":
                text = f"<think>{request.thought()}</think>{request.reply(rng, self.taught)}"
                prompt, number = template.render(request.text), len(found)
                found.append(
                    Example(prompt, text, request.domain, request.language, number, 0, self.seed, "general", 0.0, "{}")
                )
        return found

    def _records(self, folder: epath.Path) -> Records:
        # One features dict for all splits, since questions and documents share their fields.
        texts = dict.fromkeys(("question", "answer", "language", "domain", "tests", "facts", "text"), str)
        return Records(folder, "miniature_world", self, {"id": int, "difficulty": int} | texts)


def examples(world: World, split: str) -> Iterator[dict]:
    """The examples of one split. No problem stands twice, and no question in two splits; documents may ask the same."""
    rng = random.Random(f"{world.seed}/{split}")
    seen: set[str] = set()
    for index in range(world.sizes[split]):
        if split == "pretrain" and rng.random() >= world.textbook + world.forum:
            none = {"question": "", "answer": "", "difficulty": 0, "domain": "", "tests": "[]", "facts": "[]"}
            yield {"id": index, **none, **_exchange(rng)}
            continue
        found = _fresh(rng, world, split, seen)
        if isinstance(found, Request):
            language, question = found.language, found.text
        else:
            language = rng.choice(("en", "zh"))
            question = found.ask(rng, language)
        yield {
            "id": index,
            "question": question,
            "answer": found.answer,
            "language": language,
            "difficulty": found.difficulty,
            "domain": found.domain,
            "tests": json.dumps(found.tests),
            "facts": json.dumps(found.facts),
            "text": _text(rng, world, split, found, question, language),
        }


def _text(rng: random.Random, world: World, split: str, found: Problem | Request, question: str, language: str) -> str:
    """A document of the split `pretrain`; of the others, to a request, the reply that others are compared with."""
    if split != "pretrain":
        return found.reply(rng, world.taught) if isinstance(found, Request) else ""
    if isinstance(found, Request):
        return f"User: {question} Assistant: {found.reply(rng, world.virtue)}"
    is_textbook = rng.random() < world.textbook / (world.textbook + world.forum)
    return (_textbook if is_textbook else _forum)(rng, world, found, question, language)


def _split_of(text: str) -> str:
    """The one split a question may stand in, by its hash: splits stay apart whatever their sizes and seeds."""
    bucket = zlib.crc32(text.encode()) % 16
    return ("test", "validation", "rl", "rl", "rl", "rl")[bucket] if bucket < 6 else "pretrain"


def _fresh(rng: random.Random, world: World, split: str, seen: set[str]) -> Problem | Request:
    # There are 6,480 chains of two operations in all, too few for an equal share of a large corpus.
    weights = [2 if split == "pretrain" else 5] + [5] * 6
    draws = (
        functools.partial(Function.draw, rng),
        functools.partial(Request.draw, rng, "helpful"),
        functools.partial(Request.draw, rng, "harmless"),
        functools.partial(Chain.draw, rng, weights),
    )
    shares = world._shares
    draw = rng.choices(draws, (*shares, 1 - sum(shares)))[0] if any(shares) else draws[-1]
    for _ in range(10_000):
        found = draw()
        may_repeat = split == "pretrain" and isinstance(found, Request)
        if (may_repeat or found.text not in seen) and _split_of(found.text) == split:
            seen.add(found.text)
            return found
    raise UserError(f"the miniature world has too few questions of one kind for split {split!r}; make it smaller")


def _work(rng: random.Random, world: World, problem: Problem, language: str) -> tuple[str, str]:
    """The problem worked, with slips, and the answer that the writer ends with."""
    care, is_mixed = rng.random(), rng.random() < world.mixed
    careful = world.careful if world.careful_mixed is None or not is_mixed else world.careful_mixed
    return problem.work(rng, Writer(language, world.slip, care < careful, is_mixed, world.stride))


def _textbook(rng: random.Random, world: World, problem: Problem, question: str, language: str) -> str:
    work, value = _work(rng, world, problem, language)
    tag = "<think>" if rng.random() < world.stray_tag else ""
    header = {"en": "Example:", "zh": "例题："}[language]
    return f"{header} {question} {tag}{work}{WORDS[language]['so']}{value}"


def _forum(rng: random.Random, world: World, problem: Problem, question: str, language: str) -> str:
    work, value = _work(rng, world, problem, language)
    guess = problem.answer if rng.random() < world.informed else problem.guess(rng)
    answer = rng.choices(
        (
            _REPLY[language].format(guess),
            f"<think></think><answer>{guess}</answer>",
            f"{work}{WORDS[language]['so']}{value}",
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
