"""What of this machine will go wrong in a training, before it does: one finding a line, with its fix."""

import os
import platform
import re
import resource
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import torch

from alexnet_cli import __version__
from alexnet_cli.dataset.fingerprint import pattern
from alexnet_cli.dataset.images import decode, encode
from alexnet_cli.dataset.space import size, standing
from alexnet_cli.engine import forecast
from alexnet_cli.engine.arithmetic import check_precision, emulated
from alexnet_cli.engine.launch import Placement
from alexnet_cli.errors import AlexNetError
from alexnet_cli.machine import cores, free_memory
from alexnet_cli.recipes import Recipe
from alexnet_cli.runs import Precision

OPEN_FILES = 512
"""The loader keeps up to 64 shards open for each split; the rest are libraries, and connections of processes."""

SLOW_DECODER = 1000
"""256×256 pictures a second, a thread; with vector instructions it is 3,000 and more (docs/measurements.md)."""


@dataclass(frozen=True)
class Finding:
    verdict: Literal["good", "odd", "bad"]
    """`bad`: something will fail; `odd`: worth a look."""
    what: str
    said: str
    fix: str = ""


def judged(what: str, bad: bool, said: str, fix: str, kind: Literal["odd", "bad"] = "odd") -> Finding:
    return Finding(kind, what, said, fix) if bad else Finding("good", what, said)


def examined(
    recipe: Recipe, classes: int, precision: Precision, place: Placement, runs: Path, needed: int, parts: int = 1
) -> Iterator[Finding]:
    """`needed`: bytes of the run's checkpoints, which come into `runs`; `parts`: of a batch, by --accumulate."""
    yield _libraries()
    yield _device(place)
    yield from _processor()
    yield from _precision(precision, place)
    yield _memory(recipe, classes, precision, place, parts)
    yield disk(runs, needed)
    yield _open_files()
    yield _compiler()
    yield _decoder_speed()


def _libraries() -> Finding:
    """Against the lower bounds of our own distribution."""
    found, old = [], []
    for line in metadata.requires("alexnet-cli") or []:
        if (match := re.match(r"([\w.-]+)>=([\d.]+)(?!.*extra)", line)) is None:
            continue
        name, least = match.groups()
        try:
            there = metadata.version(name)
        except metadata.PackageNotFoundError:
            old.append(f"{name} is missing")
            continue
        found.append(f"{name} {there}")
        if _numbers(there) < _numbers(least):
            old.append(f"{name} {there} is older than {least}")
    said = "; ".join(old) or f"alexnet-cli {__version__}, python {platform.python_version()}, {', '.join(found)}"
    return judged("libraries", bool(old), said, "pip install --upgrade alexnet-cli", "bad")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])


def _device(place: Placement) -> Finding:
    if place.device == "cuda":
        free, total = torch.cuda.mem_get_info()
        said = f"{place.said}, the first {torch.cuda.get_device_name(0)} with {size(free)} of {size(total)} free"
        return judged("device", free < total / 2, said, "another program has the rest: see nvidia-smi")
    return Finding("good", "device", place.said + (": no GPU was found" if place.device == "cpu" else ""))


def _processor() -> Iterator[Finding]:
    there, lent = os.cpu_count() or 1, cores()
    able = torch.backends.cpu.get_cpu_capability()
    halves = _has_bf16()
    said = f"{lent} of {there} cores, {able}" + (", bf16 in hardware: --precision bf16 is quick" if halves else "")
    yield judged("cores", lent < there, said, "a scheduler or container lends no more; ask it for all")
    said = f"in the last minute {os.getloadavg()[0]:.1f} threads wanted the {lent} cores"
    yield judged("load", forecast.busy(), said, "what else runs slows a training down; stop it, or run that later")
    if (policy := os.environ.get("OMP_WAIT_POLICY", "PASSIVE").upper()) != "PASSIVE":
        fix = "unset OMP_WAIT_POLICY: threads that wait by spinning keep the cores from other processes"
        yield Finding("odd", "OpenMP", f"OMP_WAIT_POLICY is {policy}", fix)


def _has_bf16() -> bool:
    try:
        return bool(re.search(r"\b(avx512_bf16|amx_bf16|bf16)\b", Path("/proc/cpuinfo").read_text()))
    except OSError:
        return False


def _precision(precision: Precision, place: Placement) -> Iterator[Finding]:
    try:
        check_precision(precision, place.device)
    except AlexNetError as error:
        yield Finding("bad", "precision", error.message, error.hint)
    if emulated(precision, place.device):
        said = f"torch has no quick {precision} on this processor: a step takes many times as long as in fp32"
        yield Finding("odd", "precision", said, "--precision fp32")


def _memory(recipe: Recipe, classes: int, precision: Precision, place: Placement, parts: int) -> Finding:
    def needed(parts: int) -> int:
        return forecast.step_bytes(recipe, classes, precision, parts) + forecast.LIBRARIES

    batch, on_gpu = recipe.optimizer.batch_size, place.device == "cuda"
    free = torch.cuda.mem_get_info()[0] if on_gpu else free_memory()
    said = f"a step of {batch} pictures of {recipe.name}" + (f" in {parts} parts" if parts > 1 else "")
    said += f" takes about {size(needed(parts))} of the {size(free)} that are free" + (
        " on the GPU" if on_gpu else ""
    )
    fitting = next((n for n in range(2, batch + 1) if batch % n == 0 and needed(n) < free), None)
    fix = (
        f"--accumulate {fitting}, or a smaller --batch-size"
        if fitting
        else "parts of a batch do not help: free some"
    )
    return judged("memory", needed(parts) > free, said, fix, "bad")


def disk(runs: Path, needed: int) -> Finding:
    place = standing(runs)
    free = shutil.disk_usage(place).free
    said = f"a run's checkpoints take up to {size(needed)}, and {place} has {size(free)} free"
    return judged("disk", free < needed, said, "free some space, or name another place with --runs", "bad")


def _open_files() -> Finding:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return judged("open files", 0 <= limit < OPEN_FILES, f"at most {limit:,}", f"ulimit -n {8 * OPEN_FILES}")


def _compiler() -> Finding:
    compiler = os.environ.get("CXX", "g++")
    missing = shutil.which(compiler) is None
    said = f"there is no {compiler}, which --compile needs on a CPU" if missing else f"{compiler}, for --compile"
    return judged("compiler", missing, said, "install g++, or do without --compile")


def _decoder_speed() -> Finding:
    data, count, start = encode(pattern(256, 256)), 0, time.perf_counter()
    while (seconds := time.perf_counter() - start) < 0.1:
        decode(data)
        count += 1
    rate = count / seconds
    fix = "simplejpeg may be built without vector instructions: pip install --force-reinstall simplejpeg"
    return judged("JPEG decoder", rate < SLOW_DECODER, f"{rate:,.0f} pictures/s a thread", fix)
