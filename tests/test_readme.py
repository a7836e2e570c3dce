"""What the README says is so."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_map_names_every_module_and_no_other() -> None:
    drawn = README.partition("alexnet_cli/\n")[2].partition("```")[0]
    named = set(re.findall(r"\b[a-z_]+\b", drawn))
    modules = {path.stem for path in (ROOT / "alexnet_cli").rglob("*.py")} - {"__init__"}
    assert modules <= named


def test_it_has_the_two_lines_that_set_it_up() -> None:
    for line in (
        "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/alexnet demo",
        "python3 -m venv .venv && .venv/bin/pip install '.[test]' && .venv/bin/pytest",
    ):
        assert README.count(f"\n{line}\n") == 1


def test_every_page_and_picture_it_links_to_exists() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    for page in pages:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert "://" in link or (page.parent / link).exists(), f"{page.name}: {link}"
