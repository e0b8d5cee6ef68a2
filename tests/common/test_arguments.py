"""Arguments of classes that configs name."""

import pytest

from common import arguments
from common.errors import UserError


class Thing:
    def __init__(self, given, first, second=2):
        if second < 0:
            raise ValueError("second is negative")
        self.values = given, first, second


def test_an_object_of_its_arguments():
    assert arguments.construct("thing", Thing, 0, first=1).values == (0, 1, 2)


@pytest.mark.parametrize("given, message", [
    (dict(first=1, secnd=3), r"^thing: it takes no secnd; did you mean second\?$"),
    (dict(first=1, x=3), "^thing: it takes no x; it takes first, second$"),
    (dict(second=3), "^thing: it needs first, which the config does not have"),
    (dict(first=1, second=-1), r"^thing: second is negative \(with first=1, second=-1\)$"),
    (dict(first=1, second="a"), "^thing: .*not supported"),
    (dict(given=1, first=1), "^thing: it takes no given"),
])
def test_mistakes(given, message):
    with pytest.raises(UserError, match=message):
        arguments.construct("thing", Thing, 0, **given)


def test_what_takes_anything_checks_it_itself():
    assert arguments.construct("list", lambda **given: given, a=1) == {"a": 1}
