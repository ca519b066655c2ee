"""Questions of a user's own: files of one JSON object a line, and documents to pretrain on.

    {"question": "What is 7+5?", "answer": "12"}
    {"question": "8-3等于几？", "answer": "5", "language": "zh", "difficulty": 2}
    {"question": "Write double(x).", "domain": "code", "tests": [["double(4)", "8"]]}

Trap: a data set that is complete is never written again. Changed files want another folder.
"""

import ast
import json
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from etils import epath

from r1jax.base.fields import UserError, at_least, check, require
from r1jax.data.examples import Example
from r1jax.data.overlap import apart
from r1jax.data.questions import Question
from r1jax.data.records import Records
from r1jax.data.template import Template

_TEXTS = dict.fromkeys(("text", "answer", "language", "domain", "tests", "reference"), str)
Reply = tuple[str, Question, str]  # file:line, what is asked, what is replied
_FIELDS = {"id": int, "difficulty": int} | _TEXTS


@dataclass(frozen=True, kw_only=True)
class JsonLines:
    """rl, validation, test: the files of each split. A line has "question" and "answer" (a number, or text, empty where
    no rule can check a reply), and where they differ from what is assumed "language" ('en'; or 'zh'), "domain"
    ('math'), "difficulty" (0) and "tests" (none; pairs of a call and the Python literal that it gives; such a line
    needs no answer) and "reference" (none; a reply that a judge may compare with). Other keys are left alone.
    documents: files of lines with "text". replies: files of lines with "question" and "completion", and what else a
    question may have: examples that fine-tuning adds to the reasoning.
    decontaminate: questions of rl, documents and replies that share so many words in a row with a question of
    validation or test are left out, and counted; None: only those that are such a question, word for word.
    """

    rl: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    documents: tuple[str, ...] = ()
    replies: tuple[str, ...] = ()
    decontaminate: int | None = 10

    def __post_init__(self):
        check(self)
        at_least(1, self, "decontaminate")
        named = self.rl + self.validation + self.test + self.replies
        require(len(named) > 0, "JsonLines names no file; give rl, test or replies")

    @property
    def sizes(self) -> dict[str, int]:
        return {}  # not known before the files are read

    def prepare(self, folder: epath.Path, tell: Callable[[int], None]) -> dict[str, int]:
        """Writes the data set below `folder`, unless it is there. UserError where a line is not what it must be."""
        rl, validation, test = map(_questions, (self.rl, self.validation, self.test))
        documents = [_text(where, row, "text") for where, row in lines(self.documents)]
        held_out = [question.text for question in (*validation, *test)]
        kept = [rl[i] for i in apart([question.text for question in rl], held_out, self.decontaminate)]
        require(
            len(kept) > 0 or not rl,
            f"JsonLines: every question of rl shares {self.decontaminate or 'all'} words with one that is held out; "
            "give other files, or a larger decontaminate",
        )
        read = [documents[i] for i in apart(documents, held_out, self.decontaminate)]
        replies = _replies(self.replies)
        left_out = len(rl) - len(kept) + len(documents) - len(read) + len(replies) - len(self._clean(replies, held_out))
        splits = {"rl": kept, "validation": validation, "test": test}
        rows = {split: (lambda q=questions: map(_row, q)) for split, questions in splits.items() if questions}
        if rows:
            self._questions(folder).write(rows, tell)
        if read:
            self._documents(folder).write({"pretrain": lambda: ({"text": text} for text in read)}, tell)
        return {
            "documents": len(read),
            "questions": len(kept),
            "held_out": len(held_out),
            "left_out": left_out,
        }

    def questions(self, split: str, folder: epath.Path) -> list[Question]:
        """The questions of split `rl`, `validation` or `test`, in the order of the files."""
        if not getattr(self, split):
            return []
        tests = lambda text: tuple(map(tuple, json.loads(text)))  # noqa: E731
        return [Question(**row | {"tests": tests(row["tests"])}) for row in self._questions(folder).read(split)]

    def texts(self, folder: epath.Path) -> list[str]:
        """The documents, in the order of the files."""
        return [row["text"] for row in self._documents(folder).read("pretrain")] if self.documents else []

    def general(self, count: int, template: Template) -> list[Example]:
        """The first `count` lines of `replies` that are not left out, as examples; the completion stands as it is in
        the file."""
        replies = _replies(self.replies)
        kept = self._clean(replies, [question.text for question in _questions(self.validation + self.test)])
        gone = f" ({len(replies) - len(kept)} more share words with a question that is held out)"
        require(
            len(kept) >= count,
            f"JsonLines.replies has {len(kept)} lines{gone if len(kept) < len(replies) else ''}, {count} are wanted",
        )
        return [
            Example(template.render(q.text), text, q.domain, q.language, q.id, 0, 0, where, 0.0, "{}")
            for where, q, text in kept[:count]
        ]

    def _clean(self, replies: Sequence[Reply], held_out: Sequence[str]) -> list[Reply]:
        """Those that share nothing with what is held out, neither the question nor both together."""
        asked = apart([q.text for _, q, _ in replies], held_out, self.decontaminate)
        whole = apart([f"{q.text} {text}" for _, q, text in replies], held_out, self.decontaminate)
        return [replies[i] for i in sorted({*asked} & {*whole})]

    def _questions(self, folder: epath.Path) -> Records:
        return Records(folder, "json_lines", self, _FIELDS)

    def _documents(self, folder: epath.Path) -> Records:
        return Records(folder, "json_lines_documents", self, {"text": str})


def lines(files: Sequence[str]) -> Iterator[tuple[str, dict]]:
    """('file:line', object) of every line that is not blank. UserError where a file has none, or one that is no JSON
    object."""
    for file in files:
        path = epath.Path(file).expanduser()
        require(path.is_file(), f"{file}: there is no such file")
        empty = True
        with path.open("rb") as opened:
            for number, line in enumerate(opened, start=1):
                if not line.strip():
                    continue
                where = f"{file}:{number}"
                try:
                    row = json.loads(line)
                    json.dumps(row, ensure_ascii=False).encode()  # half of a surrogate pair is no text
                except ValueError as error:
                    raise UserError(f"{where}: no JSON ({error})") from error
                require(isinstance(row, dict), f"{where}: a JSON object was wanted, this is {type(row).__name__}")
                empty = False
                yield where, row
        require(not empty, f"{file} is empty")


def _questions(files: Sequence[str]) -> list[Question]:
    return [_question(where, row, index) for index, (where, row) in enumerate(lines(files))]


def _replies(files: Sequence[str]) -> list[Reply]:
    return [
        (where, _question(where, {"answer": ""} | row, index), _text(where, row, "completion"))
        for index, (where, row) in enumerate(lines(files))
    ]


def _question(where: str, row: dict, index: int) -> Question:
    language, tests, difficulty = row.get("language", "en"), row.get("tests", []), row.get("difficulty", 0)
    require(language in ("en", "zh"), f'{where}: "language" is {language!r}; it must be "en" or "zh"')
    whole = type(difficulty) is int and abs(difficulty) < 2**31
    require(whole, f'{where}: "difficulty" is {difficulty!r}; it must be a whole number')
    pairs = isinstance(tests, list) and all(
        isinstance(test, list) and len(test) == 2 and all(isinstance(part, str) for part in test) for test in tests
    )
    require(pairs, f'{where}: "tests" must be a list of ["call", "literal"] pairs')
    for call, literal in tests:
        expression = _reads(partial(ast.parse, mode="eval"), call.lstrip())
        require(expression, f"{where}: a test calls {call!r}, which is no Python expression")
        require(_reads(ast.literal_eval, literal), f"{where}: a test expects {literal!r}, which is no Python literal")
    answer = row.get("answer", "" if tests else None)
    if type(answer) in (int, float) and math.isfinite(answer):
        answer = str(answer)
    require(isinstance(answer, str), f'{where}: there is no "answer", a text or a number')
    return Question(
        id=index,
        text=_text(where, row, "question"),
        answer=answer,
        language=language,
        difficulty=difficulty,
        domain=_text(where, {"domain": "math"} | row, "domain"),
        tests=tuple((call, literal) for call, literal in tests),
        reference=_text(where, row, "reference") if "reference" in row else "",
    )


def _reads(read: Callable[[str], object], text: str) -> bool:
    try:
        with warnings.catch_warnings(action="ignore"):  # of text that is almost Python
            read(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return False
    return True


def _text(where: str, row: dict, key: str) -> str:
    value = row.get(key)
    require(isinstance(value, str) and bool(value.strip()), f'{where}: there is no "{key}", a text')
    return value


def _row(question: Question) -> dict:
    return {name: getattr(question, name) for name in _FIELDS} | {"tests": json.dumps(question.tests)}
