"""A name messages are sent under, and the type they have.

Floor 5.  May import: validator, errors.  Imported by: on, context.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Generic

from typing_extensions import TypeForm, TypeVar

from everstep.errors import ConfigError
from everstep.steps.validator import Validator, validator_of

T = TypeVar("T")


class Topic(Generic[T]):
    """
    What messages are sent to: any number of Steps may listen, each gets its own copy.

    A message is checked against *type* before it is sent, and again by each
    Step that gets it.

    >>> submitted = Topic("order.submitted", Order)
    """

    def __init__(self, name: str, type: TypeForm[T]) -> None:
        if not isinstance(name, str) or not name:
            raise ConfigError(f"a topic needs a name, such as 'order.submitted'; {name!r} is none")
        self.name = name
        self.type: Any = type

    def __repr__(self) -> str:
        return f"Topic({self.name!r}, {getattr(self.type, '__name__', self.type)})"

    @cached_property
    def validator(self) -> Validator:
        """What checks its messages; made when first needed, so that types may be defined later."""
        return validator_of(self.type)
