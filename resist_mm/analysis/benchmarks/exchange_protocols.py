"""The exchanges that benchmark_exchange.py compares: one class each."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager

from ...exchange import ExchangePlan, all_reduce_bytes
from ...models import partitioned_stages
from ...partition import Assignment, PartitionSampler
from .engine_rounds import EngineRounds

__all__ = ['Averager', 'Exchange', 'LocalSGD', 'PaperProtocol', 'ResIST']


class Exchange:
    """One protocol's exchange at the end of a round.

    Args:
        model (nn.Module): The model of this worker.
        sampler (PartitionSampler): Deals the blocks.
        codec (dict, optional): How messages are compressed.
        first (int): The first round that is run.

    Attributes:
        buffers: Most bytes that this worker needed beside its parameters, where it is counted.
    """

    def __init__(self, model: nn.Module, sampler: PartitionSampler, codec: dict | None, first: int) -> None:
        self.model = model
        self.sampler = sampler
        self.first = first
        self.buffers = 0
        self.rank, self.num_workers = dist.get_rank(), dist.get_world_size()
        self.stages = list(partitioned_stages(model).values())
        self.places = [(stage, number) for stage in self.stages for number in range(stage.num_partitioned)]

    def run(self, index: int) -> float:
        """End round ``index`` and enter the next; returns the bytes that this worker sent."""
        raise NotImplementedError

    def planned_bytes(self, index: int) -> float | None:
        """The bytes of all workers that the plan says; None where the protocol follows no plan."""
        return None

    def guard(self) -> tuple[float, float]:
        """Seconds of the guard's look at all numbers and of its votes, done once more; 0 where there is none."""
        return 0.0, 0.0

    def held(self, index: int) -> Sequence[int]:
        """The blocks that this worker holds in round ``index``."""
        return range(len(self.places))

    def averaged_over(self, block: int) -> Sequence[int]:
        """The workers over which the end of the first round averages a block."""
        return range(self.num_workers)

    def averaged(self) -> Iterator[tuple[nn.Parameter, Sequence[int]]]:
        """The parameters here after the first round, and the workers over which it averages them."""
        for p in self.shared_params():
            yield p, range(self.num_workers)
        for block in self.held(self.first + 1):
            for p in self.block_params(block):
                yield p, self.averaged_over(block)

    def block_params(self, block: int) -> list[nn.Parameter]:
        """The parameters of a block."""
        stage, number = self.places[block]
        return stage.block_parameters(number)

    def shared_params(self) -> list[nn.Parameter]:
        """The parameters that every worker holds."""
        in_blocks = {id(p) for block in range(len(self.places)) for p in self.block_params(block)}
        return [p for p in self.model.parameters() if id(p) not in in_blocks]


class LocalSGD(Exchange):
    """Local SGD on this project's engine."""

    deal_blocks = False

    def __init__(self, model: nn.Module, sampler: PartitionSampler, codec: dict | None, first: int) -> None:
        super().__init__(model, sampler, codec, first)
        self.rounds = EngineRounds(model, codec, deal_blocks=self.deal_blocks)
        self.rounds.begin(self.assign(first))

    def assign(self, index: int) -> Assignment:
        """Who holds what in a round."""
        return Assignment.full(self.num_workers, num_blocks=0)

    def run(self, index: int) -> float:
        traffic = self.rounds.exchange(self.assign(index + 1))
        self.buffers = max(self.buffers, traffic.buffers)
        return traffic.sent

    def guard(self) -> tuple[float, float]:
        return self.rounds.guard()

    def planned_bytes(self, index: int) -> float | None:
        shared, blocks = self.rounds.sizes()
        return all_reduce_bytes(shared + sum(blocks), self.num_workers).total


class ResIST(LocalSGD):
    """ResIST on this project's engine."""

    deal_blocks = True

    def assign(self, index: int) -> Assignment:
        return self.sampler.sample(index)

    def planned_bytes(self, index: int) -> float | None:
        shared, blocks = self.rounds.sizes()
        plan = ExchangePlan.between(self.assign(index), self.assign(index + 1))
        return all_reduce_bytes(shared, self.num_workers).total + plan.total(blocks)

    def held(self, index: int) -> Sequence[int]:
        return self.assign(index).blocks(self.rank)

    def averaged_over(self, block: int) -> Sequence[int]:
        return self.assign(self.first).holders(block)


class PaperProtocol(Exchange):
    """ResIST's exchange as the paper describes it (Sec. 2.5), on the same rounds.

    "Basic broadcast and reduce operations for communicating blocks in the third
    section and all reduce for blocks in other sections": one blocking collective
    for each parameter, and a process group made for each block's reduce to one
    holder and broadcast to the next holders.
    """

    def run(self, index: int) -> float:
        sent = 0.0
        for p in self.shared_params():
            dist.all_reduce(p.data)
            p.data.div_(self.num_workers)
            sent += all_reduce_bytes(p.data.nbytes, self.num_workers).sent
        old, new = self.sampler.sample(index), self.sampler.sample(index + 1)
        for block in range(len(self.places)):
            sent += self._hand_over(block, old.holders(block), new.holders(block))
        return sent

    def _hand_over(self, block: int, old: Sequence[int], new: Sequence[int]) -> float:
        """Aggregate and hand over a block; the bytes are what a tree of messages has to send, worked out."""
        params = self.block_params(block)
        nbytes = sum(p.data.nbytes for p in params)
        source = old[0]
        if len(old) > 1:
            group = dist.new_group(list(old))
            for p in params if self.rank in old else []:
                dist.reduce(p.data, dst=source, group=group)
                if self.rank == source:
                    p.data.div_(len(old))
            self._destroy(group)
        members = sorted({source, *new})
        if len(members) > 1:
            group = dist.new_group(members)
            for p in params if self.rank in members else []:
                dist.broadcast(p.data, src=source, group=group)
            self._destroy(group)
        if self.rank == source:
            return (len(members) - 1) * nbytes
        return nbytes if self.rank in old else 0

    @staticmethod
    def _destroy(group: dist.ProcessGroup) -> None:
        if group != dist.GroupMember.NON_GROUP_MEMBER:
            dist.destroy_process_group(group)

    def held(self, index: int) -> Sequence[int]:
        return self.sampler.sample(index).blocks(self.rank)

    def averaged_over(self, block: int) -> Sequence[int]:
        return self.sampler.sample(self.first).holders(block)


class Averager(Exchange):
    """torch's own local SGD: its model averager over the whole model."""

    def __init__(self, model: nn.Module, sampler: PartitionSampler, codec: dict | None, first: int) -> None:
        super().__init__(model, sampler, codec, first)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # it advises against period=1
            self.averager = PeriodicModelAverager(period=1)
        for p in model.parameters():  # it leaves out what has no gradient
            p.grad = torch.zeros((), device=p.device).expand_as(p)

    def run(self, index: int) -> float:
        self.averager.average_parameters(self.model.parameters())
        nbytes = sum(p.nbytes for p in self.model.parameters())
        return all_reduce_bytes(nbytes, self.num_workers).sent
