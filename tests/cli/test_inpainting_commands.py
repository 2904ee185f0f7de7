"""sample.py and evaluate.py with inpainting=..., by an exact denoiser, which needs no training."""

import json

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from test_main import say

from conftest import Projection
from denoiselab.assembly.configuration import composed
from denoiselab.assembly.evaluation import check_with
from denoiselab.data import Digits
from denoiselab.data.source import spread
from denoiselab.errors import IncompatibleError
from denoiselab.metrics import Looked
from denoiselab.pictures import TOLD, captioned

EXACT = ["data=digits", "device=cpu", "spacing=trailing", "sampler=ddpm", "sampler.steps=12"]


@pytest.fixture
def left(tmp_path):
    """A mask that knows the left half."""
    picture = np.zeros((8, 8), dtype=np.uint8)
    picture[:, :4] = 255
    Image.fromarray(picture).save(tmp_path / "left.png")
    return tmp_path / "left.png"


def test_samples_have_the_known_pixels_of_the_test_images_and_stand_between_them_in_the_grid(
    monkeypatch, capsys, tmp_path, left
):
    words = [*EXACT, "analytic=empirical", "n=6", "inpainting=repaint", "inpainting.jump=4", "inpainting.resamples=3"]
    status, _, err = say(
        monkeypatch, capsys, "sample", f"hydra.run.dir={tmp_path / 'made'}", *words, f"inpainting.mask={left}"
    )
    assert status == 0, err
    facts = json.loads((tmp_path / "made" / "sample.json").read_text())
    assert {"inpainting": "RePaint", "inpainting.jump": 4, "nfe": 12 + 2 * 4 * 2}.items() <= facts.items()
    test = Digits().test
    first = spread(test.labels, 6)
    real = test.images[first, 0].numpy()
    assert facts["labels"] == test.labels[first].tolist()
    made = np.stack([np.asarray(Image.open(tmp_path / "made" / "images" / f"{i:05d}.png")) for i in range(6)])
    assert np.array_equal(made[:, :, :4], real[:, :, :4])
    with Image.open(tmp_path / "made" / "grid.png") as picture:
        above = len(captioned([(TOLD, np.zeros((0, 0), np.uint8))])) - 6  # rows of the legend
        pixels = np.asarray(picture.convert("L"))[above::5, ::5]  # fivefold, with a line of one pixel between
    told, sample, truth = (pixels[:8, start : start + 8] for start in (0, 9, 18))
    assert np.array_equal(told[:, :4], real[0, :, :4])
    assert (told[:, 4:] == 128).all()
    assert np.array_equal(sample, made[0])
    assert np.array_equal(truth, real[0])


class Nearest(Projection):
    """Names an image as the class of the nearest training image: no training, and right on 99% of the digits."""

    knows_classes = True

    def look(self, images):
        train = Digits().train
        apart = torch.cdist(images.flatten(1).double(), train.images.flatten(1).double())
        classes = [apart[:, train.labels == k].amin(1) for k in range(10)]
        return Looked(super().look(images).features, logits=-torch.stack(classes, 1))


@pytest.mark.slow
def test_an_evaluation_says_that_the_known_pixels_are_right_and_of_which_class_the_whole_is(
    monkeypatch, capsys, tmp_path
):
    monkeypatch.setattr("denoiselab.metrics.trained_classifier", lambda source, cache: Nearest(pixels=64))
    words = [
        *EXACT,
        "analytic=gaussian",
        "n=60",
        "inpainting=replacement",
        "inpainting.mask=half",
        "metrics=fid",
        "extractor=classifier",
    ]
    words += ["logger=csv", f"cache={tmp_path}", f"hydra.run.dir={tmp_path / 'judged'}"]
    status, _, err = say(monkeypatch, capsys, "evaluate", *words)
    assert status == 0, err
    figures = json.loads((tmp_path / "judged" / "metrics.json").read_text())
    assert figures["known_error"] == 0
    assert figures["unknown_error"] > 5
    assert figures["floor.class_accuracy"] > 0.95
    # A Gaussian of all classes knows none, and goes by the half that is known: far above one in ten.
    assert 0.4 < figures["class_accuracy"] < 0.95
    assert (figures["inpainting"], figures["inpainting.mask"], figures["nfe"]) == ("Replacement", "half", 12)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["inpainting=repaint", "inpainting.mask=halves"], "mask=halves is no kind of mask and no file; allowed: box"),
        (["inpainting=repaint", "inpainting.mask=none.png"], "'none.png' cannot be read as a mask"),
        (["inpainting=repaint", "inpainting.jump=12"], "take a jump below sampler.steps"),
        (["inpainting=repaint", "inpainting.jump=0"], "inpainting.jump must be at least 1 (got 0)"),
        (["inpainting=replacement", "invert=true"], "inpainting has a part of one; take inpainting=none"),
        (["inpainting=replacement", "data=moons"], "these data are points; take inpainting=none"),
    ],
)
def test_a_slip_is_told_in_one_line_and_leaves_nothing_behind(words, said, monkeypatch, capsys, tmp_path):
    status, _, err = say(
        monkeypatch, capsys, "sample", f"hydra.run.dir={tmp_path / 'made'}", *EXACT, "analytic=empirical", *words
    )
    assert status == 2
    assert said in err
    assert err.count("\n") == 1
    assert not (tmp_path / "made").exists()


@pytest.mark.slow
def test_a_mask_of_another_size_is_told_with_both_sizes(monkeypatch, capsys, tmp_path):
    Image.fromarray(np.eye(16, dtype=np.uint8) * 255).save(tmp_path / "mask.png")
    words = ["inpainting=replacement", f"inpainting.mask={tmp_path / 'mask.png'}"]
    status, _, err = say(
        monkeypatch, capsys, "sample", f"hydra.run.dir={tmp_path / 'made'}", *EXACT, "analytic=empirical", *words
    )
    assert status == 2
    assert "is 16 x 16 pixels (height x width), and the images are 8 x 8; give one of their size" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("conditioning", ["inpainting", "several"])
def test_a_model_that_was_trained_to_inpaint_is_given_no_second_mask(conditioning):
    """Else figures of known pixels would be of two masks at once."""
    trained = composed("train", [f"conditioning={conditioning}", "guidance=none", "likelihood=none"])
    OmegaConf.set_struct(trained, False)  # as it is in a checkpoint
    asked = OmegaConf.create({"inpainting": {"_target_": "denoiselab.inpainting.Replacement", "mask": "box"}})
    with pytest.raises(IncompatibleError, match="conditioning=inpainting has masks of its own"):
        check_with(trained, asked)
