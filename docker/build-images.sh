#!/usr/bin/env bash
# Build marketprism/{kafka,redis,app}:local.
# Usage: docker/build-images.sh; BASE=image replaces every Dockerfile's public base (see build-base.sh).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
docker info >/dev/null 2>&1 || { echo "docker: no daemon answers; start one, or use local processes: marketprism up" >&2; exit 1; }
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
base=(${BASE:+--build-arg "BASE=$BASE"})

build() { # name, context
  echo "building marketprism/$1:local"
  docker build --quiet "${base[@]}" --file "$1/Dockerfile" --tag "marketprism/$1:local" "$2" >/dev/null
}

mkdir -p "$scratch"/{kafka,redis,app}
jars=$(marketprism up --fetch-only --json | python -c 'import json, sys; print(json.load(sys.stdin)["jars"])')
cp -r "$jars" "$scratch/kafka/jars"
cp kafka/log4j2.properties kafka/run "$scratch/kafka/"
build kafka "$scratch/kafka"

build redis "$scratch/redis"

cp app/requirements.lock "$scratch/app/"
python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir "$scratch/app/dist" ..
build app "$scratch/app"
