"""Values that are made for every task: frozen dataclasses as far as the type checker can see.

A dataclass that is frozen at run time sets each field by `object.__setattr__`: the thirty of a NewTask take 9 us that
way, and 1.3 by plain assignment. A task makes some fifteen such values between its POST and its settlement. What is
made once, or seldom, is a frozen dataclass as anywhere else.
"""

from __future__ import annotations

import dataclasses
from typing import TypeVar, dataclass_transform

Made = TypeVar("Made")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(dataclasses.field,))
def value(cls: type[Made]) -> type[Made]:
    """A dataclass with slots, keyword arguments and a hash; to assign to its fields is a type error (PEP 681)."""
    return dataclasses.dataclass(slots=True, kw_only=True, unsafe_hash=True)(cls)
