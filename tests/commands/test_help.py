"""Every command explains itself, at once and without torch."""

import re
import shlex
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.main

import alexnet_cli
from alexnet_cli.cli import app

WITHOUT_HEAVY_IMPORTS = """
import sys
sys.argv = ["alexnet", *sys.argv[1:]]
from alexnet_cli.cli import main
try:
    main()
finally:
    heavy = {"torch", "torchvision", "numpy", "PIL", "webdataset", "safetensors"} & set(sys.modules)
    print("imported:", sorted(heavy), file=sys.stderr)
"""


def commands(command: Any, name: str = "") -> dict[str, Any]:
    """Every command by the words that one types, the app itself under the empty name."""
    found = {name.strip(): command}
    for sub, child in getattr(command, "commands", {}).items():
        found |= commands(child, f"{name} {sub}")
    return found


COMMANDS = commands(typer.main.get_command(app))
VERBS = {name: command for name, command in COMMANDS.items() if not hasattr(command, "commands")}


@cache
def shown(*arguments: str) -> subprocess.CompletedProcess[str]:
    folder = str(Path(alexnet_cli.__file__).parents[1])
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_HEAVY_IMPORTS, *arguments],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": folder, "PATH": "", "COLUMNS": "100"},
    )


def test_the_commands_are_those_of_the_design() -> None:
    assert {"prepare", "train", "eval", "predict", "describe", "demo"} <= set(VERBS)


@pytest.mark.parametrize("name", COMMANDS, ids=lambda name: name or "alexnet")
def test_help_imports_nothing_heavy(name: str) -> None:
    outcome = shown(*name.split(), "--help")
    assert outcome.returncode == 0 and outcome.stderr == "imported: []\n"
    assert "Usage: alexnet" in outcome.stdout and "Traceback" not in outcome.stdout


def test_neither_does_the_version_or_a_usage_error() -> None:
    outcome = shown("--version")
    assert (outcome.returncode, outcome.stdout) == (0, f"alexnet-cli {alexnet_cli.__version__}\n")
    assert outcome.stderr == "imported: []\n"
    outcome = shown("train", "--no-such-option")
    assert (outcome.returncode, outcome.stdout) == (2, "") and outcome.stderr.endswith("imported: []\n")


def test_no_arguments_are_a_call_for_help() -> None:
    outcome = shown()
    assert (
        "Usage: alexnet" in outcome.stdout + outcome.stderr and "alexnet demo" in outcome.stdout + outcome.stderr
    )


@pytest.mark.parametrize("name", VERBS)
def test_every_command_has_help_and_an_example_that_parses(name: str) -> None:
    command = VERBS[name]
    assert command.help
    (example,) = re.findall(r"^Example: alexnet (.*)$", command.help, re.MULTILINE)
    words = shlex.split(example)
    assert words[: len(name.split())] == name.split()
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("-")} <= known


@pytest.mark.parametrize("name", COMMANDS, ids=lambda name: name or "alexnet")
def test_every_argument_and_option_has_help(name: str) -> None:
    for parameter in COMMANDS[name].params:
        assert parameter.name == "help" or len(parameter.help or "") > 5, f"{name} {parameter.name}"


@pytest.mark.parametrize("name", VERBS)
def test_a_repeatable_argument_is_shown_once_in_the_usage(name: str) -> None:
    usage = shown(*name.split(), "--help").stdout.partition("Usage: ")[2].partition("\n\n")[0]
    assert "......" not in usage.replace(" ", "") and "...]..." not in usage and "...}..." not in usage


def test_flags_stay_few() -> None:
    """About a dozen options in each part of a command's help, and --set for the rest."""
    for name, command in VERBS.items():
        parts = Counter(getattr(option, "rich_help_panel", None) for option in command.params)
        assert max(parts.values()) <= (24 if len(parts) == 1 else 14), name
