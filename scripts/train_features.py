"""Train a classifier whose features compare sets of samples: src/flowvae/pretrained/features-*.safetensors.

    python scripts/train_features.py [--epochs 10] [--data mnist] OUTPUT

It sees the 50,000 training images of MNIST, or of another data set of this shape, each turned, scaled and
moved a little anew each time, half of them binarized. It is scored on the 10,000 validation and the 10,000
test images. Weights are averaged over steps, with a decay of 0.999.
"""

import argparse
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from flowvae.data import load_dataset
from flowvae.networks.features import FeatureNetwork

BATCH = 128


def varied(images: Tensor) -> Tensor:
    """Turn by up to 15 degrees, scale by up to 15%, move by up to 3 pixels; binarize half of the images."""
    count = len(images)
    angle = (torch.rand(count) * 2 - 1) * math.radians(15)
    scale = 1 + (torch.rand(count, 2) * 2 - 1) * 0.15
    shift = (torch.rand(count, 2) * 2 - 1) * 3 / 14
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(-1, 2, 2)
    maps = torch.cat([turn * scale[:, None], shift[:, :, None]], 2)
    places = F.affine_grid(maps, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, places, align_corners=False).clamp(0, 1)
    binary = (torch.rand(count, 1, 1, 1) < 0.5).float()
    return torch.where(binary == 1, torch.bernoulli(moved), moved)


@torch.no_grad()
def error(network: FeatureNetwork, images: Tensor, labels: Tensor) -> float:
    network.eval()
    found = torch.cat([network.classify(network(few)).argmax(1) for few in images.split(1000)])
    return (found != labels).double().mean().item()


@torch.no_grad()
def scale_features(network: FeatureNetwork, images: Tensor) -> None:
    """Make the mean variance of features 1, and leave the classes as they are."""
    deviation = torch.cat([network(few) for few in images.split(1000)]).var(0).mean().sqrt()
    *_, last = network.body
    *_, first = network.head
    for parameter in last.parameters():
        parameter /= deviation
    first.get_parameter("weight").mul_(deviation)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--data", default="mnist", help="data set or path")
    parser.add_argument("--epochs", type=int, default=10)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    grey, binary = (load_dataset(arguments.data, binarization) for binarization in ("none", "static"))
    train = grey.batch("train", torch.arange(len(grey.train.images)))
    assert train.labels is not None
    network = FeatureNetwork()
    averages = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.999), use_buffers=True)
    average = averages.module
    assert isinstance(average, FeatureNetwork)
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=0.02)
    per_epoch = len(train.images) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, arguments.epochs * per_epoch)
    for epoch in range(arguments.epochs):
        order = torch.randperm(len(train.images))[: per_epoch * BATCH]
        for places in order.split(BATCH):
            log_class = network.classify(network(varied(train.images[places])))
            loss = F.nll_loss(log_class, train.labels[places])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            averages.update_parameters(network)
        scores = []
        for kind, dataset in (("grey", grey), ("binary", binary)):
            for split in ("valid", "test"):
                batch = dataset.batch(split, torch.arange(len(getattr(dataset, split).images)))
                assert batch.labels is not None
                scores.append(f"{kind} {split} {error(average, batch.images, batch.labels):.2%}")
        print(f"epoch {epoch + 1}: errors: {', '.join(scores)}", flush=True)
    scale_features(average, train.images)
    state = average.state_dict()
    weights = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    save_file(weights, arguments.output)


if __name__ == "__main__":
    main()
