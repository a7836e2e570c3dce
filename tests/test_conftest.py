"""That the processes of the tests begin with what takes seconds to import."""

import sys
from multiprocessing import get_context
from typing import Any


def report(pipe: Any) -> None:
    pipe.send([name for name in ("torch", "torchvision", "alexnet_cli.engine.training") if name in sys.modules])


def test_a_forked_process_has_torch_already() -> None:
    context = get_context("forkserver")
    ours, theirs = context.Pipe()
    process = context.Process(target=report, args=(theirs,))
    process.start()
    assert len(ours.recv()) == 3
    process.join()
