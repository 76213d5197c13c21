"""Updates are all or nothing, follow the algebra one expects, and never change what they are given."""

import copy
import math
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from everstep.core.updates import apply, split, validate_ops
from everstep.errors import UpdateError

KEYS = st.sampled_from(["a", "b", "0", "1", "x.y", ""])
NUMBERS = st.integers(-1000, 1000) | st.floats(-1e6, 1e6)
LEAVES = st.none() | st.booleans() | NUMBERS | st.text(max_size=3)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=8
)
PATHS = st.lists(KEYS, min_size=1, max_size=3)
WAYS = PATHS.map(lambda keys: ".".join(k.replace("\\", r"\\").replace(".", r"\.") for k in keys))
OPS = st.one_of(
    st.fixed_dictionaries({"type": st.just("set"), "path": WAYS, "value": VALUES}),
    st.fixed_dictionaries({"type": st.sampled_from(["increment", "decrement"]), "path": WAYS, "by": NUMBERS}),
    st.fixed_dictionaries({"type": st.just("append"), "path": WAYS, "value": VALUES}),
    st.fixed_dictionaries(
        {"type": st.just("merge"), "path": WAYS, "value": st.dictionaries(KEYS, VALUES, max_size=3)}
    ),
    st.fixed_dictionaries({"type": st.just("remove"), "path": WAYS}),
)


class Refused(Exception):
    """The model's way to say no."""


def model(value: Any, op: dict[str, Any]) -> Any:
    """The rule once more, naively: change a deep copy in place."""
    keys = split(op["path"])
    root = {"": copy.deepcopy(value)}
    place: Any = root
    key: Any = ""
    removes = op["type"] == "remove"
    if root[""] is None:
        if removes:
            return None
        root[""] = {}
    for part in keys:
        if isinstance(place, dict) and key not in place:
            if removes:
                return root[""]
            place[key] = {}
        place = place[key]
        if isinstance(place, dict):
            key = part
        elif (
            isinstance(place, list) and part.isdecimal() and int(part) < len(place) and str(int(part)) == part
        ):
            key = int(part)
        elif removes:
            return root[""]
        else:
            raise Refused
    there = isinstance(place, list) or key in place
    if removes:
        if there:
            del place[key]
    elif op["type"] == "set":
        place[key] = op["value"]
    else:
        empty: dict[str, Any] = {"increment": 0, "decrement": 0, "append": [], "merge": {}}
        old = place[key] if there else empty[op["type"]]
        kinds: Any = {"append": list, "merge": dict}.get(op["type"], int | float)
        if not isinstance(old, kinds) or isinstance(old, bool):
            raise Refused
        match op["type"]:
            case "increment":
                place[key] = old + op["by"] if there else op["by"]
            case "decrement":
                place[key] = old - op["by"] if there else -op["by"]
            case "append":
                place[key] = [*old, op["value"]]
            case "merge":
                place[key] = old | op["value"]
    return root.get("")


@given(VALUES, st.lists(OPS, max_size=5))
def test_updates_do_as_the_naive_model_does(value: Any, ops: list[dict[str, Any]]) -> None:
    """The same result or a refusal; and never is the value or an op changed."""
    before = copy.deepcopy((value, ops))
    expected: Any = value
    try:
        for op in ops:
            expected = model(expected, op)
    except Refused:
        with pytest.raises(UpdateError):
            apply(value, ops)
    else:
        assert repr(apply(value, ops)) == repr(expected)

    assert (value, ops) == before


@given(VALUES, WAYS, st.integers())
def test_increment_then_decrement_changes_no_number(value: Any, path: str, by: int) -> None:
    """Exact for whole numbers, and an int stays an int."""
    there = apply_or_skip(value, {"type": "set", "path": path, "value": 7})

    back = apply(there, [{"type": t, "path": path, "by": by} for t in ("increment", "decrement")])

    assert repr(back) == repr(there)


@given(VALUES, WAYS, VALUES)
def test_the_last_set_wins_and_a_set_key_can_be_removed(value: Any, path: str, new: Any) -> None:
    """Set twice is set once; set and remove leaves neither the key nor a fault."""
    once = apply_or_skip(value, {"type": "set", "path": path, "value": new})
    twice = apply(
        once, [{"type": "set", "path": path, "value": 1}, {"type": "set", "path": path, "value": new}]
    )

    assert twice == once
    gone = apply(once, [{"type": "remove", "path": path}])
    if path == "":
        assert gone is None
    elif isinstance(value, dict) and len(split(path)) == 1:
        assert gone == {k: v for k, v in value.items() if k != split(path)[0]}
    else:
        assert gone != once


@given(VALUES, WAYS)
def test_to_remove_twice_is_to_remove_once_from_dicts(value: Any, path: str) -> None:
    """What is missing is no fault, and no parent is made for it."""
    once = apply(value, [{"type": "remove", "path": path}])
    assume("[" not in repr(value))  # in a list the next item moves up

    assert apply(once, [{"type": "remove", "path": path}]) == once


def apply_or_skip(value: Any, op: dict[str, Any]) -> Any:
    try:
        return apply(value, [op])
    except UpdateError:
        assume(False)


def test_one_op_that_does_not_fit_undoes_all() -> None:
    """All or nothing, and the message names the op, the path, what was expected and what was found."""
    value = {"totals": {"cents": "12"}}

    with pytest.raises(UpdateError) as refused:
        apply(
            value,
            [{"type": "set", "path": "seen", "value": True}, {"type": "increment", "path": "totals.cents"}],
        )

    error = refused.value
    assert (error.op, error.type, error.path) == (1, "increment", "totals.cents")
    assert (error.expected, error.found) == ("a number", "str '12'")
    assert value == {"totals": {"cents": "12"}}


@pytest.mark.parametrize(
    ("value", "op", "result"),
    [
        (None, {"type": "increment"}, 1),
        (None, {"type": "append", "path": "", "value": 1}, [1]),
        (None, {"type": "merge", "path": "a", "value": {"x": 1}}, {"a": {"x": 1}}),
        (5, {"type": "remove"}, None),
        (5, {"type": "decrement", "path": "", "by": 2}, 3),
        ({"n": 1}, {"type": "increment", "path": "n", "by": 0.5}, {"n": 1.5}),
        ([{"c": 1}], {"type": "set", "path": "0.c", "value": 2}, [{"c": 2}]),
        ({"a.b": 1}, {"type": "increment", "path": r"a\.b"}, {"a.b": 2}),
        ({"a": [1, 2, 3]}, {"type": "remove", "path": "a.1"}, {"a": [1, 3]}),
        ({"a": {"b": {"c": 1}}}, {"type": "merge", "path": "a", "value": {"b": 2}}, {"a": {"b": 2}}),
    ],
)
def test_examples(value: Any, op: dict[str, Any], result: Any) -> None:
    """One of each, also at the root."""
    assert apply(value, [op]) == result


@pytest.mark.parametrize(
    ("op", "says"),
    [
        ({"type": "incrment", "path": "a"}, "Did you mean 'increment'?"),
        ({"path": "a"}, "op 1 has no type; ops are set"),
        ({"type": "set", "path": "a"}, "expected a value"),
        ({"type": "set", "path": "a", "val": 1}, "Did you mean 'value'?"),
        ({"type": "set", "path": ["a"], "value": 1}, "path to be text"),
        ({"type": "increment", "path": "a", "by": True}, "by to be a number"),
        ({"type": "increment", "path": "a", "by": math.nan}, "by to be a number"),
        ({"type": "increment", "path": "a", "by": "1"}, "by to be a number"),
        ({"type": "merge", "path": "a", "value": [1]}, "value to be a dict"),
        ({"type": "merge", "path": "a"}, "expected a value"),
        ({"type": "remove", "path": "a", "value": 1}, "only type, path"),
        ({"type": "set", "path": ".".join("a" * 101), "value": 1}, "at most 100 keys"),
        (["set", "a", 1], "an op such as"),
    ],
)
def test_a_malformed_op_is_refused_before_anything_changes(op: Any, says: str) -> None:
    """The message names the op's number and what would do."""
    with pytest.raises(UpdateError) as refused:
        validate_ops([{"type": "remove", "path": "x"}, op])

    assert refused.value.op == 1
    assert says in str(refused.value)


@pytest.mark.parametrize("ops", [{"type": "set", "path": "a", "value": 1}, "set", None, 5])
def test_ops_are_a_list(ops: Any) -> None:
    """One op alone is a common slip."""
    with pytest.raises(UpdateError, match="a list of ops"):
        validate_ops(ops)


@pytest.mark.parametrize("old", [1e308, 10**400, 10**5000], ids=["float", "int", "huge"])
def test_a_sum_stays_a_number_json_knows(old: float) -> None:
    """Infinity could not be written."""
    with pytest.raises(UpdateError, match="a sum that stays finite"):
        apply(old, [{"type": "increment", "by": 1e308}])


@given(PATHS | st.lists(st.text(), min_size=1, max_size=3))
def test_a_path_is_split_as_it_was_joined(keys: list[str]) -> None:
    r"""Dots and backslashes in keys are escaped with a backslash."""
    path = ".".join(k.replace("\\", r"\\").replace(".", r"\.") for k in keys)

    assert list(split(path)) == keys or keys == [""]
