"""Settings are read by type, and refused with the name of the variable."""

from __future__ import annotations

import pytest

from adapters.env import BadSetting, choice, flag, number, text


def test_unset_and_empty_take_the_default() -> None:
    for environ in ({}, {"X": ""}):
        assert text(environ, "X", "d") == "d"
        assert text(environ, "X", "") == ""
        assert number(environ, "X", 3, minimum=0, maximum=9) == 3
        assert choice(environ, "X", "a", ("a", "b")) == "a"
        assert flag(environ, "X") is False


def test_a_setting_without_a_default_must_be_set() -> None:
    with pytest.raises(BadSetting, match="X is not set"):
        text({}, "X")


@pytest.mark.parametrize("value", ["-1", "10", "1.5", "1_0", " 1", "٣", "0x1", "nine", "9" * 5000])
def test_a_value_that_is_no_number_within_bounds_is_refused(value: str) -> None:
    with pytest.raises(BadSetting, match="X must be a whole number from 0 to 9"):
        number({"X": value}, "X", 3, minimum=0, maximum=9)


def test_a_choice_that_is_not_offered_is_refused() -> None:
    with pytest.raises(BadSetting, match="X must be one of a, b, not 'c'"):
        choice({"X": "c"}, "X", "a", ("a", "b"))
    with pytest.raises(BadSetting, match="X must be one of true, false"):
        flag({"X": "yes"}, "X")
    assert flag({"X": "true"}, "X") is True
