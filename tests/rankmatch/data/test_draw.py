import pytest

from rankmatch.data.catalog import Sample
from rankmatch.data.draw import draw_order, list_texts


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


def test_lists_keep_the_order_of_the_train_list():
    samples = [Sample(f"{number}.png", f"{number}_l.png") for number in range(4)]
    assert list_texts(samples, [3, 1]) == ("1.png 1_l.png\n3.png 3_l.png\n", "0.png 0_l.png\n2.png 2_l.png\n")
