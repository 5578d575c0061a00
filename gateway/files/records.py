"""A project's files, for whichever dialect asks."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from gateway.services import Services
from tollgate.domain.tasks import Key
from tollgate.store import files
from tollgate.store.files import File


async def find(services: Services, key: Key, file_id: UUID) -> File:
    """Raises NotFoundError."""
    async with services.database.read() as connection:
        return await files.find(connection, file_id, project_id=key.project_id, now=datetime.now(UTC))


async def page(
    services: Services, key: Key, *, limit: int, purpose: str | None, after: UUID | None, oldest_first: bool
) -> tuple[list[File], bool]:
    """Up to `limit` of them, and whether there are more."""
    async with services.database.read() as connection:
        found = await files.page(
            connection,
            project_id=key.project_id,
            now=datetime.now(UTC),
            limit=limit + 1,
            purpose=purpose,
            after=after,
            oldest_first=oldest_first,
        )
    return found[:limit], len(found) > limit


async def delete(services: Services, key: Key, file_id: UUID) -> File:
    """Its row, then its bytes; as it was. Raises NotFoundError, FileInUseError."""
    async with services.database.write() as connection:
        removed = await files.remove(connection, file_id, project_id=key.project_id, now=datetime.now(UTC))
    await services.files.delete(file_id)
    return removed
