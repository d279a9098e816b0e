"""PostgreSQL, an S3 server and an MLflow server in one folder of this machine, for loopback alone.

No container engine is needed: all three come from the Python package index, as the extra `stack`.
"""
