"""mlxtend."""

from mlxtend.feature_selection import ExhaustiveFeatureSelector, SequentialFeatureSelector
from sklearn.datasets import load_iris
from sklearn.neighbors import KNeighborsClassifier

X, y = load_iris(return_X_y=True)
one = SequentialFeatureSelector(KNeighborsClassifier(), k_features=2, n_jobs=2, cv=3).fit(X, y)
print(one.k_feature_idx_, round(one.k_score_, 12))
given = {"min_features": 1, "max_features": 3, "n_jobs": 2, "cv": 3, "print_progress": False}
other = ExhaustiveFeatureSelector(KNeighborsClassifier(), **given).fit(X, y)
print(other.best_idx_, round(other.best_score_, 12))
