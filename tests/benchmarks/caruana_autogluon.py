"""Run AutoGluon's ensemble selection on saved probabilities, in AutoGluon's own environment.

`stage_one.py` calls this. AutoGluon averages probabilities where radin averages logits. Among equal
ingredients it takes one that is in the ensemble already, then one at random; radin takes the first.
AutoGluon also cuts its path at the first best step. The time is that of `fit` alone.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from autogluon.core.metrics import accuracy
from autogluon.core.models.greedy_ensemble.ensemble_selection import EnsembleSelection


def main(folder: Path, steps: int) -> None:
    probabilities = np.load(folder / "probabilities.npy")
    labels = np.load(folder / "labels.npy")
    selection = EnsembleSelection(ensemble_size=steps, problem_type="multiclass", metric=accuracy)
    start = time.perf_counter()
    selection.fit(list(probabilities), labels)
    spent = time.perf_counter() - start
    print(
        json.dumps(
            {
                "seconds": spent,
                "version": version("autogluon.core"),
                "best_accuracy": 100 - 100 * float(selection.train_score_),
                "steps_kept": int(selection.ensemble_size),
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
