import hashlib

import numpy as np
import pytest

from rankmatch.data.synthetic import CLASS_NAMES, draw_scene

SIZE = 160


def test_scene_is_a_pure_function_of_seed_and_index():
    first, others = draw_scene(3, seed=0, size=SIZE), [draw_scene(i, seed=0, size=SIZE) for i in (5, 3)]
    np.testing.assert_array_equal(first[0], others[1][0])
    np.testing.assert_array_equal(first[1], others[1][1])


def test_seed_and_index_name_different_scenes():
    keys = [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2**31), (0, 2**31 + 1)]
    scenes = {hashlib.sha256(draw_scene(index, seed=seed, size=SIZE)[0].tobytes()).digest() for seed, index in keys}
    assert len(scenes) == len(keys)


@pytest.mark.parametrize("size", [160, 129, 33])
def test_image_and_label_have_the_asked_size_and_type(size):
    image, label = draw_scene(0, seed=0, size=size)
    assert (image.shape, image.dtype, label.shape, label.dtype) == ((size, size, 3), np.uint8, (size, size), np.uint8)


def test_labels_are_classes_and_every_class_covers_a_share_of_the_pixels():
    labels = np.stack([draw_scene(index, seed=0, size=SIZE)[1] for index in range(40)])
    shares = np.bincount(labels.ravel(), minlength=len(CLASS_NAMES)) / labels.size
    assert len(shares) == len(CLASS_NAMES)
    assert shares[0] == pytest.approx(0.5, abs=0.12)
    assert shares[1:].min() > 0.05


def test_four_scenes_show_every_class():
    labels = [draw_scene(index, seed=0, size=SIZE)[1] for index in range(4)]
    assert set(np.unique(labels)) == set(range(len(CLASS_NAMES)))


def test_objects_are_told_by_lightness_and_pattern_but_not_by_hue():
    scenes = [draw_scene(index, seed=0, size=SIZE) for index in range(40)]
    pixels = np.concatenate([image[::3, ::3].reshape(-1, 3) for image, _ in scenes]) / 255
    labels = np.concatenate([label[::3, ::3].ravel() for _, label in scenes])
    mean = np.array([pixels[labels == kind].mean(0) for kind in range(len(CLASS_NAMES))])
    gray = dict(zip(CLASS_NAMES, mean.mean(1), strict=True))
    spread = {name: pixels[labels == kind].mean(1).std() for kind, name in enumerate(CLASS_NAMES)}
    assert max(gray["stripes"], gray["dark"]) < gray["ground"] - 0.1 < gray["bright"] - 0.2
    assert np.ptp(mean, axis=1).max() < 0.1
    assert min(spread["stripes"], spread["dots"], spread["checker"]) > max(spread["dark"], spread["bright"]) + 0.05
