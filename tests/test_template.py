"""R1-Zero's template."""

import pytest

from r1jax.base.fields import UserError
from r1jax.data.template import Zero


def test_the_template_shows_the_tags_and_ends_where_the_assistant_begins():
    prompt = Zero().render("What is 7+5?")
    assert prompt.endswith(" User: What is 7+5?. Assistant:")
    assert all(tag in prompt for tag in ("<think>", "</think>", "<answer>", "</answer>"))
    assert "\n" not in prompt and "{" not in prompt


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
