"""Answer extraction and comparison: real responses, and the texts that a policy would try instead of an answer."""

import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1jax.reward.answers import TAGS, boxed, canonical, equal, last_number, parse, plain, reply, stated, thinking

GOOD = "<think> 7+5=2 so 2 </think> <answer> 2 </answer>"


def test_a_well_formed_response_is_parsed():
    assert parse(GOOD) == ("7+5=2 so 2", "2", "2")
    assert parse("\n<think>七加五得二</think>\n\n<answer>2</answer>\n") == ("七加五得二", "2", "2")


def test_a_box_holds_the_answer_in_either_form():
    for end in ("{}", "<answer>{}</answer>"):
        form = "zero" if "answer" in end else "chat"
        boxes = {r"It is \boxed{2}.": "2", r"\boxed{2}, or \boxed{3}": "", r"\boxed{2}, so \boxed{2.0}": "2"}
        for said, answer in boxes.items():
            assert parse("<think>so</think>" + end.format(said), form).answer == answer
    assert parse(r"<think>so</think><answer>\boxed{2</answer>").answer == r"\boxed{2"


def test_empty_thinking_still_has_an_answer():
    assert parse("<think></think><answer>2</answer>") == ("", "2", "2")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2",
        "It is 2.",
        "<think> 2 </think> 2",
        "<think> 2 <answer> 2 </answer>",
        "<answer> 2 </answer>",
        "<answer> 2 </answer> <think> 2 </think>",
        "<think> <answer> 2 </answer> </think>",
        "<think> <answer> 2 </think> </answer>",
        "<think> so </think> <answer> </answer>",
        "<think> so </think> <answer> 2",
        "<think> so </think> well <answer> 2 </answer>",
        "hm <think> so </think> <answer> 2 </answer>",
        "<think> so </think> <answer> 2 </answer>.",
        "<think> so </think> <answer> 2 </answer> <answer> 3 </answer>",
        "<think> so </think> <answer> 2 <answer> 3 </answer> </answer>",
        "<think> <think> so </think> </think> <answer> 2 </answer>",
        "<think> so <think> on </think> <answer> 2 </answer>",
        "<think> so <answer> 1 </answer> </think> <answer> 2 </answer>",
        "<think> so </answer> </think> <answer> 2",
        "</think> so <think> <answer> 2 </answer>",
        "<THINK> so </THINK> <ANSWER> 2 </ANSWER>",
        "<think> so </think> \u200b <answer> 2 </answer>",
        "<think> the reasoning </think> <answer> the answer </answer>. User: 1+1. Assistant: " + GOOD,
    ],
)
def test_anything_else_has_no_answer(text):
    assert parse(text) is None


@given(st.lists(st.sampled_from([*TAGS, " ", "2", "so", "\n"]), max_size=12))
def test_only_the_template_is_ever_parsed(pieces):
    tags = [piece for piece in pieces if piece in TAGS]
    parts = parse("".join(pieces))
    if parts is not None:
        assert tags == list(TAGS)
        assert parts.answer and not any(tag in part for part in parts for tag in TAGS)


@given(st.text())
def test_no_text_crashes(text):
    parse(text), last_number(text), canonical(text), thinking(text), equal(text, "2")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("7+5=2, then 2-8=4. It is 4.", "4"),
        ("so 9-4", "4"),
        ("so (9)-4", "4"),
        ("the answer is -4", "-4"),
        ("答案是-4。", "-4"),
        ("是 12 个", "12"),
        ("3.50 in all", "3.50"),
        ("<think>1</think><answer>2</answer>", "2"),
        ("<answer>1</answer>2<answer></answer>", "2"),
        ("none at all", None),
        ("", None),
    ],
)
def test_last_number(text, number):
    assert last_number(text) == number


@pytest.mark.parametrize("text", ["٣", "３", "5٣", "٣5", "²"])
def test_digits_of_other_scripts_are_no_answer(text):
    assert not any(equal(last_number(text) or "", digit) for digit in "0123456789")
    assert not any(equal(text, digit) for digit in "0123456789")


@pytest.mark.parametrize(
    ("answer", "truth", "same"),
    [
        ("7", "7", True),
        (" +07.0 ", "7", True),
        ("-0", "0", True),
        ("0.10", ".1", False),
        ("-7", "7", False),
        ("7", "70", False),
        ("7.5", "7.50", True),
        ("1e1", "10", False),
        ("5+2", "7", False),
        ("7 or 8", "7", False),
        ("7,8", "7", False),
        ("7+5*3-8+2", "6", False),
        ("B", "B", True),
        ("b", "B", False),
        ("nan", "nan", True),
        ("", "", False),
        (" ", "", False),
        ("7\x00", "7", False),
        ("__import__('os').abort()", "7", False),
    ],
)
def test_equal(answer, truth, same):
    assert equal(answer, truth) is same


decimals = st.from_regex(r"[+-]?[0-9]{1,6}(\.[0-9]{1,6})?", fullmatch=True)


@given(decimals, decimals)
def test_equal_numbers_and_only_those_share_a_spelling(a, b):
    assert equal(a, b) == (Fraction(a) == Fraction(b))
    assert Fraction(canonical(a)) == Fraction(a) and canonical(canonical(a)) == canonical(a)


@pytest.mark.parametrize(
    "text",
    [
        "9" * 10**6,
        "<think>so</think><answer>" + "9" * 10**6 + "</answer>",
        "<think>" * 10**5,
        "<answer>2</answer>" * 10**5,
        "-" * 10**6,
        "1." * 10**6,
        "1-" * 10**6,
        "9" * 10**6 + "x",
        " " * 10**6,
        "<" * 10**6,
        "٣" * 10**6,
    ],
)
def test_a_huge_text_takes_no_time_and_earns_nothing(text):
    start = time.process_time()
    parts = parse(text)
    assert not (parts and equal(parts.answer, "2"))
    assert not equal(text, "2")
    last_number(text), thinking(text)
    assert time.process_time() - start < 5


def test_thinking_is_what_stands_before_its_end():
    assert thinking(GOOD).strip() == "7+5=2 so 2"
    assert thinking("so it goes").strip() == "so it goes"
    assert thinking("<think> still at it").strip() == "still at it"
    assert plain("<th<think>ink>") == "<th ink>"


@pytest.mark.parametrize(
    "text, said",
    [
        (GOOD, "2"),
        ("<think> so 2 </think>\n\nIt is 2.\n", "It is 2."),
        ("<think> a </think> b <think> c </think> d", "d"),
        (" so 2 </think> It is 2.", "It is 2."),
        ("Hello, how are you?", "Hello, how are you?"),
        ("<think> still at it", ""),
        ("<think> so 2 </think>", ""),
        ("<think> so 2 </think> <answer> 2", "2"),
        ("", ""),
    ],
)
def test_a_reply_is_what_the_reader_sees(text, said):
    assert reply(text) == said


def test_a_chat_response_is_reasoning_and_a_summary():
    text = "<think> 7+5=2 so 2 </think>\n\nThe answer is 2."
    assert parse(text, "chat") == ("7+5=2 so 2", "The answer is 2.", "2")
    assert parse(text) is None and parse(GOOD, "chat") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "The answer is 2.",
        "<think> so 2 </think>",
        "<think> so 2 </think>  \n",
        "<think> The answer is 2.",
        "hm <think> so </think> 2",
        "<think> so </think> 2 <think> so </think> 2",
        "<think> so </think> <answer> 2 </answer>",
        "</think> 2 <think>",
    ],
)
def test_anything_else_is_no_chat_response(text):
    assert parse(text, "chat") is None


@pytest.mark.parametrize(
    "reply, answer",
    [
        ("The answer is 2.", "2"),
        ("答案是2。", "2"),
        ("2 + 5 is 7.", ""),
        ("It is 2, yes, 2.0.", "2"),
        ("It is 2. Or 3.", ""),
        (r"5 and 3 make \boxed{8}.", "8"),
        (r"\boxed{8} or \boxed{9}", ""),
        (r"\boxed{8}, so \boxed{ 8.0 }", "8"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1\}}", r"\{1\}"),
        (r"\boxed{8", "8"),
        (r"\boxed{\boxed{8}}", r"\boxed{8}"),
        ("None at all.", "None at all."),
    ],
)
def test_a_summary_states_one_answer_or_none(reply, answer):
    assert stated(reply) == answer


def test_a_million_boxes_take_no_time():
    start = time.process_time()
    assert boxed(r"\boxed{" * 200_000) == []
    assert len(boxed(r"\boxed{1}" * 200_000)) == 200_000
    assert time.process_time() - start < 5
