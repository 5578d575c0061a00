"""Every error Tollgate raises by name.

    TollgateError
    ├── SettingsError              a setting, models.toml or prices.toml is wrong: nothing starts
    ├── RequestError               what a client sent, or asked for; a dialect turns it into its answer
    │   ├── InvalidRequestError        a field is missing or out of range
    │   ├── UnknownModelError          no route for this model
    │   ├── PayloadTooLargeError       the body or the list is over its limit
    │   │   └── FileTooLargeError          a file is over its limit
    │   ├── AuthenticationError        no key, or not one of ours
    │   ├── PermissionDeniedError      a good key without the right
    │   ├── BudgetExceededError        what it may cost does not fit the project's or the key's budget
    │   ├── RateLimitedError           more than its key may send in a minute, or have in flight
    │   ├── NotFoundError              no such thing, or another project's
    │   ├── RequestIdConflictError     the request_id belongs to another body
    │   ├── FileInUseError             a batch is still being read from the file
    │   ├── StillOpenError             it has not ended, so nothing of it can be erased
    │   └── ErasedError                the answer was there, and was erased
    ├── StoreUnavailableError      the database does not answer: try again soon
    ├── FilesUnavailableError      the bytes of a file cannot be read or written
    │   └── StorageFullError           there is no room for them
    └── UpstreamError              an attempt failed; `tollgate.domain.verdicts` says what follows
        └── PollError                  an answer could not be fetched; it may still be there

No HTTP status stands here: each dialect has one table from error to answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tollgate.domain.usage import TokenUsage


class TollgateError(Exception):
    """Root of the tree. `str(error)` is a sentence fit for the person who caused it."""


class SettingsError(TollgateError):
    """A setting or a configuration file is wrong. Says which one, and what to write instead."""


class RequestError(TollgateError):
    """The client's request cannot be served as it stands."""


class InvalidRequestError(RequestError):
    """A field of the request is missing or out of range.

    `field` is a dotted path ("messages.0.role"), `allowed` a phrase ("a number from 0 to 1").
    `code` is ZhipuAI's business code for it: 1210 bad call, 1213 missing, 1214 invalid, 1215 exclusive.
    """

    def __init__(self, message: str, *, field: str, allowed: str | None = None, code: str = "1214") -> None:
        super().__init__(message)
        self.field = field
        self.allowed = allowed
        self.code = code


class UnknownModelError(RequestError):
    """No route for this model; carries the known names."""

    def __init__(self, model: str, *, known: tuple[str, ...]) -> None:
        super().__init__(f"unknown model {model!r}; known models: {', '.join(known) or 'none'}")
        self.model = model
        self.known = known


class PayloadTooLargeError(RequestError):
    """The body has too many bytes, or the list too many tasks."""


class FileTooLargeError(PayloadTooLargeError):
    """A file has more bytes than one may have."""


class AuthenticationError(RequestError):
    """The request names no valid key.

    `reason` is one of "missing", "malformed", "unknown", "signature", "expired", "revoked".
    """

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class PermissionDeniedError(RequestError):
    """The key is good, but has no right to this."""


class BudgetExceededError(RequestError):
    """What the submission may cost does not fit a budget. Nothing of it was accepted.

    `left` is what the budget has left: "cost" a decimal string, "tokens" a count; only what it limits.
    """

    def __init__(self, message: str, *, budget_id: str | None, left: Mapping[str, str | int]) -> None:
        super().__init__(message)
        self.budget_id = budget_id
        self.left = left


class RateLimitedError(RequestError):
    """A limit of the key, or on the project's tasks in flight, has no room for it. Nothing of it was accepted.

    `limit` names it ("requests_per_minute", "tokens_per_minute", "max_in_flight"), `allowed` is its value and `left`
    what it has left. It can fit in `retry_after_s`; None: never, it asks for more than the whole limit. `of_key` is
    false for a project's limit.
    """

    def __init__(
        self,
        message: str,
        *,
        limit: str,
        allowed: int,
        left: int,
        retry_after_s: float | None,
        of_key: bool = True,
    ) -> None:
        super().__init__(message)
        self.limit = limit
        self.allowed = allowed
        self.left = left
        self.retry_after_s = retry_after_s
        self.of_key = of_key


class NotFoundError(RequestError):
    """No such thing for this project. Another project's is told the same way."""

    def __init__(self, kind: str, identifier: str) -> None:
        super().__init__(f"no {kind} {identifier!r}")
        self.kind = kind
        self.identifier = identifier


class RequestIdConflictError(RequestError):
    """The request_id was used before, with another body. `task_id` is the task it made."""

    def __init__(self, request_id: str, *, task_id: str) -> None:
        super().__init__(f"request_id {request_id!r} was already used, with another body, by task {task_id}")
        self.request_id = request_id
        self.task_id = task_id


class FileInUseError(RequestError):
    """The file cannot be deleted yet: the lines of `batch_id` are still being read from it."""

    def __init__(self, file_id: str, *, batch_id: str) -> None:
        super().__init__(
            f"file {file_id} is the input of batch {batch_id}, which is still validating; cancel that, or delete the "
            "file later"
        )
        self.batch_id = batch_id


class StillOpenError(RequestError):
    """What waits or runs cannot be erased."""

    def __init__(self, kind: str, identifier: str, *, state: str) -> None:
        super().__init__(f"{kind} {identifier} is {state}: cancel it first, and delete it when it has ended")
        self.kind = kind
        self.identifier = identifier


class ErasedError(RequestError):
    """The task succeeded, and its answer was erased: by its owner, or because its project keeps answers so long."""

    def __init__(self, task_id: str) -> None:
        super().__init__(f"the answer of task {task_id} was erased; what it cost is still in the accounts")
        self.task_id = task_id


class StoreUnavailableError(TollgateError):
    """The database does not answer. Nothing was accepted; the client may send the same again."""


class FilesUnavailableError(TollgateError):
    """Where files are kept cannot be read or written, or does not have what it should. Nothing was kept."""


class StorageFullError(FilesUnavailableError):
    """There is no room left where files are kept. Nothing was kept, and nothing is by sending it again."""


class UpstreamError(TollgateError):
    """One try at an upstream did not bring an answer.

    `code` is the upstream's business code if its body had one, `http_status` its HTTP status if it
    answered at all, `usage` what the call cost all the same, where it said so, `kind` what went wrong where
    there is neither code nor status:
    "connect" (never sent), "timeout", "cut", "garbage" (an answer that cannot be read), "cancelled".
    """

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        http_status: int | None = None,
        kind: str | None = None,
        retry_after_s: float | None = None,
        usage: TokenUsage | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.http_status = http_status
        self.kind = kind
        self.retry_after_s = retry_after_s
        self.usage = usage


class PollError(UpstreamError):
    """The result of a submitted call could not be fetched this time. The call itself is not concerned."""


class LeaseRanOutError(UpstreamError):
    """Not sent: the worker no longer holds the task. It says nothing of the upstream."""
