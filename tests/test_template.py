"""The templates of R1-Zero and of R1."""

import pytest

from r1jax.base.fields import UserError
from r1jax.data.template import Chat, Zero


def test_the_template_shows_the_tags_and_ends_where_the_assistant_begins():
    prompt = Zero().render("What is 7+5?")
    assert prompt.endswith(" User: What is 7+5?. Assistant:")
    assert all(tag in prompt for tag in ("<think>", "</think>", "<answer>", "</answer>"))
    assert "\n" not in prompt and "{" not in prompt


def test_a_token_may_stand_at_the_beginning():
    assert Zero(begin="<｜begin▁of▁sentence｜>").render("7+5") == "<｜begin▁of▁sentence｜>" + Zero().render("7+5")


@pytest.mark.parametrize("question", ["{question}", "{0} {} }{", "计算7+5。", "%s \\1", ""])
def test_a_question_is_inserted_as_it_is(question):
    assert Zero(text="User: {question}. Assistant:").render(question) == f"User: {question}. Assistant:"


@pytest.mark.parametrize("text", ["", "User: {}. Assistant:", "{question}{question}", "{ question }"])
def test_a_template_without_exactly_one_slot_is_refused(text):
    with pytest.raises(UserError, match="exactly once"):
        Zero(text=text)


def test_a_template_is_text():
    with pytest.raises(UserError, match="text"):
        Zero(text=3)


def test_a_chat_is_turns_behind_their_tokens():
    assert Chat().render("What is {7+5}?") == "<｜User｜>What is {7+5}?<｜Assistant｜>"
    assert Chat(system="Be brief.").render("7+5?") == "Be brief.<｜User｜>7+5?<｜Assistant｜>"


def test_the_reasoning_of_earlier_replies_is_dropped():
    turns = ["7+5?", "<think> 7+5 is 12 </think>\n\nTwelve.", "And 8+5?"]
    assert Chat().conversation(turns) == (
        "<｜User｜>7+5?<｜Assistant｜>Twelve.<｜end▁of▁sentence｜><｜User｜>And 8+5?<｜Assistant｜>"
    )


def test_a_conversation_ends_with_the_user():
    with pytest.raises(UserError, match="of 2 turns does not end with the user's"):
        Chat().conversation(["7+5?", "12"])
