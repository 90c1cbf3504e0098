import torch

from rankmatch.config import (
    AugmentConfig,
    DatasetConfig,
    MethodConfig,
    NumericsConfig,
    OptimisationConfig,
    SceneConfig,
    TrainConfig,
)
from rankmatch.data.catalog import open_dataset
from rankmatch.data.loaders import TrainLoader
from rankmatch.data.photometric import Window, distort, draw_view
from rankmatch.data.splits import read_splits
from rankmatch.data.transforms import draw_box, normalise
from rankmatch.data.views import ViewMaker
from rankmatch.distributed import Purpose, generator


def test_strong_view_is_the_own_one_with_the_partners_in_the_box():
    """Whole views, made and pasted one after the other, are what `ViewMaker` makes only as far as it is seen."""
    numerics = NumericsConfig(
        split="5",
        dataset=DatasetConfig(scenes=SceneConfig(num_train=18, num_val=2, size=48)),
        method=MethodConfig(name="unimatch"),
        augment=AugmentConfig(crop_size=33),
        trainer=OptimisationConfig(labeled_batch_size=2, unlabeled_batch_size=4),
    )
    config = TrainConfig(numerics=numerics)
    loader = TrainLoader(config, read_splits(config), open_dataset(config))
    num_pasted = 0
    for batch in loader.epoch(1):
        views = ViewMaker(numerics, (8, 8), torch.device("cpu")).make(batch, epoch=1).unlabeled
        assert views is not None and batch.weak is not None and batch.partner is not None
        for place, position in enumerate(batch.positions):
            expected = whole(batch.weak[place], numerics, position, Purpose.VIEW_2)
            window = box(numerics, position)
            if window is not None:
                num_pasted += 1
                pasted = whole(batch.partner[place], numerics, position, Purpose.PARTNER_VIEW_2)
                expected[(..., *window)] = pasted[(..., *window)]
            torch.testing.assert_close(views.strong[1].images[place], normalise(expected), atol=1e-5, rtol=0)
            assert views.strong[1].box[place].any() == (window is not None)
    assert 2 <= num_pasted <= 10


def whole(image: torch.Tensor, numerics: NumericsConfig, position: int, purpose: Purpose) -> torch.Tensor:
    images = image[None].float() / 255
    distort(images, [draw_view(numerics.augment, generator(0, 1, position, purpose))])
    return images[0]


def box(numerics: NumericsConfig, position: int) -> Window | None:
    return draw_box(33, numerics.augment, generator(0, 1, position, Purpose.BOX_2))
