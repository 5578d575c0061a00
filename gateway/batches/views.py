"""The content of output and error files: there is none but the results themselves, read when it is asked for."""

from __future__ import annotations

from urllib.parse import quote

from fastapi.responses import StreamingResponse

from gateway.batches import result_pages, results
from gateway.services import Services
from tollgate.domain.errors import NotFoundError
from tollgate.store import batches
from tollgate.store.batch_results import Which
from tollgate.store.files import File


async def content_of_view(services: Services, one: File) -> StreamingResponse:
    """The lines that succeeded, or the others, in the order of the input.

    Raises NotFoundError for a file of before its batch was tried again: the next end makes new ones."""
    if one.batch_id is None:
        raise ValueError(f"file {one.id} is no view")
    async with services.database.read() as connection:
        batch = await batches.find(connection, one.batch_id, project_id=one.project_id)
    which = {batch.output_file_id: Which.SUCCEEDED, batch.error_file_id: Which.FAILED}.get(one.id)
    if which is None:
        raise NotFoundError("file", str(one.id))
    pages = result_pages.by_line(services.database, batch, which=which)
    name = f"attachment; filename*=UTF-8''{quote(one.filename, safe='')}"
    headers = {"content-disposition": name, "accept-ranges": "none"}
    return await results.stream(pages, results.OpenAILines(batch), headers=headers)
