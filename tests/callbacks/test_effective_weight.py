import csv

import pytest
from PIL import Image

from conftest import fit, tiny_system, tiny_trainer
from denoiselab.objectives import CrossEntropy, VariationalBound, WeightedMSE
from denoiselab.time_sampling import Uniform
from denoiselab.training.callbacks import EffectiveWeight
from denoiselab.weightings import MinSNR


def table(folder):
    with (folder / "weight.csv").open() as file:
        return [(float(row["log_snr"]), float(row["weight"])) for row in csv.DictReader(file)]


@pytest.mark.parametrize("objective", [VariationalBound(Uniform()), WeightedMSE(MinSNR(), Uniform())])
def test_every_run_s_folder_has_its_effective_weight_over_log_snr(objective, tmp_path):
    system = tiny_system(objective=objective)
    fit(system, tmp_path, steps=1, callbacks=[EffectiveWeight()])
    log_snr, weight = (part.tolist() for part in objective.effective(system.pipeline.denoiser.schedule))
    assert table(tmp_path) == list(zip(log_snr, weight, strict=True))
    with Image.open(tmp_path / "weight.png") as picture:
        assert picture.size == (770, 440)


def test_an_objective_that_is_no_denoising_has_none(tmp_path):
    system = tiny_system()
    system.objective = CrossEntropy(Uniform())
    trainer = tiny_trainer(tmp_path)
    EffectiveWeight().draw(trainer, system)
    assert not list(tmp_path.iterdir())
