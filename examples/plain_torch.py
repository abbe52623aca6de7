"""ResIST in a plain PyTorch loop, without mmengine: a torchvision ResNet finds the bright quarter of an image.

torchrun --nproc-per-node 2 examples/plain_torch.py
"""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import cross_entropy
from torchvision.models.resnet import BasicBlock, ResNet

from resist_mm.models.partition import partition
from resist_mm.rounds import Engine, ResIST
from resist_mm.rounds.batch_norm import settle_buffers


def draw_batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    labels = torch.randint(4, (32,), generator=generator)
    images = torch.randn(32, 3, 2, 16, 2, 16, generator=generator)
    images[torch.arange(32), :, labels // 2, :, labels % 2] += 0.5
    return images.view(32, 3, 32, 32), labels


def main() -> None:
    dist.init_process_group('gloo')
    torch.manual_seed(0)  # all workers begin with the same weights
    model = ResNet(BasicBlock, [1, 1, 7, 1], num_classes=4)
    partition(model, 'layer3')  # all its blocks but the first, strided one
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    engine = Engine(model, optimizer, ResIST(min_blocks=2))
    generator = torch.Generator().manual_seed(1 + engine.rank)  # each draws data of its own

    def train_one_iteration() -> None:
        images, labels = draw_batch(generator)
        optimizer.zero_grad()
        cross_entropy(model(images), labels).backward()
        optimizer.step()

    for round_index in range(6):
        traffic = engine.run_round(train_one_iteration, local_iters=5, whole=round_index == 5)
        print(f'round {round_index}, worker {engine.rank}: sent {traffic.sent / 1e6:.1f} MB', flush=True)
    batches = [draw_batch(generator) for _ in range(4)]
    settle_buffers(engine, averaged=False, batches=batches, forward=lambda batch: model(batch[0]))
    images, labels = draw_batch(torch.Generator().manual_seed(0))
    accuracy = (model.eval()(images).argmax(1) == labels).float().mean().item()
    print(f'worker {engine.rank}: accuracy of the whole model {accuracy:.3f}', flush=True)
    dist.destroy_process_group()


if __name__ == '__main__':
    main()
