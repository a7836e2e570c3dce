"""The shape of the code base: which way imports point, what stays light, what lies at the top level."""

import ast
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import alexnet_cli

PACKAGE = Path(alexnet_cli.__file__).parent
REPOSITORY = Path(__file__).parents[1]

ORDER = """
__main__
cli
commands
options
console
bench studies
report
engine
fisher
loading
network dataset
runs
recipes
settings
paper imagenet machine
files
errors
"""
"""From top to bottom: a module imports only from lines below its own. Those of one line do not know each other.

`console` and `options` stand high although they import nothing of ours, so that nothing below can print. `runs`
and `recipes` stand low: a command can name a run or a recipe without torch, and everything else may know them.
"""

LIGHT = {
    *("__init__", "__main__", "cli", "options", "commands", "console", "runs", "recipes", "settings"),
    *("paper", "machine", "files", "errors"),
}
"""What `alexnet --help` or a usage error loads: none of it imports these at module level."""
HEAVY = {"torch", "torchvision", "numpy", "PIL", "safetensors", "webdataset", "simplejpeg"}

PLACES = {name: place for place, line in enumerate(ORDER.split("\n")) for name in line.split()}
FILES = sorted(PACKAGE.rglob("*.py"))


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def part(path: Path) -> str:
    """The module or folder of the package that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(nodes: Iterator[ast.AST]) -> Iterator[str]:
    """The full names of what is imported."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def ours(path: Path) -> set[str]:
    """The parts of our package that a file imports, inside functions too."""
    names = (name.split(".") for name in imported(ast.walk(parsed(path))))
    return {name[1] for name in names if name[0] == "alexnet_cli" and name[1] != "__version__"}


def at_module_level(path: Path) -> Iterator[ast.AST]:
    """What runs when the file is imported: no functions, and nothing that is for the type checker only."""
    waiting: list[ast.AST] = [parsed(path)]
    while waiting:
        node = waiting.pop()
        yield node
        for_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        if not for_types and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting.extend(ast.iter_child_nodes(node))


def name(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", FILES, ids=name)
def test_imports_point_down(path: Path) -> None:
    here = part(path)
    if here == "__init__":
        assert not ours(path)
        return
    assert here in PLACES, f"{here} has no place in the order"
    for other in ours(path) - {here}:
        assert PLACES[here] < PLACES[other], f"{name(path)} imports {other}"


def test_network_and_dataset_do_not_know_each_other() -> None:
    for here, other in (("network", "dataset"), ("dataset", "network")):
        assert not [path for path in FILES if part(path) == here and other in ours(path)]


def test_nobody_imports_commands_but_the_app() -> None:
    assert {part(path) for path in FILES if "commands" in ours(path)} <= {"cli", "commands"}
    for path in FILES:
        if part(path) == "commands":
            names = set(imported(ast.walk(parsed(path))))
            assert not [n for n in names if n.startswith("alexnet_cli.commands")], "one verb does not call another"


def test_only_the_console_prints_and_only_commands_use_it() -> None:
    for path in FILES:
        calls = [node.func for node in ast.walk(parsed(path)) if isinstance(node, ast.Call)]
        prints = [call for call in calls if isinstance(call, ast.Name) and call.id in ("print", "input")]
        assert not prints or part(path) == "console", name(path)
    assert {part(path) for path in FILES if "console" in ours(path)} <= {"cli", "commands"}


@pytest.mark.parametrize("path", [p for p in FILES if part(p) in LIGHT], ids=name)
def test_what_help_loads_imports_nothing_heavy(path: Path) -> None:
    assert not {full.split(".")[0] for full in imported(at_module_level(path))} & HEAVY


def test_every_file_says_what_it_is_for() -> None:
    for path in FILES:
        empty = not path.read_text(encoding="utf-8").strip()
        assert empty or ast.get_docstring(parsed(path)), name(path)


def test_the_top_level_holds_these_and_nothing_else() -> None:
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        found = subprocess.run(listing, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    assert {line.split("/")[0] for line in found.splitlines()} <= {
        *("alexnet_cli", "tests", "docs", ".ci", ".gitignore"),
        *("pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE"),
    }
