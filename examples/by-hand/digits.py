"""Write two devices' data: scikit-learn's handwritten digits, half of them each, the attic's camera upside down."""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

HERE = Path(__file__).parent
SPLITS = {"train": slice(0, 500), "validation": slice(500, 650), "test": slice(650, 850)}

inputs, targets = load_digits(return_X_y=True)
images = (inputs / 16).astype(np.float32)
halves = {"kitchen": images[:898], "attic": images[898:].reshape(-1, 8, 8)[:, ::-1].reshape(-1, 64)}
labels = {"kitchen": targets[:898], "attic": targets[898:]}
for name, half in halves.items():
    arrays = {f"x_{split}": half[rows] for split, rows in SPLITS.items()}
    arrays |= {f"y_{split}": labels[name][rows] for split, rows in SPLITS.items()}
    np.savez(HERE / f"{name}.npz", **arrays)
