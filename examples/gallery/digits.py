"""
Ten models on handwritten digits
================================

Five folds of ten models of scikit-learn are fifty independent fits. Which digits does the best model take for others?
"""

import matplotlib.pyplot as plt
import numpy as np

import shoal

shoal.install_as_joblib()  # scikit-learn needs no joblib then

from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from shoal import Parallel, delayed

# %%

models = {f"logistic, C={c:g}": make_pipeline(StandardScaler(), LogisticRegression(C=c)) for c in (0.01, 0.1)}
models |= {f"SVC, C={c:g}": make_pipeline(StandardScaler(), SVC(C=c)) for c in (0.1, 1, 10)}
models |= {f"neighbours, k={k}": KNeighborsClassifier(k) for k in (1, 5)}
models |= {f"trees, depth {depth}": RandomForestClassifier(50, max_depth=depth, random_state=0) for depth in (4, 8, 16)}

digits = load_digits()
folds = list(StratifiedKFold(5, shuffle=True, random_state=0).split(digits.data, digits.target))


def predict(model, x, y, train, test):
    return clone(model).fit(x[train], y[train]).predict(x[test])


# %%
# The digits travel to the workers with the calls; they are small. Order and results are those of a loop.

predicted = Parallel(n_jobs=2)(
    delayed(predict)(model, digits.data, digits.target, train, test)
    for model in models.values()
    for train, test in folds
)
answers = np.empty((len(models), len(digits.target)), dtype=int)
for number, found in enumerate(predicted):
    answers[number // 5, folds[number % 5][1]] = found
accuracy = (answers == digits.target).mean(axis=1)
best = int(accuracy.argmax())

# %%

figure, axis = plt.subplots(figsize=(7, 3.6), layout="constrained")
bars = axis.barh(list(models), accuracy)
axis.bar_label(bars, fmt="%.3f", padding=3)
axis.invert_yaxis()
axis.set(title="Accuracy, five folds", xlim=(0.8, 1.02))
plt.show()

# %%

wrong = np.flatnonzero(answers[best] != digits.target)[:8]
figure, axes = plt.subplots(1, len(wrong), figsize=(10, 1.9), layout="constrained")
for axis, number in zip(axes, wrong, strict=True):
    axis.imshow(digits.images[number], cmap="gray_r")
    axis.set_title(f"{digits.target[number]}, not {answers[best, number]}")
    axis.set_axis_off()
figure.suptitle(f"What {list(models)[best]} takes for another digit")
plt.show()
