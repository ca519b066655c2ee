"""The miniature world and its data sets: what a base model may read, and what it is asked."""

import json
import random
import re
from collections import Counter

import pytest
from etils import epath

from r1jax.base.fields import UserError
from r1jax.data.problems import Chain, Writer
from r1jax.data.questions import Question
from r1jax.data.records import Records
from r1jax.data.requests import Request
from r1jax.data.template import Chat
from r1jax.data.world import World, examples
from r1jax.reward.answers import last_number
from r1jax.reward.manners import Manners
from r1jax.reward.response import Response

WORLD = World(documents=4_000, rl=600, validation=100, test=200)
SPLITS = {"pretrain": 4_000, "rl": 600, "validation": 100, "test": 200}


@pytest.fixture(scope="module")
def splits() -> dict[str, list[dict]]:
    return {split: list(examples(WORLD, split)) for split in SPLITS}


def value(chain: str) -> int:
    """A chain from left to right modulo 10, by Python's own arithmetic."""
    total, *steps = re.findall(r"[-+*]?\d", chain)
    for step in steps:
        total = eval(f"({total}{step}) % 10")  # noqa: S307  digits and operators only
    return int(total)


def chain(example: dict) -> str:
    return re.search(r"\d(?:[-+*]\d)+", example["question"])[0]


def test_every_answer_is_right_and_every_difficulty_there(splits):
    for split in ("rl", "validation", "test"):
        for example in splits[split]:
            found = chain(example)
            assert value(found) == int(example["answer"])
            assert len(re.findall(r"[-+*]", found)) == example["difficulty"]
            digits = re.findall(r"\d", found)
            assert len(set(digits)) == len(digits)
        assert {example["difficulty"] for example in splits[split]} == set(range(2, 9))
        assert {example["language"] for example in splits[split]} == {"en", "zh"}


def test_no_chain_stands_twice_in_any_split(splits):
    chains = [chain(example) for found in splits.values() for example in found if example["question"]]
    assert max(Counter(chains).values()) == 1
    assert {split: len(found) for split, found in splits.items()} == SPLITS


def test_the_world_is_a_function_of_its_seed(splits):
    assert list(examples(WORLD, "test")) == splits["test"]
    other = World(seed=1, documents=4_000, rl=600, validation=100, test=200)
    assert list(examples(other, "test")) != splits["test"]
    # Splits stay apart between seeds too: one seed's training never holds what another's test asks.
    assert not {chain(e) for e in examples(other, "rl")} & {chain(e) for e in splits["test"]}


def test_forums_answer_mostly_bare_and_wrong_and_textbooks_work_mostly_right(splits):
    asked = [e for e in splits["pretrain"] if e["question"]]
    forum = [e for e in asked if e["text"].startswith("User:")]
    textbook = [e for e in asked if not e["text"].startswith("User:")]
    answer = [e["text"].split("Assistant:")[1] for e in forum]
    tagged = [bool(re.fullmatch(r"<think>.*</think><answer>\d</answer>", text)) for text in answer]
    worked = [bool(re.search(r"<think>.+</think>", text)) for text in answer]
    right = lambda found: sum(last_number(e["text"]) == e["answer"] for e in found) / len(found)  # noqa: E731
    assert len(textbook) / len(asked) == pytest.approx(0.6 / 0.96, abs=0.03)
    assert sum(tagged) / len(tagged) == pytest.approx(0.17 + 0.13, abs=0.04)
    assert sum(worked) / len(worked) == pytest.approx(0.13, abs=0.03)
    assert right(forum) < 0.45 < 0.7 < right(textbook)
    everyday = [e for e in splits["pretrain"] if not e["question"]]
    assert len(everyday) / len(splits["pretrain"]) == pytest.approx(0.04, abs=0.01)


def test_careful_writers_are_longer_and_right_more_often(splits):
    textbook = [e for e in splits["pretrain"] if e["question"] and not e["text"].startswith("User:")]
    careful = [e for e in textbook if "wait" in e["text"] or "等等" in e["text"]]
    others = [e for e in textbook if e not in careful]
    right = lambda found: sum(last_number(e["text"]) == e["answer"] for e in found) / len(found)  # noqa: E731
    length = lambda found: sum(len(e["text"]) for e in found) / len(found)  # noqa: E731
    assert right(careful) == 1 > right(others) + 0.05
    assert length(careful) > 1.5 * length(others)


def test_what_is_written_is_read(tmp_path, splits):
    told = []
    WORLD.prepare(epath.Path(tmp_path), told.append)
    assert told == [1000, 2000, 3000, 4000]
    assert [q.text for q in WORLD.questions("test", epath.Path(tmp_path))] == [e["question"] for e in splits["test"]]
    assert WORLD.texts(epath.Path(tmp_path)) == [e["text"] for e in splits["pretrain"]]
    other = World(seed=1, documents=4_000, rl=600, validation=100, test=200)
    with pytest.raises(UserError, match="no data set miniature_world of these settings in .*; run the stage"):
        other.questions("test", epath.Path(tmp_path))


def test_a_data_set_that_was_cut_off_is_written_anew_and_a_whole_one_never(tmp_path):
    def some():
        yield {"number": 1, "name": "one"}
        if not done:
            raise InterruptedError("killed here")

    records = Records(epath.Path(tmp_path), "numbers", "settings", {"number": int, "name": str})
    done = False
    with pytest.raises(InterruptedError):
        records.write({"some": some})
    with pytest.raises(UserError, match="no data set numbers"):
        records.read("some")
    done = True
    records.write({"some": some})
    assert records.read("some") == [{"number": 1, "name": "one"}]
    records.write({"some": lambda: iter([{"number": 2, "name": "two"}])})
    assert records.read("some") == [{"number": 1, "name": "one"}]


@pytest.mark.parametrize(
    "wrong, said",
    [({"textbook": 0.9}, "above 1"), ({"slip": -0.1}, "must be between 0 and 1"), ({"bare": 0.9}, "above 1")],
)
def test_a_mixture_that_is_none(wrong, said):
    with pytest.raises(UserError, match=said):
        World(**wrong)


MIXED = World(documents=3_000, rl=800, test=300, functions=0.2, helpful=0.1, harmless=0.05, virtue=0.3)


def of_domain(split: str, domain: str) -> list[dict]:
    found = [example for example in examples(MIXED, split) if example["domain"] == domain]
    assert len(found) >= 0.6 * len(list(examples(MIXED, split))) * {"code": 0.2}.get(domain, 0.05)
    return found


def test_functions_pass_their_tests_and_forgotten_brackets_do_not():
    for example in of_domain("test", "code"):
        space: dict = {}
        exec(example["answer"], space)  # noqa: S102  written by the world itself
        for call, result in json.loads(example["tests"]):
            assert eval(call, space) == int(result)  # noqa: S307
    texts = [e["text"] for e in of_domain("pretrain", "code")]
    assert any("(x" in text for text in texts) and any(re.search(r"x[-+]\d\*\d", text) for text in texts)


def test_a_request_knows_its_facts_and_a_reply_to_compare_with():
    for example in of_domain("rl", "helpful"):
        facts = json.loads(example["facts"])
        assert len(facts) == 2 and all(thing in example["question"] for thing, _ in facts)
        assert example["text"] and not example["answer"]
    assert all(not json.loads(e["facts"]) for e in of_domain("rl", "harmless"))


def test_well_mannered_replies_are_better_than_those_of_forums():
    def quality(reply: str, question: Question) -> float:
        return Manners().score(question, Response(f"<think>so</think>{reply}", 9, False, "chat")).value

    rng = random.Random(0)
    for domain in ("helpful", "harmless"):
        requests = [Request.draw(rng, domain) for _ in range(200)]
        questions = [Question(0, r.text, "", r.language, 1, domain, facts=r.facts) for r in requests]
        means = [
            sum(quality(r.reply(rng, good), q) for r, q in zip(requests, questions, strict=True)) / 200
            for good in (0.0, 0.3, 0.8, 1.0)
        ]
        assert means == sorted(means) and means[0] < 0.2 and means[-1] == 1, means


def test_general_examples_never_hold_what_is_asked_later():
    general = MIXED.general(300, Chat())
    asked = {e["question"] for split in ("rl", "validation", "test") for e in examples(MIXED, split)}
    assert not {e.prompt.removeprefix("<｜User｜>").removesuffix("<｜Assistant｜>") for e in general} & asked
    assert {e.domain for e in general} == {"helpful", "harmless"}


def test_with_a_stride_only_those_who_check_work_step_by_step():
    chain = Chain(7, (("+", 5), ("*", 3), ("-", 8), ("+", 2)))

    def work(careful: bool, stride: int, slip: float = 0.0) -> tuple[str, str]:
        return chain.work(random.Random(0), Writer("en", slip, careful, mixed=False, stride=stride))

    assert work(careful=False, stride=1) == ("7+5=2*3=6-8=8+2=0", "0")
    assert work(careful=False, stride=3) == ("7+5*3-8=8+2=0", "0")
    assert work(careful=True, stride=3) == ("7+5*3-8=8 wait 7+5=2*3=6-8=8+2=0 wait 8+2=0", "0")
    text, answer = work(careful=True, stride=3, slip=1.0)  # every attempt is any digit, and is mended
    assert re.fullmatch(r"7\+5\*3-8=\d wait 7\+5=2\*3=6-8=8\+2=\d wait 8\+2=0", text) and answer == "0"
