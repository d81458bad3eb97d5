"""Closed sets of words."""

from typing import Literal, get_args

import pytest

from vfn.ops import words
from vfn.ops.words import check_choice


def test_a_word_of_the_set_is_taken():
    for choices in (words.OutType, words.LossType, words.VarType, words.Grid, words.Ending):
        for word in get_args(choices):
            check_choice(word, choices, "word")


@pytest.mark.parametrize("word", ["a ", "", None, 1, "c"])
def test_another_word_is_refused(word):
    with pytest.raises(ValueError, match="expected letter to be one of a, b, got"):
        check_choice(word, Literal["a", "b"], "letter")


def test_a_fixed_variance_is_a_variance():
    assert set(get_args(words.FixedVarType)) == set(get_args(words.VarType)) - {"learned"}
