"""Backups of the registry: MLflow's two databases, and the bucket with its artifacts, leases and journals.

The databases come first, then the objects: MLflow writes an object before the row that names it and only ever adds
objects, so whatever a dump names can still be copied; what was added since is copied too and harms nobody. (`mlflow gc`
deletes objects: not while a backup is made.) Each file lies under its digest, once for all backups; a backup is the one
JSON file that lists them. It is written last, so one that was broken off is none.
"""
