import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import alexnet_cli
from alexnet_cli import recipes, runs
from alexnet_cli.errors import AlexNetError
from alexnet_cli.runs import Config, Machine, Run

CONFIG = Config(recipes.small(), "f00d", seed=3, eval_every=0.5, precision="bf16", machine=Machine("cpu", 2, 4))


def made(folder: Path, name: str | None = None, config: Config = CONFIG) -> Run:
    """A new run, which is newer than those before it whatever the clock's steps."""
    run = runs.create_run(folder, name, config, {})
    path = run.root / "config.json"
    newest = max((p.stat().st_mtime_ns for p in folder.glob("*/config.json") if p != path), default=0)
    os.utime(path, ns=(newest + 1000, newest + 1000))
    return run


def save(path: Path, **facts: object) -> None:
    """The header of a checkpoint, without its tensors."""
    about = json.dumps({"format": runs.FORMAT, "finished": "", **facts})
    header = json.dumps({"__metadata__": {"alexnet": about}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)


def test_a_run_is_read_back_as_it_was(tmp_path: Path) -> None:
    run = runs.create_run(tmp_path, "mine", CONFIG, {"command": ["alexnet"]})
    assert runs.open_run(run.root) == run == Run(tmp_path / "mine", CONFIG)
    assert run.name == "mine" and run.state() is None and not run.finished()
    assert json.loads((run.root / "config.json").read_text())["about"] == {"command": ["alexnet"]}


def test_runs_are_numbered_above_the_highest(tmp_path: Path) -> None:
    assert [made(tmp_path).name for _ in range(2)] == ["small-1", "small-2"]
    for name in ("small-9", "small-10", "small-x", "smaller-77", "my small-50"):
        (tmp_path / name).mkdir()
    assert made(tmp_path).name == "small-11"
    paper = replace(CONFIG, recipe=recipes.paper())
    assert made(tmp_path, config=paper).name == "paper-1"
    odd = replace(CONFIG, recipe=replace(recipes.small(), name="a[b]*"))
    assert [made(tmp_path, config=odd).name for _ in range(2)] == ["a[b]*-1", "a[b]*-2"]


def test_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    made(tmp_path, "mine")
    with pytest.raises(AlexNetError, match=r"/mine exists already") as caught:
        made(tmp_path, "mine")
    assert "another --name" in caught.value.hint


def test_a_kill_while_a_run_is_made_takes_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(_: Run) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(runs.shutil, "rmtree", lambda *_, **__: None)  # nobody is left to tidy
        with pytest.raises(SystemExit):
            runs.create_run(tmp_path, "mine", CONFIG, {}, killed)
    (left,) = tmp_path.iterdir()
    assert runs.all_runs(tmp_path) == [] and made(tmp_path, "mine").name == "mine"
    assert made(tmp_path).name == "small-1" and left.exists(), "another process may be at work in it"
    os.utime(left, (0, 0))
    assert made(tmp_path).name == "small-2" and not left.exists()
    with pytest.raises(SystemExit):
        runs.create_run(tmp_path, "other", CONFIG, {}, killed)
    assert {path.name for path in tmp_path.iterdir()} == {"mine", "small-1", "small-2"}


def test_all_runs_are_the_newest_first_and_what_is_none_is_passed_over(tmp_path: Path) -> None:
    wanted = [made(tmp_path, name) for name in ("b", "c", "a")][::-1]
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for name, text in ((".hidden", (wanted[0].root / "config.json").read_text()), ("damaged", "{"), ("old", "{}")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(text)
    assert runs.all_runs(tmp_path) == wanted
    assert runs.all_runs(tmp_path / "nowhere") == []


def test_what_is_no_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(AlexNetError, match="is not a run directory"):
        runs.open_run(tmp_path)
    run = made(tmp_path)
    path = run.root / "config.json"
    stored = json.loads(path.read_text())
    path.write_text(json.dumps({**stored, "format": 99}))
    with pytest.raises(AlexNetError, match="a format this version does not know"):
        runs.open_run(run.root)
    stored["config"]["recipe"]["network"]["novelty"] = 1
    path.write_text(json.dumps(stored))
    with pytest.raises(AlexNetError, match="the stored settings do not fit this version: novelty"):
        runs.open_run(run.root)


def test_the_newest_unfinished_run_of_the_same_training_goes_on(tmp_path: Path) -> None:
    first, second, third, fourth = (made(tmp_path) for _ in range(4))
    made(tmp_path, config=replace(CONFIG, seed=4))
    assert runs.unfinished(tmp_path, CONFIG) == fourth
    save(fourth.last, finished="epochs")
    save(third.last)
    assert runs.unfinished(tmp_path, CONFIG) == third
    with runs.locked(third):
        assert runs.unfinished(tmp_path, CONFIG) == second
    elsewhere = replace(CONFIG, machine=Machine("cuda", 8, 1))
    assert runs.unfinished(tmp_path, elsewhere) == third, "another machine goes on with it"
    for change in ({"dataset": "beef"}, {"eval_every": 1.0}, {"precision": "fp32"}, {"recipe": recipes.paper()}):
        assert runs.unfinished(tmp_path, replace(CONFIG, **change)) is None
    assert first.state() is None and runs.unfinished(tmp_path / "nowhere", CONFIG) is None


def test_the_newest_readable_checkpoint_says_how_far_it_is(tmp_path: Path) -> None:
    run = made(tmp_path)
    save(run.previous, steps=1)
    save(run.last, steps=2, finished="plateau")
    assert (run.state() or {})["steps"] == 2 and run.finished()
    run.last.write_bytes(b"damaged")
    assert (run.state() or {})["steps"] == 1 and not run.finished()


def test_the_newest_model_is_the_best_of_the_newest_run_that_has_one(tmp_path: Path) -> None:
    with pytest.raises(AlexNetError, match="there is no trained run in"):
        runs.newest_model(tmp_path)
    first, second, _ = (made(tmp_path) for _ in range(3))
    save(first.best)
    assert runs.newest_model(tmp_path) == first.best
    save(second.last)
    assert runs.newest_model(tmp_path) == second.last
    save(second.best)
    assert runs.newest_model(tmp_path) == second.best


def test_a_model_is_a_file_or_a_run(tmp_path: Path) -> None:
    run = made(tmp_path)
    with pytest.raises(AlexNetError, match="has no checkpoint yet"):
        runs.model_file(run.root)
    save(run.last)
    assert runs.model_file(run.root) == run.last
    save(run.best)
    assert runs.model_file(run.root) == run.best
    assert runs.model_file(run.last) == run.last
    with pytest.raises(AlexNetError, match="is not a run directory"):
        runs.model_file(tmp_path)


def test_only_one_writes(tmp_path: Path) -> None:
    run = made(tmp_path)
    assert not runs.is_locked(run)
    with runs.locked(run):
        assert runs.is_locked(run)
        with pytest.raises(AlexNetError, match="is being trained by another process"), runs.locked(run):
            pass
        with runs.locked(run, writer=False):  # the other ranks of the same job
            pass
    assert not runs.is_locked(run)


def test_runs_on_a_disk_that_cannot_be_written_are_read_all_the_same(
    tmp_path: Path, disk: Callable[[Path, str], Path]
) -> None:
    folder = disk(tmp_path / "runs", "1m")
    run = made(folder)
    with runs.locked(run):
        pass
    assert runs.unfinished(folder, CONFIG) == run
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    assert not runs.is_locked(run) and runs.unfinished(folder, CONFIG) is None


HOLD = """
import sys
from pathlib import Path
from alexnet_cli.runs import locked, open_run
with locked(open_run(Path(sys.argv[1]))):
    print("locked", {"torch", "numpy", "PIL"} & set(sys.modules) or "light", flush=True)
    sys.stdin.read()
"""


def test_a_kill_lets_go_of_the_lock_and_none_of_it_needs_torch(tmp_path: Path) -> None:
    run = made(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(alexnet_cli.__file__).parents[1])},
    )
    with process:
        assert process.stdout and process.stdout.readline() == b"locked light\n"
        assert runs.is_locked(run)
        process.send_signal(signal.SIGKILL)
    assert not runs.is_locked(run)


def test_metrics_are_cut_back_to_the_checkpoint(tmp_path: Path) -> None:
    run = made(tmp_path)
    assert runs.read_metrics(run) == []
    run.metrics.write_text('{"step": 1}\n{"step": 2}\n{"st')
    runs.tidy(run, len('{"step": 1}\n'))
    assert runs.read_metrics(run) == [{"step": 1}]
    runs.tidy(run, 1000)
    assert runs.read_metrics(run) == [{"step": 1}]
