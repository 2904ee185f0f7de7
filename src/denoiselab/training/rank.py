"""Entry point of one process of `processes.launch`: python -m denoiselab.training.rank <job.json>."""

import json
import sys
from pathlib import Path

from omegaconf import OmegaConf

from denoiselab.training.processes import telling
from denoiselab.training.start import Start
from denoiselab.training.train import train


def main(job: str) -> None:
    with telling():
        facts = json.loads(Path(job).read_text())
        start = Start(**facts["start"] | {"folder": Path(facts["start"]["folder"])})
        train(OmegaConf.create(facts["config"]), start)


if __name__ == "__main__":
    main(sys.argv[1])
