"""A net where `--parallel` puts it, to be trained there: which of its weights this process moves, and how.

`data`: each process has the whole net and a part of the batch; gradients are summed over the processes while the
backward pass goes on. `hybrid`: of the fully connected layers each has some units only (hybrid.py). `towers`: each
process has the net on two devices (network/towers.py).

The plain net and its velocity stay beside: a checkpoint is scattered from there when training begins, and gathered
again before it is saved or the net is validated. So files hold the same full tensors whatever trained them.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from alexnet_cli.engine import hybrid, optimizer
from alexnet_cli.engine.launch import Placement
from alexnet_cli.engine.optimizer import Row
from alexnet_cli.engine.parallel import Ranks
from alexnet_cli.errors import AlexNetError
from alexnet_cli.network import towers
from alexnet_cli.network.alexnet import AlexNet
from alexnet_cli.network.towers import Place, Towers
from alexnet_cli.recipes import Network, Optimizer
from alexnet_cli.runs import Layout, Machine, Parallel


def check(machine: Machine, place: Placement, net: Network) -> None:
    """Raise AlexNetError where the net, or how it is computed, does not go with the way."""
    if machine.parallel == "towers":
        towers.check(net)
        if place.device == "cuda" and place.ranks > 1 and place.each == 1:
            raise AlexNetError(
                f"the run uses --parallel towers, two GPUs for each of {place.ranks} processes",
                "say --parallel towers again, so that --gpus counts them so, or --parallel data",
            )
    if machine.parallel != "data" and machine.compiled:
        raise AlexNetError(f"--compile with --parallel {machine.parallel}: not both", "leave one of them away")


@dataclass(frozen=True)
class Part:
    """Weights that lie together, under the names of the plain net, and their velocity."""

    module: nn.Module
    velocity: dict[str, Tensor]
    places: Mapping[str, Place] = field(default_factory=dict)
    """What is not all of the plain net's parameter: where in it this lies."""


class Placed:
    """`net` is what a batch goes through: (pixels, masks) of this process's rows → their logits."""

    def __init__(
        self, model: AlexNet, velocity: dict[str, Tensor], net: Network, parallel: Parallel, ranks: Ranks,
        layout: Layout = "contiguous",
    ) -> None:  # fmt: skip
        self.model, self.velocity, self.ranks = model, velocity, ranks
        self.module: nn.Module = model
        self.parts = [Part(model, velocity)]
        self._gathered = True
        if parallel == "towers":
            self.module = Towers(model, net, tower_devices(ranks.device), layout)
            self.parts = [self._part(block.module, block.places) for block in self.module.blocks]
        elif parallel == "hybrid" and ranks.size > 1:
            self.module = hybrid.sliced(model, net, ranks.exchange, ranks.rank)
            places = {name: (cut[ranks.rank],) for name, cut in self._cuts()}
            self.parts = [self._part(self.module, places)]
        self.net = self._wrapped()

    def _part(self, module: nn.Module, places: Mapping[str, Place]) -> Part:
        own = dict(module.named_parameters())
        cut = {name: self.velocity[name][place].to(own[name].device).clone() for name, place in places.items()}
        return Part(module, {name: cut.get(name, self.velocity[name]) for name in own}, places)

    def _wrapped(self) -> nn.Module:
        """The net with its gradients summed over the ranks; those of sliced layers are the batch's as they are."""
        apart = list(self._apart())
        moving = (name for name, parameter in self.module.named_parameters() if parameter.requires_grad)
        if self.ranks.size == 1 or set(moving) <= set(apart):  # alone, or the convolutions stand still
            return self.module
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(  # type: ignore[no-untyped-call]
            self.module, apart
        )
        net = DistributedDataParallel(self.module)
        net.register_comm_hook(None, self.ranks.exchange.hook)
        return net

    def _apart(self) -> Iterator[str]:
        for name, module in self.module.named_modules():
            if isinstance(module, hybrid.Sliced):
                yield from (f"{name}.{kind}" for kind, _ in module.named_parameters())

    def _cuts(self) -> Iterator[tuple[str, list[slice]]]:
        """Which rows of the sliced parameters each rank has."""
        whole = dict(self.model.named_parameters())
        return ((name, hybrid.cuts(len(whole[name]), self.ranks.size)) for name in self._apart())

    # --- a step

    def freeze(self, table: Mapping[str, Row]) -> bool:
        """As `optimizer.freeze`: whether `net` is another one now."""
        changed = [optimizer.freeze(part.module, table) for part in self.parts]
        if any(changed):
            self.net = self._wrapped()
        return any(changed)

    def gradient_square(self) -> Tensor:
        """This rank's share of the gradient's squared length: the sum over the ranks is that of all of it."""
        apart = set(self._apart())
        total = torch.zeros((), device=self.ranks.device)
        for part in self.parts:
            own = {name: p.grad for name, p in part.module.named_parameters() if p.grad is not None}
            for grads, share in (
                ([g for name, g in own.items() if name in apart], 1),
                ([g for name, g in own.items() if name not in apart], self.ranks.size),
            ):
                total += nn.utils.get_total_norm(grads).to(total.device).square() / share
        return total

    def update(self, table: Mapping[str, Row], rules: Optimizer, scale: float = 1.0) -> None:
        for part in self.parts:
            optimizer.update(part.module, part.velocity, table, rules.momentum, rules.velocity, scale)
        self._gathered = self.module is self.model

    def spend(self) -> None:
        """Forget the gradients."""
        optimizer.spend(self.module)

    # --- the checkpoint's border

    @torch.no_grad()
    def gather(self) -> None:
        """Bring the plain net and its velocity up to date; of several ranks all must call it together."""
        if self._gathered:
            return
        weights = {name: parameter.data for name, parameter in self.model.named_parameters()}
        self._put_together(weights, lambda part: dict(part.module.named_parameters()))
        self._put_together(self.velocity, lambda part: part.velocity)
        self._gathered = True

    @torch.no_grad()
    def gather_gradients(self) -> None:
        """Give the plain net those of the last step too, as `gather` does; for who looks for one that is wrong."""
        apart = {name for part in self.parts for name in part.places}
        wholes = {name: torch.zeros_like(p) for name, p in self.model.named_parameters() if name in apart}
        self._put_together(wholes, _gradients)
        for name, whole in wholes.items():
            self.model.get_parameter(name).grad = whole

    def _put_together(self, wholes: Mapping[str, Tensor], pieces: Callable[[Part], Mapping[str, Tensor]]) -> None:
        """Fill whole tensors with what the parts have of them, those of other ranks too."""
        for part in self.parts:
            own = pieces(part)
            for name, place in part.places.items():
                wholes[name][place] = own[name].to(self.ranks.device)
        for name, cuts in self._cuts():
            for rank, cut in enumerate(cuts):
                if cut.start < cut.stop:
                    dist.broadcast(wholes[name][cut], rank)


def _gradients(part: Part) -> dict[str, Tensor]:
    """Of frozen layers there is none."""
    named = part.module.named_parameters()
    return {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in named}


def tower_devices(first: torch.device) -> list[torch.device]:
    """A process's two: on the CPU one stands for both."""
    if first.type != "cuda":
        return [first, first]
    second = torch.device("cuda", (first.index or 0) + 1)
    if second.index >= torch.cuda.device_count():
        raise AlexNetError(
            "--parallel towers: there is no second GPU for this process",
            "each has two: give --gpus 2 or a higher even number, or take --parallel data",
        )
    return [first, second]
