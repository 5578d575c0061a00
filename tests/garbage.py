"""What is left to Python's collector, which a server lets come seldom."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def nothing_left(*kinds: type) -> Iterator[None]:
    """Fails if the block leaves objects of `kinds` that only the collector would find. Catch errors inside of it by
    `try`: pytest.raises keeps their frames."""

    def there() -> set[int]:
        return {id(one) for one in gc.get_objects() if isinstance(one, kinds)}

    gc.collect()
    gc.disable()
    try:
        before = there()
        yield
        left = there() - before
    finally:
        gc.enable()
    assert not left
