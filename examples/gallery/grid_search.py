"""
A grid search of scikit-learn
=============================

scikit-learn runs its fits by joblib. With shoal in joblib's place it runs on shoal's workers, and a report says how.
"""

import matplotlib.pyplot as plt
import numpy as np

import shoal

shoal.install_as_joblib()  # before scikit-learn is imported

from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from sklearn.svm import SVC

# %%

X, y = load_digits(return_X_y=True)
grid = {"C": [0.1, 1, 10, 100], "gamma": [0.0001, 0.0005, 0.001, 0.005]}
search = GridSearchCV(SVC(), grid, cv=3, n_jobs=2)
with shoal.report() as report:
    search.fit(X[:900], y[:900])
print(search.best_params_)

# %%

scores = np.reshape(search.cv_results_["mean_test_score"], (4, 4))
figure, axis = plt.subplots(figsize=(5.5, 4.5), layout="constrained")
picture = axis.imshow(scores, cmap="viridis")
for (row, column), score in np.ndenumerate(scores):
    axis.text(column, row, f"{score:.3f}", ha="center", va="center", color="black" if score > 0.6 else "white")
axis.set(title="Accuracy", xlabel="gamma", ylabel="C")
axis.set_xticks(range(4), grid["gamma"])
axis.set_yticks(range(4), grid["C"])
figure.colorbar(picture)
plt.show()

# %%
# As a page, the report has a timeline of the workers. As text it is:

print(report)
