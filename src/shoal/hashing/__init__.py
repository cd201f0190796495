"""hash(obj)"""
from typing import Any
from ._joblib import joblib_digest
def hash(obj: Any, hash_name: str = "md5", coerce_mmap: bool = False) -> str:
    return joblib_digest(obj, hash_name, coerce_mmap)
