"""Captions are a finite table: what they say is true of the image, and some wordings are never trained on."""

import re

import pytest
import torch

from denoiselab.conditioning.captions import Captions, brightness, intensity, read, slant, written
from denoiselab.data import Digits
from denoiselab.data.fashion_mnist import FashionMNIST
from denoiselab.errors import ConfigError

CLASSES = {
    "digits": Digits.class_names,
    "clothes": FashionMNIST.class_names,
    "folders": ("golden retriever", "tabby", "n01440764"),
}
each = pytest.mark.parametrize("names", CLASSES.values(), ids=CLASSES)


def batch(n: int, classes: int, draws: int, **more):
    u = torch.rand(n, draws, generator=torch.Generator().manual_seed(3))
    return {"label": torch.arange(n) % classes, "u": u} | more


def said(captions: Captions, asked) -> list[str]:
    return [captions.texts[i] for i in captions.index(asked)]


@each
def test_the_table_is_finite_and_the_same_each_time_and_each_of_its_texts_is_told(names):
    captions = Captions(names)
    assert captions.texts == Captions(names).texts
    assert len(set(captions.texts)) == len(captions.texts) == len(names) * 3 ** len(captions.attributes) * 12
    asked = batch(40_000, len(names), captions.draws)
    told = set(said(captions, asked)) | set(said(captions, asked | {"unseen": torch.ones(40_000, dtype=torch.bool)}))
    assert told == set(captions.texts)


@each
def test_held_out_wordings_are_never_trained_on_and_training_never_tells_them(names):
    captions = Captions(names)
    trained = said(captions, batch(40_000, len(names), captions.draws))
    unseen = said(captions, batch(40_000, len(names), captions.draws, unseen=torch.ones(40_000, dtype=torch.bool)))
    assert set(trained) == set(captions.trained)
    assert not set(trained) & set(unseen)


@each
def test_held_out_wordings_have_no_word_that_training_has_not(names):
    captions = Captions(names)
    assert {word for text in captions.texts for word in text.split()} == {
        word for text in captions.trained for word in text.split()
    }


@each
def test_each_caption_names_its_class_and_none_of_the_others(names):
    captions = Captions(names)
    asked = batch(600, len(names), captions.draws)
    for text, label in zip(said(captions, asked), asked["label"].tolist(), strict=True):
        rest, found = re.subn(rf"(?<![\w-]){captions.nouns[label]}\b", "", text)
        assert found == 1
        assert not any(re.search(rf"(?<![\w-]){noun}\b", rest) for noun in captions.nouns)
        assert "  " not in text
        assert text == text.strip()


def test_articles_fit_the_words_that_they_stand_before():
    texts = Captions(Digits.class_names).texts + Captions(FashionMNIST.class_names).texts
    for text in texts:
        for article, after in re.findall(r"\b(an?) (\w+)", text):
            assert (article == "an") == (after in ("eight", "ankle", "image")), text
    assert "an eight" in texts
    assert "a bold eight" in texts
    assert "a one" in texts
    assert "an image of an ankle boot" in texts
    assert "a dark pair of trousers" in texts


def test_captions_say_of_attributes_what_is_measured_and_no_more():
    captions, images = Captions(Digits.class_names), Digits().train.__getitems__(range(800))
    u = torch.rand(800, 3, generator=torch.Generator().manual_seed(1))
    told, levels = captions.told(images | {"u": u}), captions.levels(images["image"])
    assert torch.equal(told, torch.where(u[:, 1:] >= 0.5, levels, 0))
    for text, (stroke, lean) in zip(said(captions, images | {"u": u}), told.tolist(), strict=True):
        assert [word in text for word in ("thin", "bold")] == [stroke == 1, stroke == 2]
        assert [word in text for word in ("left", "right")] == [lean == 1, lean == 2]
    shares = torch.stack([(levels == i).double().mean(0) for i in range(3)], 1)
    assert shares.min() > 0.1, "each attribute is there to be learned"


def test_where_there_is_no_image_attributes_are_drawn_and_both_words_are_as_frequent():
    captions, n = Captions(Digits.class_names, tell=0.4), 20_000
    told = captions.told(batch(n, 10, 3))
    for column in told.unbind(1):
        counts = torch.bincount(column, minlength=3) / n
        # Four standard deviations of a share of n.
        torch.testing.assert_close(counts, torch.tensor([0.6, 0.2, 0.2]), rtol=0, atol=4 * (0.24 / n) ** 0.5)


def test_without_drawn_numbers_a_caption_is_the_first_and_says_nothing_but_the_class():
    captions, label = Captions(Digits.class_names), torch.tensor([7, 8])
    assert said(captions, {"label": label}) == ["a photo of a handwritten seven", "a photo of a handwritten eight"]
    unseen = {"label": label, "unseen": torch.ones(2, dtype=torch.bool)}
    assert said(captions, unseen) == ["a photo of the number seven", "a photo of the number eight"]


def test_a_caption_that_never_tells_an_attribute_never_does():
    captions = Captions(Digits.class_names, tell=0.0)
    assert (captions.told(batch(1000, 10, 3)) == 0).all()
    always = Captions(Digits.class_names, tell=1.0)
    assert (always.told(batch(1000, 10, 3)) > 0).all()


def test_measures_of_attributes_have_the_values_of_known_pictures():
    flat = torch.full((1, 1, 6, 6), 51, dtype=torch.uint8)
    assert float(intensity(flat)) == pytest.approx(0.2)
    flat[:, :, :3] = 0
    assert float(intensity(flat)) == pytest.approx(0.1)
    assert float(brightness(flat)) == pytest.approx(0.2)
    falling = (torch.eye(7) * 200).to(torch.uint8)[None, None]  # \: each row one column to the left of the one below
    assert float(slant(falling)) == pytest.approx(-1, abs=1e-6)
    assert float(slant(falling.flip(-1))) == pytest.approx(1, abs=1e-6)
    assert float(slant(torch.zeros(1, 1, 7, 7, dtype=torch.uint8))) == 0


def test_data_without_classes_have_no_captions():
    with pytest.raises(ConfigError, match=r"no classes.*conditioning=none"):
        Captions([])


def test_texts_in_a_batch_are_read_as_they_were_written():
    texts = ["a seven", "eine Sieben, fünf Köpfe", "七", "a"]
    rows = written(texts)
    assert rows.dtype == torch.uint8
    assert len(rows) == 4
    assert read(rows) == texts
    assert read(rows[[2, 0]]) == ["七", "a seven"]
