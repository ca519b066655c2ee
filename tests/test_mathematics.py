r"""Mathematical answers against hand-made pairs, and the texts that a policy would try instead of an answer."""

import os
import time

import pytest

from r1jax.base.fields import UserError
from r1jax.data.questions import Question
from r1jax.reward import mathematics
from r1jax.reward.mathematics import MathAccuracy, compare
from r1jax.reward.response import Response
from r1jax.reward.rules import Reward, Score

RIGHT = [
    ("72", "72"),
    ("72", " 72.0 "),
    ("72", "$72$"),
    ("72", r"\(72\)"),
    ("72", r"72 \text{ apples}"),
    ("1000", "1,000"),
    ("1000", r"\$1,000"),
    ("0.5", r"\frac12"),
    ("1/2", r"\frac{1}{2}"),
    (r"\frac{1}{2}", "0.5"),
    ("1/3", "0.333333"),
    ("-7", r"-\frac{14}{2}"),
    ("5", "x = 5"),
    ("x=5", "5"),
    (r"2\sqrt{3}", r"\sqrt{12}"),
    ("x^2+2x+1", "(x+1)^2"),
    ("(1,2)", r"\left( 1, 2 \right)"),
    (r"\{1,2\}", r"\{2, 1\}"),
    (r"\frac{\pi}{2}", r"0.5\pi"),
    ("90", r"90^\circ"),
    ("10", "10^{1}"),
    ("C", r"\text{(C)}"),
    ("C", "(C)"),
    (r"\text{Monday}", "monday"),
    ("two thirds", "Two thirds"),
    ("三", "三"),
]
WRONG = [
    ("72", "73"),
    ("72", "7 2"),
    ("72", "72, 73"),
    ("72", r"72 \text{ or } 73"),
    ("72", r"\{71, 72\}"),
    ("72", "[0, 100]"),
    ("72", "n"),
    ("72", r"\infty - \infty"),
    ("72", "７２"),
    ("72", "72.0000001"),
    ("0.5", r"\frac13"),
    ("(1,2)", "(2,1)"),
    ("C", "ABCD"),
    ("C", "A, B, C, D"),
    ("C", "c"),
    ("Monday", "Mondya"),
    ("Monday", "Tuesday"),
    ("x", "y"),
    ("72", "the answer"),
    ("72", "__import__('os').abort()"),
    ("72", r"71 \boxed{72}"),
    ("72", "$71$ or $72$"),
    ("72", ""),
    ("72", "72}"),
    ("72", "}{72"),
    ("", "0"),
    ("", ""),
]


@pytest.mark.parametrize("truth, answer", RIGHT)
def test_equal_answers(truth, answer):
    assert compare(truth, answer, 10.0) == "right"


@pytest.mark.parametrize("truth, answer", WRONG)
def test_answers_that_are_not(truth, answer):
    assert compare(truth, answer, 10.0) in ("wrong", "unparsable")


@pytest.mark.parametrize(
    "answer",
    [
        "9^{9^{9}}",
        "9**9**9**9",
        "9^{9^{9^{9^9}}}",
        "10^{10^{10}} - 10^{10^{10}} + 72",
        "(((10^{9})!)!)!",
        r"\sum_{n=1}^{10^{12}} n",
        r"\int_0^1 x^{x^{x^{x}}} \sin(\cos(\tan(x))) dx",
        r"\binom{10^{9}}{10^{8}}",
        "(x+y+z)^{1000}",
        "(" * 240 + "72" + ")" * 240,
        r"\sqrt{" * 80 + "72" + "}" * 80,
        r"\frac{1}{" * 50 + "72" + "}" * 50,
        "9" * 499,
        "9" * 10**6,
        "{" * 10**6,
        "-" * 499 + "7",
        "7^" * 249 + "7",
        "\x00\ud800",
    ],
)
def test_a_hostile_answer_earns_nothing_and_ends(answer):
    """Two seconds of CPU time each, then the process is another one; an honest answer is judged as before."""
    start = time.monotonic()
    response = Response(rf"<think> so </think> <answer> \boxed{{{answer}}} </answer>", tokens=9, truncated=False)
    score = MathAccuracy(seconds=2.0).score(question("72"), response)
    assert score.value == 0 and score.status in ("judged", "unparsable", "timeout")
    assert compare("1/2", r"\frac{2}{4}", 10.0) == "right"
    assert time.monotonic() - start < 60


def test_a_time_out_is_told():
    assert compare("72", r"\sum_{n=1}^{10^{9}} \sin(n^n)", 1e-3) == "timeout"


def question(answer: str) -> Question:
    return Question(id=0, text="How many?", answer=answer, language="en", difficulty=1)


def tagged(answer: str, truncated: bool = False) -> Response:
    return Response(f"<think> so </think> <answer> {answer} </answer>", tokens=9, truncated=truncated)


def summed_up(reply: str) -> Response:
    return Response(f"<think> so </think> {reply}", tokens=9, truncated=False, form="chat")


@pytest.mark.parametrize(
    "response, score",
    [
        (tagged("0.5"), Score(1)),
        (tagged(r"It is \boxed{\frac{1}{2}}."), Score(1)),
        (tagged(r"\boxed{\dfrac{2}{4}}, that is \boxed{0.5}"), Score(1)),
        (tagged(r"\boxed{\dfrac{2}{4}}, that is \boxed{0.6}"), Score(0)),
        (tagged(" ".join(rf"\boxed{{{n}/{2 * n}}}" for n in range(1, 20))), Score(0, "unparsable")),
        (tagged("0.6"), Score(0)),
        (tagged("0.5", truncated=True), Score(0, "truncated")),
        (Response("0.5", tokens=9, truncated=False), Score(0, "unparsable")),
        (Response(r"<think> \boxed{0.5} </think> <answer> 0.6 </answer>", tokens=9, truncated=False), Score(0)),
        (
            Response("<think> <answer> 0.5 </answer> </think> <answer> 0.6 </answer>", tokens=9, truncated=False),
            Score(0, "unparsable"),
        ),
        (Response("<think>" * 999 + r"\boxed{0.5}", tokens=9, truncated=False), Score(0, "unparsable")),
        (tagged(r"\boxed{0.5"), Score(0, "unparsable")),
        (tagged(r"\boxed{}"), Score(0, "unparsable")),
        (summed_up(r"So the half is \boxed{\frac{1}{2}}, about 0.50."), Score(1)),
        (summed_up("So the half is 0.5."), Score(1)),
        (summed_up(r"Either \boxed{0.5} or \boxed{0.6}."), Score(0)),
        (summed_up("Either 0.5 or 0.6."), Score(0, "unparsable")),
    ],
)
def test_the_answer_of_a_response(response, score):
    assert isinstance(MathAccuracy(), Reward)
    assert MathAccuracy(seconds=10.0).score(question("1/2"), response) == score


def test_a_process_that_cannot_start_is_named(monkeypatch):
    monkeypatch.setattr(mathematics.sys, "executable", "/bin/false")
    monkeypatch.setattr(mathematics, "_VERIFIER", mathematics._Verifier())
    with pytest.raises(UserError, match="MathAccuracy: /bin/false .*verifier.py does not start; is math-verify inst"):
        mathematics.compare("5/7", "10/14", 1.25)


def test_the_process_ends_with_its_stdin():
    verifier = mathematics._Verifier()
    assert verifier.ask("1/2", "2/4", 10.0) == "right"
    process = verifier._process
    assert os.getpgid(process.pid) != os.getpgid(0)
    process.stdin.close()
    assert process.wait(20) == 0
    process.stdout.close()


def test_mistakes_are_named():
    with pytest.raises(UserError, match="MathAccuracy.seconds is 0; it must be positive"):
        MathAccuracy(seconds=0)
