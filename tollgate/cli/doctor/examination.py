"""The doctor's round: each part in turn, whatever became of the one before where it can do without."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tollgate.cli import options
from tollgate.cli.doctor import configured, files, gateway, links, store, uploads, upstreams
from tollgate.cli.doctor.report import Report, fail
from tollgate.domain.errors import SettingsError


def examine(*, url: str | None, key: str | None, data: Path | None, slow: bool) -> Report:
    """Look at everything. Never raises for what is wrong with the installation: that is what it reports."""
    report = Report()
    try:
        settings = options.settings(data)
    except SettingsError as error:
        report.checks.append(fail("settings", str(error), fix="correct the variable; nothing starts before"))
        report.checks.extend(gateway.check(url=url, key=key, data=data))
        return report
    catalog, checks = files.check(settings)
    report.settings = configured.shown(settings)
    report.checks.append(configured.check(settings, catalog))
    report.checks.extend(checks)
    report.checks.append(uploads.check(settings))
    report.checks.extend(asyncio.run(store.check(settings, catalog, slow=slow)))
    report.checks.extend(links.check(settings))
    if catalog is not None:
        report.checks.extend(upstreams.check(catalog, settings))
    report.checks.extend(gateway.check(url=url, key=key, data=data))
    return report
