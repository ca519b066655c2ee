"""Rule rewards against hand-computed values, and the canaries: no trick is paid for."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1jax.base.fields import UserError, check
from r1jax.data.questions import Question
from r1jax.reward.grade import Grade, columns, grade, judged, lost, marks
from r1jax.reward.manners import Manners
from r1jax.reward.response import Response
from r1jax.reward.rules import STATUSES, Accuracy, ByDomain, Format, Language, Overlong, Reward, Score, total

QUESTION = Question(id=0, text="What is 7+5?", answer="2", language="en", difficulty=1)
GOOD = "<think> 7+5=2 </think> <answer> 2 </answer>"


def response(text: str, tokens: int = 10, truncated: bool = False) -> Response:
    return Response(text=text, tokens=tokens, truncated=truncated)


@pytest.mark.parametrize(
    ("text", "truncated", "accuracy", "format_"),
    [
        (GOOD, False, Score(1), Score(1)),
        (GOOD.replace("> 2 <", "> 3 <"), False, Score(0), Score(1)),
        ("<think> </think> <answer> 2 </answer>", False, Score(1), Score(0)),
        ("<think> ... </think> <answer> 2 </answer>", False, Score(1), Score(0)),
        ("It is 2.", False, Score(0, "unparsable"), Score(0)),
        (GOOD, True, Score(0, "truncated"), Score(0, "truncated")),
        ("<think> 7+5", True, Score(0, "truncated"), Score(0, "truncated")),
    ],
)
def test_accuracy_and_format(text, truncated, accuracy, format_):
    assert Accuracy().score(QUESTION, response(text, truncated=truncated)) == accuracy
    assert Format().score(QUESTION, response(text, truncated=truncated)) == format_


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2",
        QUESTION.text,
        f"<think> {QUESTION.text} </think> <answer> {QUESTION.text} </answer>",
        "<think> so </think> <answer> </answer>",
        "<think> so </think> <answer> 0 1 2 3 4 5 6 7 8 9 </answer>",
        "<think> so </think> <answer> 3 </answer> <answer> 2 </answer>",
        "<think> so <answer> 2 </answer> </think> <answer> 3 </answer>",
        "<think> so <answer> 2 </answer> </think>",
        "<think>" * 1000 + "2" + "</answer>" * 1000,
        "<think> so </think> <answer> ２ </answer>",
        "<think> so </think> <answer> 2 </answer> and more",
        "<think> so </think> <answer> " + "2" * 10**6 + " </answer>",
    ],
)
def test_canaries_are_not_paid_for_accuracy(text):
    assert Accuracy().score(QUESTION, response(text)).value == 0
    assert not grade(QUESTION, response(text)).correct


@pytest.mark.parametrize(
    ("thinking", "score"),
    [
        ("so we add: 7+5=2", Score(1)),
        ("so we 得2", Score(2 / 3)),
        ("所以得2", Score(0)),
        ("7+5=2", Score(1)),
        ("", Score(0)),
        ("...", Score(0)),
    ],
)
def test_language_is_the_share_of_words_in_the_thinking(thinking, score):
    """Equation 7; a Chinese word is one ideograph. The reply may speak any language."""
    for text, form in (
        (f"<think>{thinking}</think><answer>2</answer>", "zero"),
        (f"<think>{thinking}</think>是2", "chat"),
    ):
        found = Language().score(QUESTION, Response(text, tokens=9, truncated=False, form=form))
        assert found.value == pytest.approx(score.value) and found.status == "judged"


def test_language_of_what_is_no_response():
    assert Language().score(QUESTION, response("so it is 2")) == Score(0, "unparsable")
    assert Language().score(QUESTION, response(GOOD, truncated=True)) == Score(0, "truncated")


def test_a_chat_response_is_judged_by_what_its_summary_states():
    for text, value in (
        ("<think>7+5=3</think> It is 2.", 1),
        ("<think>7+5=2</think> It is 3.", 0),
        ("<think>2</think> 2 or 3", 0),
    ):
        chat = Response(text, tokens=9, truncated=False, form="chat")
        assert Accuracy().score(QUESTION, chat) == Score(value)
        assert grade(QUESTION, chat).correct == bool(value)
        assert Format().score(QUESTION, chat) == Score(1)


@pytest.mark.parametrize(
    ("tokens", "value"), [(1, 0), (12, 0), (13, -0.25), (14, -0.5), (15, -0.75), (16, -1), (17, -1), (1000, -1)]
)
def test_overlong_is_the_formula_of_dapo(tokens, value):
    assert Overlong(limit=16, buffer=4).score(QUESTION, response("", tokens)) == Score(value)


def test_dapo_at_its_published_size():
    reward = Overlong(limit=20_480, buffer=4_096)
    assert reward.score(QUESTION, response("", 16_384)).value == 0
    assert reward.score(QUESTION, response("", 18_432)).value == -0.5
    assert reward.score(QUESTION, response("", 20_480)).value == -1


@given(st.text() | st.just(GOOD), st.integers(1, 100), st.booleans())
def test_every_text_has_a_finite_score_with_a_known_status(text, tokens, truncated):
    rewards = (Accuracy(), Format(weight=0.2), Overlong(limit=50, buffer=10))
    value, scores = total(rewards, QUESTION, response(text, tokens, truncated))
    parts = {name: score.value for name, score in scores.items()}
    assert value == pytest.approx(parts["accuracy"] + 0.2 * parts["format"] + parts["overlong"])
    assert {score.status for score in scores.values()} <= set(STATUSES)
    assert -1 <= value <= 1.2


def test_total_by_hand():
    rewards = (Accuracy(), Format(weight=0.2), Overlong(limit=16, buffer=4, weight=0.5))
    assert total(rewards, QUESTION, response(GOOD, 14)) == (
        pytest.approx(1 + 0.2 - 0.25),
        {"accuracy": Score(1), "format": Score(1), "overlong": Score(-0.5)},
    )
    assert total((), QUESTION, response(GOOD)) == (0, {})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slow:
    """A user's own reward: nothing to inherit from, nothing to register."""

    weight: float = 1.0
    name: str = "slow"

    def score(self, question, response):
        return Score(0.0, "timeout")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Holder:
    rewards: tuple[Reward, ...]

    def __post_init__(self):
        check(self)


def test_a_users_own_reward():
    assert total((Slow(),), QUESTION, response(GOOD)) == (0, {"slow": Score(0, "timeout")})
    assert Holder(rewards=(Slow(), Accuracy())).rewards[1] == Accuracy()
    with pytest.raises(UserError, match="rewards"):
        Holder(rewards=("accuracy",))


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: Accuracy(weight="1"), "weight"),
        (lambda: Format(weight=None), "weight"),
        (lambda: Overlong(limit=4, buffer=0), "buffer"),
        (lambda: Overlong(limit=4, buffer=5), "buffer"),
        (lambda: Overlong(limit=4.5, buffer=1), "limit"),
        (lambda: Score(math.nan), "finite"),
        (lambda: Score(0, "lost"), "status"),
        (lambda: total((Accuracy(), Accuracy(weight=2)), QUESTION, response(GOOD)), "share a name"),
    ],
)
def test_mistakes_are_named(make, word):
    with pytest.raises(UserError, match=word):
        make()


def test_grade_of_a_full_response():
    text = "<think> wait, 等等 check 7+5=2 </think> <answer> 2.0 </answer>"
    assert grade(QUESTION, response(text, 21)) == Grade(
        correct=True,
        correct_any_format=True,
        formatted=True,
        parsed=True,
        truncated=False,
        language=0.5,  # wait, check against 等, 等
        reflections=3,
        answer="2.0",
        tokens=21,
    )


def test_grade_of_a_bare_answer():
    given_bare = grade(QUESTION, response("It is 2."))
    assert (given_bare.correct, given_bare.correct_any_format, given_bare.formatted) == (False, True, False)
    assert (given_bare.parsed, given_bare.answer, given_bare.language) == (False, None, 1.0)


def test_only_what_is_answered_has_a_vote():
    """A program is all of its text, not the number in it; a summary that states two answers states none."""
    coded = dataclasses.replace(QUESTION, domain="code", tests=(("f(1)", "6"),), answer="def f(x): return x+5")
    for question, reply, vote in (
        (coded, "def f(x): return x*5", "def f(x): return x*5"),
        (coded, "def f(x): return 3*x+5", "def f(x): return 3*x+5"),
        (QUESTION, "It is 2.", "2"),
        (QUESTION, "It is 2, or 3.", None),
    ):
        said = Response(f"<think>so</think>{reply}", 9, False, "chat")
        assert grade(question, said, Score(0)).answer == vote


def test_a_reward_may_say_what_is_right():
    half = dataclasses.replace(QUESTION, answer="0.5")
    said = response("<think> so </think> <answer> 1/2 </answer>")
    assert not grade(half, said).correct and grade(half, said, Score(1)).correct_any_format
    assert not grade(QUESTION, response(GOOD), Score(0)).correct


def test_a_reward_by_domain_asks_that_of_the_domain():
    reward = ByDomain(rewards={"math": Accuracy(weight=9), "slow": Slow()})
    assert reward.name == "accuracy" and reward.score(QUESTION, response(GOOD)) == Score(1)
    assert reward.score(dataclasses.replace(QUESTION, domain="slow"), response(GOOD)) == Score(0, "timeout")
    assert reward.score(dataclasses.replace(QUESTION, domain="verse"), response(GOOD)) == Score(0, "inapplicable")


def test_what_cannot_be_checked_is_neither_right_nor_wrong():
    request = dataclasses.replace(QUESTION, answer="", domain="helpful", facts=(("tea", "hot"),), reference="Hot tea.")
    said = Response("<think>tea</think>Of course! Tea is hot.", 9, False, "chat")
    graded = grade(request, said)
    assert graded.correct is None and graded.correct_any_format is None and graded.formatted
    names = columns((Accuracy(), Format()))
    row = dict(zip(names, marks((Accuracy(), Format()), request, said), strict=True))
    assert (
        math.isnan(row["reward/accuracy"]) and math.isnan(row["correct"]) and row["reward/format"] == row["total"] == 1
    )
    assert set(names) == set(row) and lost((Accuracy(), Format()), said)[names.index("reward/timeout")] == 1
    graded = judged(graded, Manners(), request, said)
    assert graded.quality == 1 and graded.win == 1  # the reference is not polite
    worse = judged(graded, Manners(), request, dataclasses.replace(said, text="<think>tea</think>Tea is cold."))
    assert (worse.quality, worse.win) == (0.25, 0)
    assert judged(grade(QUESTION, said), Manners(), QUESTION, said).quality is None


def test_an_answer_need_not_be_a_number():
    choice = dataclasses.replace(QUESTION, answer="B")
    graded = grade(choice, response("<think> 2 of 3 </think> <answer> B </answer>"))
    assert graded.correct and graded.correct_any_format


def test_a_truncated_response_has_no_answer_even_when_its_tags_are_complete():
    cut = grade(QUESTION, response(GOOD, truncated=True))
    assert (cut.correct, cut.parsed, cut.formatted, cut.answer, cut.truncated) == (False, False, False, None, True)
    assert cut.correct_any_format


@given(st.text(), st.booleans(), st.sampled_from(["en", "zh"]))
def test_grades_hang_together(text, truncated, language):
    question = dataclasses.replace(QUESTION, language=language)
    graded = grade(question, response(f"<think>{text}</think><answer>2</answer>", truncated=truncated))
    assert graded.correct <= graded.parsed <= (not graded.truncated)
    assert graded.correct <= graded.correct_any_format
    assert graded.formatted <= graded.parsed
    assert 0 <= graded.language <= 1 and graded.reflections >= 0
