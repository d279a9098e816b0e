"""The data that `ingest` reads, as a local folder: as it lies here, or fetched from S3 or a DVC project."""
