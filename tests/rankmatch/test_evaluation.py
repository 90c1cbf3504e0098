import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.nn import functional

from rankmatch.evaluation import (
    NUM_BINS,
    Evaluation,
    EvaluationStopped,
    calibration_counts,
    confusion_matrix,
    evaluate,
    predict,
    predict_with_probabilities,
    sliding_window_probabilities,
)


class Pixelwise(nn.Module):
    def __init__(self, num_classes=4, kernel=1):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(num_classes, 3, kernel, kernel, generator=generator))
        self.norm = nn.BatchNorm2d(num_classes)
        self.sizes, self.modes = [], []

    def forward(self, images):
        self.sizes.append(tuple(images.shape))
        self.modes.append(self.training)
        return self.norm(functional.conv2d(images, self.weight, padding="same")), images


def batches(sizes=((1, 7, 9), (2, 5, 6)), num_classes=4):
    generator = torch.Generator().manual_seed(1)
    for batch, height, width in sizes:
        labels = torch.randint(num_classes, (batch, height, width), generator=generator, dtype=torch.uint8)
        labels[torch.rand(labels.shape, generator=generator) < 0.2] = 255
        yield torch.randn(batch, 3, height, width, generator=generator), labels


def slow_confusion(prediction, label, num_classes):
    confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    for true, found in zip(label.flatten().tolist(), prediction.flatten().tolist(), strict=True):
        if true != 255:
            confusion[true, found] += 1
    return confusion


def slow_sliding_window(model, image, crop):
    step, (height, width), total = int(crop * 2 / 3), image.shape[2:], 0
    for top in range(0, height, step):
        for left in range(0, width, step):
            logits = model(image[:, :, top : top + crop, left : left + crop])[0]
            part = logits.softmax(1)
            total = total + functional.pad(
                part, (left, width - left - part.shape[3], top, height - top - part.shape[2])
            )
    return total


def test_confusion_counts_each_labeled_pixel():
    generator = torch.Generator().manual_seed(0)
    prediction = torch.randint(5, (2, 9, 9), generator=generator)
    label = torch.randint(5, (2, 9, 9), generator=generator, dtype=torch.uint8)
    label[:, :3] = 255
    confusion = confusion_matrix(prediction, label, 5)
    assert confusion.sum() == 2 * 6 * 9
    assert (confusion == slow_confusion(prediction, label, 5)).all()


def test_label_above_the_classes_is_refused():
    label = torch.tensor([[[0, 4, 255]]], dtype=torch.uint8)
    with pytest.raises(ValueError, match="labels must be below 4, the number of classes, or 255; got 4"):
        confusion_matrix(torch.zeros(1, 1, 3, dtype=torch.int64), label, 4)


def test_iou_leaves_out_classes_without_a_label_even_if_predicted():
    evaluation = Evaluation(torch.tensor([[3, 1, 0, 1], [2, 4, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]))
    iou = evaluation.class_iou
    assert evaluation.present.tolist() == [True, True, False, False]
    assert iou[:2].tolist() == pytest.approx([3 / 7, 4 / 7])
    assert iou[2:].isnan().all()
    assert evaluation.miou() == evaluation.miou("skip") == pytest.approx(1 / 2)
    assert evaluation.miou("zero") == pytest.approx(1 / 4)
    assert Evaluation(evaluation.confusion, "zero").miou() == pytest.approx(1 / 4)
    with pytest.raises(ValueError, match="absent_classes must be one of skip, zero; got 'nan'"):
        evaluation.miou("nan")


def test_whole_images_are_evaluated_pixel_by_pixel():
    model = Pixelwise().eval()
    expected = sum(slow_confusion(model(images)[0].argmax(1), labels, 4) for images, labels in batches())
    evaluation = evaluate(model, batches(), num_classes=4, device="cpu", absent_classes="zero")
    assert (evaluation.confusion == expected).all()
    assert evaluation.absent_classes == "zero"


@pytest.mark.parametrize(("height", "width", "crop"), [(10, 23, 9), (9, 9, 9), (5, 20, 9), (12, 14, 4), (3, 3, 9)])
def test_sliding_window_sums_the_softmax_of_every_window(height, width, crop):
    model = Pixelwise(kernel=5).eval()
    images = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = slow_sliding_window(model, images, crop)
    torch.testing.assert_close(sliding_window_probabilities(model, images, crop), expected)
    assert (predict(model, images, mode="sliding", crop_size=crop) == expected.argmax(1)).all()


def test_windows_of_one_size_pass_together():
    model = Pixelwise().eval()
    sliding_window_probabilities(model, torch.zeros(2, 3, 10, 23), 9)
    # Rows start at 0 and 6, columns at 0, 6, 12 and 18: the last of each is cut.
    assert sorted(model.sizes) == [(2, 3, 4, 5), (2, 3, 9, 5), (6, 3, 4, 9), (6, 3, 9, 9)]


def test_sliding_evaluation_counts_the_sliding_prediction():
    model = Pixelwise(kernel=5).eval()
    expected = sum(
        slow_confusion(slow_sliding_window(model, images, 6).argmax(1), labels, 4) for images, labels in batches()
    )
    evaluation = evaluate(model, batches(), num_classes=4, device="cpu", mode="sliding", crop_size=6)
    assert (evaluation.confusion == expected).all()


def test_model_is_evaluated_in_eval_mode_and_left_as_it_was():
    model = Pixelwise().train()
    model.norm.eval()
    mean = model.norm.running_mean.clone()
    evaluate(model, batches(), num_classes=4, device="cpu")
    assert model.modes == [False, False]
    assert model.training
    assert not model.norm.training
    assert (model.norm.running_mean == mean).all()
    with pytest.raises(ValueError, match="got 3"):
        evaluate(model, batches(), num_classes=3, device="cpu")
    assert model.training


def test_reduce_adds_the_other_workers():
    model, parts = Pixelwise(), list(batches())
    made = evaluate(model, parts[1:], num_classes=4, device="cpu")
    other = torch.cat([made.confusion.flatten(), made.calibration.flatten()])
    together = evaluate(model, parts[:1], num_classes=4, device="cpu", reduce=lambda counts: counts + other)
    alone = evaluate(model, parts, num_classes=4, device="cpu")
    assert (together.confusion == alone.confusion).all() and (together.calibration == alone.calibration).all()
    nothing = evaluate(model, [], num_classes=4, device="cpu", reduce=lambda _: other)
    assert (nothing.confusion == made.confusion).all()


def test_calibration_counts_labeled_pixels_by_confidence_and_whether_they_are_right():
    prediction, label = torch.tensor([0, 0, 1, 1, 1]), torch.tensor([0, 1, 1, 255, 1])
    counts = calibration_counts(prediction, torch.tensor([0.51, 0.54, 1.0, 0.9, 0.96]), label)
    assert counts.shape == (NUM_BINS, 2) and counts.sum() == 4
    assert counts[10].tolist() == [1, 1] and counts[19].tolist() == [0, 2]


@pytest.mark.parametrize("mode", ["whole", "sliding"])
def test_evaluation_counts_the_confidence_of_what_it_predicts(mode):
    model, images = Pixelwise().eval(), list(batches())
    found = evaluate(model, images, num_classes=4, device="cpu", mode=mode, crop_size=4)
    expected = torch.zeros(NUM_BINS, 2, dtype=torch.int64)
    for image, label in images:
        prediction, shares = predict_with_probabilities(model, image, mode=mode, crop_size=4)
        expected += calibration_counts(prediction, shares.max(dim=1).values, label)
    assert (found.calibration == expected).all()
    assert found.calibration.sum() == found.confusion.sum()
    assert found.calibration[:, 1].sum() == found.confusion.diag().sum()


def test_bad_settings_are_refused_before_an_image_is_read():
    def unread():
        raise AssertionError("read")
        yield

    settings = {"num_classes": 4, "device": "cpu"}
    with pytest.raises(ValueError, match="mode must be one of whole, sliding; got 'tiles'"):
        evaluate(Pixelwise(), unread(), **settings, mode="tiles")
    with pytest.raises(ValueError, match="crop_size must be at least 2 for sliding windows; got None"):
        evaluate(Pixelwise(), unread(), **settings, mode="sliding")
    with pytest.raises(ValueError, match="absent_classes must be one of skip, zero; got 'nan'"):
        evaluate(Pixelwise(), unread(), **settings, absent_classes="nan")


def test_validation_without_a_labeled_pixel_is_refused():
    with pytest.raises(ValueError, match="must have a pixel that counts; got none"):
        evaluate(Pixelwise(), [], num_classes=4, device="cpu")


def counted(batches, seen):
    for batch in batches:
        seen.append(batch)
        yield batch


def test_evaluation_that_is_told_to_stop_ends_before_its_next_image_and_leaves_the_model_as_it_was():
    model, seen = Pixelwise().train(), []
    answers = iter([False, True])
    with pytest.raises(EvaluationStopped):
        evaluate(model, counted(batches(), seen), num_classes=4, device="cpu", should_stop=lambda: next(answers))
    assert model.modes == [False] and model.training


def test_evaluation_that_is_asked_and_not_told_to_stop_counts_the_same():
    model = Pixelwise()
    expected = evaluate(model, batches(), num_classes=4, device="cpu").confusion
    asked = evaluate(model, batches(), num_classes=4, device="cpu", should_stop=lambda: False).confusion
    assert (asked == expected).all()


class Workers:
    """Two workers as threads that add up their tensors."""

    def __init__(self):
        self.parts, self.meeting = {}, threading.Barrier(2, timeout=30)

    def reduce(self, tensor):
        self.parts[threading.get_ident()] = tensor
        self.meeting.wait()
        total = sum(self.parts.values())
        self.meeting.wait()
        return total

    def evaluate(self, *shares, stop_after=None):
        """Return what each share's worker counted, or "stopped"; the first is told to stop after some questions."""

        def work(number):
            asked = iter(range(100))
            told = (lambda: next(asked) >= stop_after) if stop_after is not None and number == 0 else lambda: False
            try:
                return evaluate(
                    Pixelwise(), shares[number], num_classes=4, device="cpu", reduce=self.reduce, should_stop=told
                ).confusion
            except EvaluationStopped:
                return "stopped"

        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(work, range(2)))


IMAGES = ((1, 7, 9), (1, 5, 6), (1, 8, 8), (1, 6, 6), (1, 7, 7), (1, 5, 5), (1, 4, 9))


@pytest.mark.parametrize(("first", "second"), [(0, 7), (1, 6), (4, 3), (5, 2), (7, 0)])
def test_workers_of_unequal_shares_count_together_and_stop_together(first, second):
    every = list(batches(IMAGES))
    whole = evaluate(Pixelwise(), every, num_classes=4, device="cpu").confusion
    shares = every[:first], every[7 - second :]
    together = Workers().evaluate(*shares)
    assert all((confusion == whole).all() for confusion in together)
    assert Workers().evaluate(*shares, stop_after=0) == ["stopped"] * 2
    assert Workers().evaluate(*shares, stop_after=1) == ["stopped"] * 2
