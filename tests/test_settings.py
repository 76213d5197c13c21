"""Settings come from the environment; what is wrong there is said, not guessed."""

import logging
from typing import Any

import pytest

from everstep.errors import ConfigError
from everstep.settings import Settings


def test_nothing_set_is_the_embedded_default() -> None:
    """One file, loopback, production."""
    found = Settings.load({})

    assert found == Settings()
    assert (found.store, found.host, found.port) == ("sqlite:///everstep.db", "127.0.0.1", 3111)
    assert (found.concurrency, found.lease, found.work, found.evict, found.dev) == (
        100,
        15.0,
        True,
        "lru",
        False,
    )
    assert (found.body_limit, found.drain, found.retention) == (1_048_576, 25.0, 604_800.0)


def test_every_variable_is_read() -> None:
    """As people write them."""
    env = {
        "EVERSTEP_STORE": "postgresql://app@db/everstep",
        "EVERSTEP_HOST": "0.0.0.0",
        "EVERSTEP_PORT": "8080",
        "EVERSTEP_CONCURRENCY": "7",
        "EVERSTEP_LEASE": "1m",
        "EVERSTEP_WORK": "OFF",
        "EVERSTEP_EVICT": "always",
        "EVERSTEP_DEV": "1",
        "EVERSTEP_LOG": "json",
        "EVERSTEP_LOG_LEVEL": "WARN",
        "EVERSTEP_BODY_LIMIT": " 512KB ",
        "EVERSTEP_DRAIN": "0",
        "EVERSTEP_RETENTION": "30d",
        "PATH": "/bin",
    }

    assert Settings.load(env) == Settings(
        store="postgresql://app@db/everstep",
        host="0.0.0.0",
        port=8080,
        concurrency=7,
        lease=60.0,
        work=False,
        evict="always",
        dev=True,
        log="json",
        log_level="warning",
        body_limit=512_000,
        drain=0.0,
        retention=2_592_000.0,
    )


def test_what_the_caller_says_wins_and_none_says_nothing() -> None:
    """Options of a command line are handed on as they are."""
    env = {"EVERSTEP_PORT": "8080", "EVERSTEP_LOG": "", "EVERSTEP_DRAIN": " "}

    found = Settings.load(env, port=9000, lease="20s", store=None, dev=True)

    assert (found.port, found.lease, found.dev, found.log, found.drain) == (9000, 20.0, True, "pretty", 25.0)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("STORE", "orders.db", "a store's URL such as sqlite:///everstep.db"),
        ("PORT", "abc", "a port from 0 to 65535"),
        ("PORT", "70000", "a port from 0 to 65535"),
        ("CONCURRENCY", "0", "a whole number from 1"),
        ("CONCURRENCY", "1.5", "a whole number from 1"),
        ("LEASE", "soon", "a duration such as 15s"),
        ("LEASE", "200ms", "of a second or more"),
        ("WORK", "maybe", "on or off"),
        ("EVICT", "allways", "Did you mean 'always'?"),
        ("DEV", "2", "0 or 1"),
        ("LOG", "jsn", "Did you mean 'json'?"),
        ("LOG_LEVEL", "verbose", "debug, info, warning or error"),
        ("BODY_LIMIT", "big", "a size such as 1MiB"),
        ("BODY_LIMIT", "1PB", "a size such as 1MiB"),
        ("BODY_LIMIT", "0", "a size such as 1MiB"),
        ("BODY_LIMIT", "-5", "a size such as 1MiB"),
        ("DRAIN", "-1s", "a duration such as 15s"),
        ("RETENTION", "1000000w", "a duration such as 15s"),
    ],
)
def test_a_wrong_value_names_variable_value_and_remedy(name: str, value: str, says: str) -> None:
    """The start stops with one line."""
    with pytest.raises(ConfigError) as refused:
        Settings.load({f"EVERSTEP_{name}": value})

    text = str(refused.value)
    assert text.startswith(f"EVERSTEP_{name} is {value!r}; it takes ")
    assert says in text


@pytest.mark.parametrize(
    ("text", "size"),
    [("1MiB", 1 << 20), ("1.5kib", 1536), ("2 GB", 2_000_000_000), ("4096", 4096), (10, 10), ("7b", 7)],
)
def test_sizes_are_read_as_people_write_them(text: Any, size: int) -> None:
    """Powers of ten and of two are told apart."""
    assert Settings.load({}, body_limit=text).body_limit == size


def test_a_misspelt_variable_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    """With a suggestion; those of the tests are none of its business."""
    root = logging.getLogger("everstep")
    root.addHandler(caplog.handler)
    try:
        Settings.load({"EVERSTEP_STROE": "x", "EVERSTEP_TEST_POSTGRES": "x", "EVERSTEP_TORTURE": "1"})
    finally:
        root.removeHandler(caplog.handler)

    lines = {record.getMessage() for record in caplog.records}
    assert lines == {"EVERSTEP_STROE is no setting and is ignored. Did you mean 'EVERSTEP_STORE'?"}


def test_an_unknown_override_is_refused() -> None:
    """Ours or the user's slip: say which name was meant."""
    with pytest.raises(ConfigError, match="Did you mean 'port'"):
        Settings.load({}, prot=1)
