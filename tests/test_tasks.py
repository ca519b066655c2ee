"""Tasks: what stages ask of them, and the data sets of a user's own files."""

import dataclasses
import json

import pytest
from etils import epath

from r1jax.base.fields import UserError, check
from r1jax.data.examples import Example, General
from r1jax.data.gsm8k import Gsm8k
from r1jax.data.jsonlines import JsonLines
from r1jax.data.overlap import apart, grams
from r1jax.data.questions import Question, Source, Task
from r1jax.data.template import Zero
from r1jax.data.world import World


@dataclasses.dataclass(frozen=True, kw_only=True)
class Double:
    """A user's own task: nothing to inherit from, nothing to register, one method."""

    most: int = 9

    def questions(self, split, folder):
        return [Question(n, f"2*{n}?", str(2 * n), language="en", difficulty=1) for n in range(self.most)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Holder:
    asked: Task = Double()
    read: Source = World()

    def __post_init__(self):
        check(self)


def test_one_method_makes_a_task_and_a_source_says_more():
    assert Holder(asked=World()).asked == World()
    with pytest.raises(UserError, match=r"Holder.read = Double\(most=9\) is Double, wanted Source"):
        Holder(read=Double())
    with pytest.raises(UserError, match=r"Holder.asked = 'Double' is str, wanted Task"):
        Holder(asked="Double")


LONG = "A train leaves the town at noon and drives 60 miles an hour"  # 13 words


def written(path, *rows) -> str:
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_lines_become_questions_and_come_back(tmp_path):
    rl = written(
        tmp_path / "rl.jsonl",
        {"question": "What is 7+5?", "answer": 12, "source": "of no interest"},
        "\n",
        {
            "question": "8-3等于几？",
            "answer": " 5 ",
            "language": "zh",
            "domain": "计算",
            "difficulty": 2,
            "reference": "五",
        },
        {"question": "Write double(x).", "domain": "code", "tests": [["double(4)", "8"], ["double('a')", "'aa'"]]},
    )
    test = written(tmp_path / "test.jsonl", {"question": "What is {half} of 1?", "answer": 0.5})
    documents = written(tmp_path / "documents.jsonl", {"text": "One and one is two."}, {"text": "一"})
    task = JsonLines(rl=(rl,), test=(test,), documents=(documents,))
    folder = epath.Path(tmp_path / "data")
    counts = {"documents": 2, "questions": 3, "held_out": 1, "left_out": 0}
    assert isinstance(task, Source) and task.prepare(folder, lambda count: None) == counts
    assert task.questions("rl", folder) == [
        Question(0, "What is 7+5?", "12", "en", 0),
        Question(1, "8-3等于几？", " 5 ", "zh", 2, "计算", reference="五"),
        Question(2, "Write double(x).", "", "en", 0, "code", (("double(4)", "8"), ("double('a')", "'aa'"))),
    ]
    assert task.questions("test", folder) == [Question(0, "What is {half} of 1?", "0.5", "en", 0)]
    assert task.questions("validation", folder) == []
    assert task.texts(folder) == ["One and one is two.", "一"]
    (tmp_path / "rl.jsonl").unlink()  # the other stages read what was written, not the files
    assert len(task.questions("rl", folder)) == 3
    with pytest.raises(UserError, match="no data set json_lines of these settings"):
        JsonLines(rl=(rl,)).questions("rl", folder)


def test_replies_become_examples(tmp_path):
    replies = written(
        tmp_path / "replies.jsonl",
        {"question": "Hello!", "completion": "<think></think>Hello."},
        {"question": "你好！", "completion": "你好。", "language": "zh", "domain": "helpful"},
        {"question": "?"},
    )
    broken = JsonLines(replies=(replies,))
    for read in (lambda: broken.general(2, Zero()), lambda: broken.prepare(epath.Path(tmp_path), lambda count: None)):
        with pytest.raises(UserError, match=r'replies.jsonl:3: there is no "completion", a text'):
            read()
    replies = written(tmp_path / "replies.jsonl", *open(replies).read().splitlines(keepends=True)[:2])
    task = JsonLines(replies=(replies,))
    assert isinstance(task, General) and isinstance(World(), General) and not isinstance(Double(), General)
    first, second = task.general(2, Zero(text="User: {question} Assistant:"))
    assert first == Example(
        "User: Hello! Assistant:", "<think></think>Hello.", "math", "en", 0, 0, 0, f"{replies}:1", 0.0, "{}"
    )
    assert (second.language, second.domain, second.question) == ("zh", "helpful", 1)
    assert task.prepare(epath.Path(tmp_path), lambda count: None)["questions"] == 0
    assert task.general(1, Zero(text="User: {question} Assistant:")) == [first]
    with pytest.raises(UserError, match="JsonLines.replies has 2 lines, 3 are wanted"):
        task.general(3, Zero())
    with pytest.raises(UserError, match="JsonLines.replies has 0 lines, 1 are wanted"):
        JsonLines(rl=(replies,)).general(1, Zero())


def test_replies_share_nothing_with_what_is_held_out(tmp_path):
    """In the question; in the completion; from the end of the one to the beginning of the other."""
    pairs = [("Hello!", "Good day."), (LONG + "!", "1"), ("Say it.", f"So: {LONG}"), (LONG[:23], LONG[23:])]
    pairs += [("WHAT is 7+5", "12"), ("Who?", "I.")]
    rows = [{"question": question, "completion": completion} for question, completion in pairs]
    replies = written(tmp_path / "replies.jsonl", *rows)
    test = written(tmp_path / "test.jsonl", {"question": LONG, "answer": "1"})
    validation = written(tmp_path / "validation.jsonl", {"question": "What is 7+5?", "answer": "12"})
    task = JsonLines(replies=(replies,), test=(test,), validation=(validation,))
    assert task.prepare(epath.Path(tmp_path / "data"), lambda count: None)["left_out"] == 4
    assert [(e.completion, e.question, e.source) for e in task.general(2, Zero())] == [
        ("Good day.", 0, f"{replies}:1"),
        ("I.", 5, f"{replies}:6"),
    ]
    said = r"JsonLines.replies has 2 lines \(4 more share words with a question that is held out\), 3 are wanted"
    with pytest.raises(UserError, match=said):
        task.general(3, Zero())


def test_two_files_of_one_split_are_numbered_through(tmp_path):
    files = [written(tmp_path / f"{n}.jsonl", {"question": f"What is {n}?", "answer": n}) for n in "ab"]
    task = JsonLines(test=tuple(files))
    task.prepare(epath.Path(tmp_path), lambda count: None)
    assert [(q.id, q.answer) for q in task.questions("test", epath.Path(tmp_path))] == [(0, "a"), (1, "b")]
    assert task.questions("rl", epath.Path(tmp_path)) == task.texts(epath.Path(tmp_path)) == []


@pytest.mark.parametrize(
    "line, said",
    [
        ('{"question": "2+2?"', "no JSON"),
        ('["2+2?", "4"]', "a JSON object was wanted, this is list"),
        ('{"answer": "4"}', 'there is no "question", a text'),
        ('{"question": " ", "answer": "4"}', 'there is no "question", a text'),
        ('{"question": "2+2?"}', 'there is no "answer", a text or a number'),
        ('{"question": "2+2?", "answer": true}', 'there is no "answer"'),
        ('{"question": "2+2?", "answer": ["4"]}', 'there is no "answer"'),
        ('{"question": "2+2?", "answer": "4", "language": "de"}', '"language" is \'de\'; it must be "en" or "zh"'),
        ('{"question": "2+2?", "answer": "4", "difficulty": "3"}', "\"difficulty\" is '3'; it must be a whole number"),
        ('{"question": "2+2?", "answer": "4", "domain": 1}', 'there is no "domain"'),
        ('{"question": "f?", "tests": [["f(1)", 1]]}', '"tests" must be a list of'),
        ('{"question": "f?", "tests": {"f(1)": "1"}}', '"tests" must be a list of'),
        ('{"question": "f?", "tests": [["f(1", "1"]]}', "a test calls 'f(1', which is no Python expression"),
        ('{"question": "f?", "tests": [["f(1)", "one"]]}', "a test expects 'one', which is no Python literal"),
        ('{"question": "2+2?", "answer": NaN}', 'there is no "answer"'),
        ('{"question": "2+2?", "answer": 1e999}', 'there is no "answer"'),
        ('{"question": "2+2?", "answer": "4", "difficulty": 5000000000}', "it must be a whole number"),
        (b'{"question": "\xff", "answer": "4"}', "no JSON"),
        (r'{"question": "\ud800", "answer": "4"}', "no JSON"),
    ],
)
def test_a_line_that_is_wrong_is_named(line, said, tmp_path):
    path = tmp_path / "rl.jsonl"
    good = b'{"question": "1+1?", "answer": "2"}\n'
    path.write_bytes(good + b"\n" + (line if isinstance(line, bytes) else line.encode()) + b"\n" + good)
    with pytest.raises(UserError) as error:
        JsonLines(rl=(str(path),)).prepare(epath.Path(tmp_path / "data"), lambda count: None)
    assert str(error.value).startswith(f"{path}:3: ") and said in str(error.value)
    assert not (tmp_path / "data").exists()


def test_files_that_are_missing(tmp_path):
    with pytest.raises(UserError, match="nowhere.jsonl: there is no such file"):
        JsonLines(rl=("nowhere.jsonl",)).prepare(epath.Path(tmp_path), lambda count: None)
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(UserError, match="empty.jsonl is empty"):
        JsonLines(rl=(str(tmp_path / "empty.jsonl"),)).prepare(epath.Path(tmp_path), lambda count: None)
    with pytest.raises(UserError, match="JsonLines names no file; give rl, test or replies"):
        JsonLines(documents=("some.jsonl",))
    with pytest.raises(UserError, match="decontaminate is 0; it must be at least 1"):
        JsonLines(rl=("some.jsonl",), decontaminate=0)


@pytest.mark.parametrize(
    "n, other, shared",
    [
        (10, "Yesterday " + LONG.upper() + ". How far is it?", True),
        (10, "A train leaves the town, at noon: and drives 60 yards in a row", True),  # its first ten words
        (10, "A train leaves the town at noon and rides 60 miles an hour", False),  # eight at most
        (8, "A train leaves the town at noon and rides 60 miles an hour", True),
        (None, "Yesterday " + LONG, False),
        (None, LONG.lower() + "?", True),
    ],
)
def test_texts_that_share_words_in_a_row(n, other, shared):
    assert apart([other, "Quite another question."], [LONG], n) == ([1] if shared else [0, 1])


def test_what_a_word_is():
    assert grams("What is 3*x - 12.5?", None) == {("what", "is", "3", "*", "x", "-", "12", "5")}
    assert grams("甲有3个苹果", 4) == {("甲", "有", "3", "个"), ("有", "3", "个", "苹"), ("3", "个", "苹", "果")}
    assert apart(["What is 7+5?", "what is 7-5", "???"], ["What is 7 + 5", "!!"], 10) == [1, 2]
    assert apart([], [LONG], 10) == [] and apart([LONG], [], 10) == [0]


def test_what_is_held_out_is_not_trained_on(tmp_path):
    rl = written(tmp_path / "rl.jsonl", *({"question": q, "answer": "1"} for q in ("First?", LONG + "!", "Third?")))
    test = written(tmp_path / "test.jsonl", {"question": f"Once more: {LONG}.", "answer": "1"})
    validation = written(tmp_path / "validation.jsonl", {"question": "FIRST", "answer": "1"})
    documents = written(tmp_path / "documents.jsonl", {"text": f"{LONG}: solved."}, {"text": "First of all"})
    folder = epath.Path(tmp_path / "data")
    task = JsonLines(rl=(rl,), validation=(validation,), test=(test,), documents=(documents,))
    counts = {"documents": 1, "questions": 1, "held_out": 2, "left_out": 3}
    assert task.prepare(folder, lambda count: None) == counts
    assert [(q.id, q.text) for q in task.questions("rl", folder)] == [(2, "Third?")]
    assert task.texts(folder) == ["First of all"]
    assert task.prepare(folder, lambda count: None) == counts  # written already, counted again
    with pytest.raises(UserError, match="every question of rl shares 10 words with one that is held out"):
        JsonLines(rl=(test,), test=(test,)).prepare(folder, lambda count: None)


def gsm8k(folder, train: int, test: int) -> str:
    """Files as they are published: the solution, its calculations in << >>, then the answer."""
    for split, count in (("train", train), ("test", test)):
        rows = [
            {
                "question": f"Ann has {n} pens and buys {n} boxes of 1,000. How many has she? ({split})",
                "answer": f"In boxes {n}*1000 = <<{n}*1000={n * 1000}>>\n" * (n % 3 + 1) + f"#### {n * 1001:,}",
            }
            for n in range(count)
        ]
        written(folder / f"{split}.jsonl", *rows)
    return str(folder)


def test_gsm8k_from_local_files(tmp_path):
    task, folder = Gsm8k(files=gsm8k(tmp_path, 40, 5), validation=8), epath.Path(tmp_path / "data")
    assert isinstance(task, Source)
    assert task.prepare(folder, lambda count: None) == {"questions": 32, "held_out": 13}
    rl, validation, test = (task.questions(split, folder) for split in ("rl", "validation", "test"))
    assert (len(rl), len(validation), len(test)) == (32, 8, 5) and task.texts(folder) == []
    numbers = {n * 1001: n for n in range(40)}
    for question in rl + validation + test:
        n = numbers[int(question.answer)]
        assert question.text.startswith(f"Ann has {n} pens") and question.difficulty == n % 3 + 1
    assert sorted(int(q.answer) for q in rl + validation) == list(numbers)
    assert len({q.id for q in rl + validation}) == 32
    other = epath.Path(tmp_path / "other")
    task.prepare(other, lambda count: None)
    assert task.questions("validation", other) == validation


def test_files_that_are_not_gsm8k(tmp_path):
    files = gsm8k(tmp_path, 4, 4)
    with pytest.raises(UserError, match="Gsm8k.validation is 4, the training set has 4 questions"):
        Gsm8k(files=files, validation=4).prepare(epath.Path(tmp_path / "data"), lambda count: None)
    written(tmp_path / "test.jsonl", {"question": "What?", "answer": "4"})
    with pytest.raises(UserError, match=r'test.jsonl:1: a line of GSM8K has a "question", and an "answer" with one'):
        Gsm8k(files=files).prepare(epath.Path(tmp_path / "more"), lambda count: None)
    with pytest.raises(UserError, match="train.jsonl: there is no such file"):
        Gsm8k(files=str(tmp_path / "nowhere")).prepare(epath.Path(tmp_path / "more"), lambda count: None)
    with pytest.raises(UserError, match="no gsm8k in .*; run the stage that prepares it"):
        Gsm8k(files=files).questions("rl", epath.Path(tmp_path / "more"))
