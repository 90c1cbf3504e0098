"""The textbook way: one training step and an evaluation, written as the method's description reads, and no faster.

Float32, NCHW; features copied at full resolution; each agent compared with all agents so far; the K! orders
enumerated; one image and one window at a time. Parameters have the names of `rankmatch.models`, so that both ways can
be given the same weights.
"""

from itertools import permutations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rankmatch.config import IGNORE_INDEX, MethodConfig
from rankmatch.data.views import StrongView, Views
from rankmatch.models.resnet import ResNet


def conv(in_channels: int, out_channels: int, kernel: int = 1, dilation: int = 1) -> nn.Sequential:
    """Return convolution, batch norm and ReLU."""
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, padding=padding, dilation=dilation, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def upsample(values: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Interpolate bilinearly with aligned corners."""
    return F.interpolate(values, size=size, mode="bilinear", align_corners=True)


class Pooling(nn.Module):
    """The image-level branch."""

    def __init__(self) -> None:
        super().__init__()
        self.gap = nn.Sequential(nn.AdaptiveAvgPool2d(1), *conv(2048, 256))

    def forward(self, high: Tensor) -> Tensor:
        return upsample(self.gap(high), high.shape[-2:])


class ASPP(nn.Module):
    """Five branches and their projection."""

    def __init__(self) -> None:
        super().__init__()
        self.b0 = conv(2048, 256)
        self.b1, self.b2, self.b3 = (conv(2048, 256, 3, rate) for rate in (6, 12, 18))
        self.b4 = Pooling()
        self.project = conv(5 * 256, 256)

    def forward(self, high: Tensor) -> Tensor:
        branches = (self.b0, self.b1, self.b2, self.b3, self.b4)
        return self.project(torch.cat([branch(high) for branch in branches], dim=1))


class DeepLab(nn.Module):
    """DeepLabV3+ on a ResNet."""

    def __init__(self, num_classes: int, backbone: str = "resnet50") -> None:
        super().__init__()
        self.backbone = ResNet(backbone, 16)
        self.head = ASPP()
        self.reduce = conv(256, 48)
        self.fuse = nn.Sequential(*conv(304, 256, 3), *conv(256, 256, 3))
        self.classifier = nn.Conv2d(256, num_classes, 1)

    def forward(self, images: Tensor, keep: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Return logits and features; of the images and then of their perturbed features, where channels are kept."""
        low, high = self.backbone(images)
        if keep is not None:
            low = torch.cat([low, low * (2 * keep[0])[:, :, None, None]])
            high = torch.cat([high, high * (2 * keep[1])[:, :, None, None]])
        features = self.head(high)
        fused = self.fuse(torch.cat([self.reduce(low), upsample(features, low.shape[-2:])], dim=1))
        return upsample(self.classifier(fused), images.shape[-2:]), features


def agents(features: Tensor, num_agents: int, first: Tensor) -> Tensor:
    """Pick agents one by one, each compared with all that are there."""
    picked_of_all = []
    for image, start in zip(features.flatten(2), first, strict=True):
        unit = F.normalize(image, dim=0)
        picked = [int(start)]
        while len(picked) < num_agents:
            largest = (unit.T @ unit[:, picked]).abs().max(dim=1).values
            largest[picked] = torch.inf
            picked.append(int(largest.argmin()))
        picked_of_all.append(torch.tensor(picked))
    return torch.stack(picked_of_all)


def correlation(features: Tensor, picked: Tensor) -> Tensor:
    """Return the softmax over the agents of each pixel's dot products with them."""
    pixels = features.flatten(2)
    own = pixels.gather(2, picked[:, None].expand(-1, pixels.shape[1], -1))
    return (pixels.transpose(1, 2) @ own).softmax(dim=2)


def order_probabilities(scores: Tensor, epsilon: float) -> Tensor:
    """Return the probability of each of the K! orders."""
    orders = torch.tensor(list(permutations(range(scores.shape[-1]))))
    ordered = scores[..., orders]
    left = ordered.flip(-1).cumsum(-1).flip(-1)
    return (ordered / (left + epsilon)).prod(-1)


def rank_loss(
    teacher: Tensor, student: Tensor, first: Tensor, num_agents: int, top_k: int, epsilon: float = 1e-10
) -> Tensor:
    """Return the divergence of the orders, a mean over pixels and images."""
    picked = agents(teacher, num_agents, first)
    expected, found = correlation(teacher, picked), correlation(student, picked)
    expected, ranked = expected.topk(top_k, dim=-1)
    expected, found = (order_probabilities(scores, epsilon) for scores in (expected, found.gather(-1, ranked)))
    divergence = expected * ((expected + epsilon).log() - (found + epsilon).log())
    return divergence.sum(-1).mean()


def consistency(logits: Tensor, label: Tensor, confidence: Tensor, valid: Tensor, threshold: float) -> Tensor:
    """Return the cross-entropy of the confident pixels, over the number of valid ones."""
    entropy = F.cross_entropy(logits, label, reduction="none")
    return (entropy * (valid & (confidence >= threshold))).sum() / valid.sum()


def pasted(own: Tensor, others: Tensor, box: Tensor) -> Tensor:
    """Copy, with the other's values inside the boxes."""
    mixed = own.clone()
    inside = box[:, None].expand_as(own) if own.dim() == 4 else box
    mixed[inside] = others[inside]
    return mixed


def losses(network: DeepLab, views: Views, method: MethodConfig) -> dict[str, Tensor]:
    """Return the named losses of RankMatch's step and their `total`."""
    unlabeled = views.unlabeled
    assert unlabeled is not None
    size = unlabeled.weak.shape[-2:]
    network.eval()
    with torch.no_grad():
        logits, features = network(unlabeled.partner)
        partner_confidence, partner_label = logits.softmax(dim=1).max(dim=1)
        partner_features = upsample(features, size)
    network.train()

    num_labeled = len(views.labeled)
    logits, features = network(torch.cat([views.labeled, unlabeled.weak]), views.keep)
    logits, perturbed = logits.chunk(2)
    features = features.chunk(2)[0]
    confidence, label = logits[num_labeled:].detach().softmax(dim=1).max(dim=1)
    weak_features = upsample(features[num_labeled:].detach(), size)
    strong_logits, strong_features = network(torch.cat([strong.images for strong in unlabeled.strong]))

    terms = {
        "x": F.cross_entropy(logits[:num_labeled], views.labels.long(), ignore_index=IGNORE_INDEX),
        "fp": consistency(perturbed[num_labeled:], label, confidence, unlabeled.valid, method.confidence_threshold),
    }
    for number, strong in enumerate(unlabeled.strong):
        terms[f"s{number + 1}"] = consistency(
            strong_logits.chunk(2)[number],
            pasted(label, partner_label, strong.box),
            pasted(confidence, partner_confidence, strong.box),
            pasted(unlabeled.valid, unlabeled.partner_valid, strong.box),
            method.confidence_threshold,
        )
        student = strong_features.chunk(2)[number]
        mixed = upsample(pasted(weak_features, partner_features, strong.box), student.shape[-2:])
        terms[f"rank{number + 1}"] = (
            rank_loss(mixed, student, first_agents(strong, student), method.num_agents, method.top_k, method.epsilon)
            / 24
        )
    supervised = terms["x"] + 0.25 * terms["s1"] + 0.25 * terms["s2"] + 0.5 * terms["fp"]
    return terms | {"total": supervised / 2 + 0.1 * (terms["rank1"] + terms["rank2"]) / 2}


def first_agents(strong: StrongView, features: Tensor) -> Tensor:
    """Draw each image's first agent."""
    num_pixels = features.shape[-2] * features.shape[-1]
    return torch.cat(
        [(torch.rand(1, generator=g, dtype=torch.float64) * num_pixels).long() for g in strong.agent_generators]
    )


@torch.no_grad()
def predict(network: DeepLab, image: Tensor) -> Tensor:
    """Predict a whole image."""
    return network(image[None])[0].softmax(dim=1).argmax(dim=1)[0]


@torch.no_grad()
def predict_sliding(network: DeepLab, image: Tensor, crop_size: int, num_classes: int) -> Tensor:
    """Predict window by window."""
    height, width = image.shape[-2:]
    total = torch.zeros(1, num_classes, height, width)
    step = int(crop_size * 2 / 3)
    for top in range(0, height, step):
        for left in range(0, width, step):
            rows, columns = slice(top, min(top + crop_size, height)), slice(left, min(left + crop_size, width))
            total[:, :, rows, columns] += network(image[None, :, rows, columns])[0].softmax(dim=1)
    return total.argmax(dim=1)[0]


def confusion(prediction: Tensor, label: Tensor, num_classes: int) -> Tensor:
    """Count the labeled pixels by true and predicted class."""
    valid = label != IGNORE_INDEX
    pairs = num_classes * label[valid].long() + prediction[valid]
    return torch.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)
