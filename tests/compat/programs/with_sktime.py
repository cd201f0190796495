"""sktime, on three backends."""

from sktime.datasets import load_airline
from sktime.forecasting.model_evaluation import evaluate
from sktime.forecasting.naive import NaiveForecaster
from sktime.split import ExpandingWindowSplitter

y = load_airline()
windows = ExpandingWindowSplitter(fh=[1, 2, 3], initial_window=72, step_length=12)
for backend in ("loky", "threading", "multiprocessing"):
    shown = evaluate(NaiveForecaster(sp=12), windows, y, backend=backend, backend_params={"n_jobs": 2})
    print(shown.iloc[:, 0].round(10).tolist())
