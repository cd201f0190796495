"""imbalanced-learn, and a pipeline with a Memory."""

import tempfile

import joblib
from imblearn.ensemble import BalancedBaggingClassifier, BalancedRandomForestClassifier
from imblearn.pipeline import make_pipeline
from imblearn.under_sampling import EditedNearestNeighbours
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression

X, y = make_classification(300, weights=[0.8], random_state=0)
for kind in (BalancedRandomForestClassifier, BalancedBaggingClassifier):
    print(kind(n_estimators=8, n_jobs=2, random_state=0).fit(X, y).predict(X).sum())
with tempfile.TemporaryDirectory() as folder:
    memory = joblib.Memory(folder, verbose=0)
    model = make_pipeline(EditedNearestNeighbours(n_jobs=2), LogisticRegression(), memory=memory)
    print([model.fit(X, y).score(X, y) for _ in range(2)])
