"""What samples are asked for."""

import pytest
import torch

from conftest import Specks
from denoiselab.conditioning import ClassLabel, Cond, Plain, Routes, Wishes
from denoiselab.conditioning.wishes import numbered
from denoiselab.data.source import InMemory, spread
from denoiselab.errors import ConfigError, RunError


class Seeing(Plain):
    """Is told the image and two random numbers."""

    routes, drop, sees, draws = Routes(concat=1), 0.0, ("image",), 2

    def forward(self, batch):
        return Cond(concat=batch["image"].float())

    def null(self, cond):
        return Cond(concat=0 * cond.concat)


def test_classes_go_round_by_the_samples_number():
    assert Wishes(ClassLabel(3), 3)([4, 0, 2])["label"].tolist() == [1, 0, 2]
    assert Wishes(ClassLabel(3), 3, classes=[2, 0])([0, 1, 2, 7])["label"].tolist() == [2, 0, 2, 0]
    assert Wishes(ClassLabel(3), 0)([5])["label"].tolist() == [0]


def test_of_images_sample_i_is_asked_for_what_test_image_i_says_round_and_round():
    test = Specks(test=5).test
    order = spread(test.labels)
    asked = Wishes(Seeing(), 3, test)([1, 6, 4])
    assert torch.equal(asked["image"], test.images[[order[1], order[1], order[4]]])
    assert torch.equal(asked["label"], test.labels[[order[1], order[1], order[4]]])


def test_the_first_few_are_of_all_classes_though_the_images_are_sorted_by_class():
    labels = torch.arange(4).repeat_interleave(25)
    test = InMemory(torch.zeros(100, 1, 2, 2, dtype=torch.uint8), labels)
    asked = Wishes(Seeing(), 4, test)(range(20))["label"]
    assert asked.bincount(minlength=4).tolist() == [5, 5, 5, 5]


def test_of_images_those_of_the_chosen_classes_are_taken():
    test = Specks().test
    asked = Wishes(Seeing(), 3, test, classes=[1])(range(4))
    order = [i for i in spread(test.labels) if test.labels[i] == 1]
    assert torch.equal(asked["image"], test.images[order[:4]])
    with pytest.raises(ConfigError, match=r"classes=\[7\] are those of no test image"):
        Wishes(Seeing(), 3, test, classes=[7])


def test_it_is_said_what_of_the_images_a_model_gets_to_see():
    assert Wishes(ClassLabel(3), 3, Specks().test).given == []
    assert Wishes(ClassLabel(3), 3, Specks().test, of_images=True).given == ["image"]
    assert Wishes(Seeing(), 3, Specks().test).given == list(Seeing.sees)


def test_what_is_chosen_at_random_follows_from_the_samples_number_alone():
    test = Specks().test
    asked, one = Wishes(Seeing(), 3, test)([3, 8, 30]), Wishes(Seeing(), 3, test)([8])
    assert asked["u"].shape == (3, 2)
    assert torch.equal(asked["u"][1:2], one["u"])
    assert len(asked["u"].unique()) == 6
    assert torch.equal(numbered(Seeing(), {"label": torch.zeros(1)}, [8])["u"], one["u"])
    assert "u" not in Wishes(ClassLabel(3), 3)([0])


def test_without_images_there_is_nothing_to_tell_of_them():
    with pytest.raises(RunError, match="there are none here"):
        Wishes(Seeing(), 3)([0])
