#!/usr/bin/env bash
# Makes the secrets of overlays/minimal, once: infra/k8s/secrets.sh. The folder is private, and Git ignores it.
set -euo pipefail
cd "$(dirname "$0")/overlays/minimal"
[ ! -e secrets ] || { echo "overlays/minimal/secrets is there already: its secrets are in use, and stay" >&2; exit 2; }
umask 077
trap 'rm -rf secrets.partial' EXIT
mkdir secrets.partial
secret() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
write() { local file=$1; shift; for name in "$@"; do echo "$name=$(secret)"; done > "secrets.partial/$file.env"; }
write postgres PGPASSWORD
write s3 AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY MEDLOOP_STACK_S3_KEY
write mlflow MLFLOW_TRACKING_PASSWORD MEDLOOP_STACK_SESSION_KEY
write model-reader MLFLOW_TRACKING_PASSWORD
echo MLFLOW_TRACKING_USERNAME=model-reader >> secrets.partial/model-reader.env
: > secrets.partial/backup.env  # backups lie on a volume, which asks for no key
mv secrets.partial secrets
echo "made overlays/minimal/secrets: keep a copy where the cluster's loss does not reach"
