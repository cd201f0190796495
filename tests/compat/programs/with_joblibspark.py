"""joblibspark, with Spark on this machine."""

import os
import sys

import joblib
from joblib import Parallel, delayed
from joblibspark import register_spark
from pyspark.sql import SparkSession
from sklearn.datasets import load_iris
from sklearn.model_selection import cross_val_score
from sklearn.svm import SVC

os.environ.update(SPARK_LOCAL_IP="127.0.0.1", PYSPARK_PYTHON=sys.executable)
settings = {"spark.driver.bindAddress": "127.0.0.1", "spark.driver.host": "127.0.0.1", "spark.ui.enabled": "false"}
spark = SparkSession.builder.master("local[2]").config(map=settings).getOrCreate()
register_spark()
with joblib.parallel_backend("spark", n_jobs=2):
    print(type(joblib.parallel.get_active_backend()[0]).__name__)
    print(Parallel()(delayed(pow)(i, 2) for i in range(12)))
    print(cross_val_score(SVC(), *load_iris(return_X_y=True), cv=4).round(12).tolist())
spark.stop()
