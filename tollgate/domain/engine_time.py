"""How long a local engine will work for requests that have not run: as it did for others, else by the rate of its
price. Pure; all in seconds."""

from __future__ import annotations

from tollgate.domain.engine_rates import SECOND_US, EngineRate
from tollgate.domain.experience import Spread


def likely_s(
    prompt_tokens: Spread, completion_tokens: Spread, *, us_per_token: Spread | None, rate: EngineRate | None
) -> Spread | None:
    """`us_per_token`: as measured, of prompts and answers together. None: nothing is known of the engine."""
    if us_per_token is not None:
        tokens = (prompt_tokens[i] + completion_tokens[i] for i in range(3))
        return Spread(*(us * count / SECOND_US for us, count in zip(us_per_token, tokens, strict=True)))
    if rate is None:
        return None
    # Many lines keep an engine busy; the high figure is that of lines that nothing runs beside, as budgets reserve.
    busy = Spread(*((prompt_tokens[i] + completion_tokens[i]) / rate.tokens_per_second for i in range(3)))
    alone = prompt_tokens.high / rate.tokens_per_second + completion_tokens.high / rate.alone_tokens_per_second
    return busy._replace(high=alone)
