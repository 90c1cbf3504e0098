"""Draw the rank term on an image: its agents, how all pixels correlate with some, and their order at one pixel."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from rankmatch.agents import correlation_logits, select, widen
from rankmatch.config import NumericsConfig
from rankmatch.data.photometric import distort, draw_view
from rankmatch.data.transforms import normalise, unit_image
from rankmatch.distributed import Purpose, generator
from rankmatch.drawn import RAMP

MAX_MAPS, MAX_RANKED = 4, 8
SIDE, MAP_SIDE, QUALITY = 320, 128, 85
"""Size of the views in pixels, and the minimum size of the maps."""
MARK, EDGE, PIXEL = (255, 255, 255), (0, 0, 0), (255, 120, 0)


@torch.no_grad()
def write(
    folder: Path, numerics: NumericsConfig, network: nn.Module, image: Image.Image, place: int, device: torch.device
) -> dict[str, Any]:
    """Write the pictures of one image; return their description.

    The middle of the image is cut to a training crop. The teacher sees it unchanged, the student as a strong view
    without CutMix, both in evaluation mode. The pixel shown is where the last of the K ranked agents weighs most.

    Args:
        folder: Receives the files.
        numerics: Of the run.
        network: In evaluation mode.
        image: Of the validation list.
        place: Its index there, which keys the draws.
        device: Where the network is.
    """
    crop = _middle(image, numerics.augment.crop_size)
    weak = unit_image(crop)[None].to(device)
    strong = weak.clone()
    distort(strong, [draw_view(numerics.augment, generator(numerics.seed, 0, place, Purpose.PICTURED_VIEW))])
    features = widen(network(normalise(torch.cat([weak, strong])))[1])
    settings = numerics.method
    first = generator(numerics.seed, 0, place, Purpose.PICTURED_AGENT)
    agents = select(settings.selection, features[:1], settings.num_agents, generator=first)
    teacher, student = (correlation_logits(part[None], agents)[0].softmax(-1) for part in features)
    pixel = int(teacher.topk(settings.top_k).values[:, -1].argmax())
    top = teacher[pixel].topk(min(settings.top_k, MAX_RANKED)).indices
    size = (features.shape[3], features.shape[2])
    points = _points(torch.cat([agents[0], agents.new_tensor([pixel])]), size)
    marked = _draw_agents(_pictured(crop), points[:-1], top.tolist(), points[-1])
    marked.save(folder / "agents.jpg", "JPEG", quality=QUALITY)
    _pictured(_to_image(strong[0])).save(folder / "strong.jpg", "JPEG", quality=QUALITY)
    maps = [_write_maps(folder, number, teacher[:, agent], student[:, agent], size)
            for number, agent in enumerate(top[:MAX_MAPS].tolist(), 1)]  # fmt: skip
    return {"agents": "agents.jpg", "strong": "strong.jpg", "num_agents": agents.shape[1], "maps": maps,
            "top": _ranks(teacher[pixel], student[pixel], top)}  # fmt: skip


def _middle(image: Image.Image, size: int) -> Image.Image:
    """Cut a square from the middle of an image; scale up a smaller image first, so that nothing is padded."""
    factor = max(1.0, size / min(image.size))
    width, height = (max(size, round(side * factor)) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    whole = image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BILINEAR)
    return whole.crop((left, top, left + size, top + size))


def _pictured(image: Image.Image) -> Image.Image:
    return image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)


def _points(positions: Int64[Tensor, " points"], size: tuple[int, int]) -> list[tuple[float, float]]:
    """Return the positions of feature grid points in the picture; the corners of both coincide."""
    columns, rows = size
    step = (SIDE - 1) / (columns - 1 or 1), (SIDE - 1) / (rows - 1 or 1)
    return [(position % columns * step[0], position // columns * step[1]) for position in positions.tolist()]


def _draw_agents(
    picture: Image.Image, agents: list[tuple[float, float]], top: list[int], pixel: tuple[float, float]
) -> Image.Image:
    """Mark all agents, number those ranked at the pixel, and mark the pixel with a cross."""
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
    for number, (x, y) in enumerate(agents):
        if number not in top:
            pen.ellipse((x - 4, y - 4, x + 4, y + 4), outline=EDGE, fill=MARK)
    for rank, agent in reversed([*enumerate(top, 1)]):
        x, y = (min(max(part, 9), SIDE - 10) for part in agents[agent])
        pen.ellipse((x - 9, y - 9, x + 9, y + 9), outline=MARK, fill=EDGE, width=2)
        pen.text((x, y), str(rank), fill=MARK, font=font, anchor="mm")
    x, y = (min(max(part, 12), SIDE - 13) for part in pixel)
    for width, colour in ((7, EDGE), (3, PIXEL)):
        pen.line((x - 10, y - 10, x + 10, y + 10), fill=colour, width=width)
        pen.line((x - 10, y + 10, x + 10, y - 10), fill=colour, width=width)
    return picture


def _write_maps(folder: Path, number: int, teacher: Tensor, student: Tensor, size: tuple[int, int]) -> dict[str, Any]:
    names = {}
    for who, shares in (("teacher", teacher), ("student", student)):
        names[who] = f"agent-{number}-{who}.png"
        _map(shares, size).save(folder / names[who], "PNG", optimize=True)
    return {"rank": number, **names}


def _map(shares: Float[Tensor, " positions"], size: tuple[int, int]) -> Image.Image:
    levels = (shares.cpu().numpy().reshape(size[::-1]) * 255).round().astype(np.uint8)
    picture = Image.fromarray(levels)
    ramp = [
        np.interp(np.arange(256), (0, 127.5, 255), part).round().astype(np.uint8) for part in zip(*RAMP, strict=True)
    ]
    picture.putpalette(np.stack(ramp, axis=1).tobytes())
    factor = max(1, -(-MAP_SIDE // max(size)))
    return picture.resize((factor * size[0], factor * size[1]), Image.Resampling.NEAREST)


def _ranks(
    teacher: Float[Tensor, " agents"], student: Float[Tensor, " agents"], top: Int64[Tensor, " ranked"]
) -> list[dict[str, Any]]:
    """Return each ranked agent's rank among all agents and its correlation with the pixel, for both views."""
    return [
        {"teacher_rank": rank, "student_rank": 1 + int((student > student[agent]).sum()),
         "teacher": round(float(teacher[agent]), 4), "student": round(float(student[agent]), 4)}
        for rank, agent in enumerate(top.tolist(), 1)
    ]  # fmt: skip


def _to_image(image: Float[Tensor, "3 height width"]) -> Image.Image:
    return Image.fromarray((image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy())
