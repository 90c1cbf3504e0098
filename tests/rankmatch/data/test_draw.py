import pytest

from rankmatch.data.catalog import Sample
from rankmatch.data.draw import draw_order, list_text


def test_order_depends_on_the_seed_and_holds_every_image_once():
    assert sorted(draw_order(50, 0)) == list(range(50))
    assert draw_order(50, 0) == draw_order(50, 0) != draw_order(50, 1)


@pytest.mark.parametrize("seed", range(5))
def test_balanced_lists_show_every_class_from_the_start(seed):
    classes = [frozenset({0}) for _ in range(40)] + [frozenset({0, 1}), frozenset({0, 2}), frozenset({3})]
    order = draw_order(len(classes), seed, classes)
    assert sorted(order) == list(range(len(classes)))
    assert frozenset().union(*(classes[index] for index in order[:4])) == {0, 1, 2, 3}


def test_balanced_order_takes_images_without_a_class_too():
    assert sorted(draw_order(3, 0, [frozenset(), frozenset({1}), frozenset()])) == [0, 1, 2]


def test_line_of_a_sample_without_label_is_its_image():
    assert list_text([Sample("1.png", "1_l.png"), Sample("2.png", None)]) == "1.png 1_l.png\n2.png\n"
