"""The documentation against the code: what it names exists, what it lists is complete.

`python -m tests.unit.test_docs` writes the table of docs/configuration.md anew.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from gateway import create_app
from tollgate.settings import PREFIX, Settings, field_names

ROOT = Path(__file__).parents[2]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"])
CONFIGURATION = ROOT / "docs" / "configuration.md"
TABLE_HEAD = "| setting | default | meaning |\n|---|---|---|\n"


def settings_table() -> str:
    """Every setting with its default and its meaning, in the order of their declaration."""
    rows = []
    for name in field_names():
        field = Settings.model_fields[name]
        default = "" if field.default is None else f"`{field.default}`"
        rows.append(f"| `{PREFIX}{name.upper()}` | {default} | {field.description} |\n")
    return TABLE_HEAD + "".join(rows)


def with_table(text: str) -> str:
    """`text` with its table of settings replaced by the true one."""
    return re.sub(re.escape(TABLE_HEAD) + r"(?:\|.*\n)*", lambda _: settings_table(), text, count=1)


def headings(page: Path) -> set[str]:
    """The anchors of a page, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def defined_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def short(page: Path) -> str:
    return str(page.relative_to(ROOT))


def test_every_setting_is_documented_as_it_is() -> None:
    text = CONFIGURATION.read_text(encoding="utf-8")
    assert text == with_table(text), "write it anew: python -m tests.unit.test_docs"
    assert settings_table() in text


@pytest.mark.parametrize("page", PAGES, ids=short)
def test_a_link_leads_somewhere(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\((?!https?://)([^)]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        target = page if not path else (page.parent / path).resolve()
        if not target.exists() or (anchor and anchor not in headings(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=short)
def test_a_test_that_is_named_exists(page: Path) -> None:
    named = re.findall(r"(tests/[\w/]+\.py)::(\w+)", page.read_text(encoding="utf-8"))
    missing = [
        f"{path}::{name}" for path, name in named if not (ROOT / path).exists() or name not in defined_in(ROOT / path)
    ]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=short)
def test_a_module_that_is_named_exists(page: Path) -> None:
    named = re.findall(
        r"`((?:tollgate|gateway|worker)(?:\.[a-z_]+)+)(?:\.[A-Z]\w*)?`", page.read_text(encoding="utf-8")
    )
    paths = [ROOT / name.replace(".", "/") for name in named]
    missing = [path for path in paths if not (path.is_dir() or path.with_suffix(".py").exists() or _is_member(path))]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=short)
def test_a_variable_that_is_named_is_read_by_somebody(page: Path) -> None:
    others = {"URL", "KEY", "DEBUG", "ADMIN_KEY", "TEST_DATABASE_URL", "TEST_REDIS_URL", "REQUIRE_SERVICES", "PORT"}
    named = set(re.findall(PREFIX + r"([A-Z][A-Z_]*[A-Z])", page.read_text(encoding="utf-8")))
    assert named - others - {name.upper() for name in field_names()} == set()


def test_every_route_is_documented_and_no_other() -> None:
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `([A-Z]+ /[^`]*)` \|", text, flags=re.MULTILINE))
    served = {
        f"{method.upper()} {path}" for path, methods in create_app().openapi()["paths"].items() for method in methods
    }
    assert documented == served


def test_decisions_are_numbered_without_a_gap() -> None:
    pages = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert [int(page.name[:4]) for page in pages] == list(range(1, len(pages) + 1))
    assert all(page.read_text(encoding="utf-8").startswith(f"# {int(page.name[:4])}. ") for page in pages)


def _is_member(path: Path) -> bool:
    """`package.module.function`: defined in that module."""
    module = path.parent.with_suffix(".py")
    return module.exists() and path.name in defined_in(module)


if __name__ == "__main__":
    CONFIGURATION.write_text(with_table(CONFIGURATION.read_text(encoding="utf-8")), encoding="utf-8")
