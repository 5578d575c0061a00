"""The folder of uploaded files, as this machine sees it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tollgate.cli.doctor.report import Check, fail, ok, warn
from tollgate.settings import Settings

NAME = "files folder"
FIX = "correct TOLLGATE_FILES, or give the gateway's user the right to write there"


def check(settings: Settings) -> Check:
    """Whether it can be written to, and has room for the largest file."""
    folder = settings.files_folder.absolute()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir():
        return fail(NAME, f"{there} is no folder", fix=FIX)
    if not os.access(there, os.W_OK | os.X_OK):
        return fail(NAME, f"{there} cannot be written to", fix=FIX)
    return _room(folder, there, settings)


def _room(folder: Path, there: Path, settings: Settings) -> Check:
    free = shutil.disk_usage(there).free
    found = f"{folder}: {free / 1e9:,.1f} GB free" + ("" if there == folder else "; the first upload makes it")
    if free < settings.max_file_bytes:
        return warn(NAME, found, fix=f"make room: a file may have {settings.max_file_bytes / 1e9:,.1f} GB")
    return ok(NAME, found)
