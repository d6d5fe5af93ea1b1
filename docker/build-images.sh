#!/usr/bin/env bash
# Builds every image, starts the serving ones on a bundle, waits until healthy, calls each, stops them: `make images`.
# Uses Docker where an engine answers, otherwise buildah, which needs root and no engine
# (Debian: apt-get install buildah debootstrap).
#
#   BUNDLE_ROOT   published bundles for the trial   (default: one of the demo set with every channel, below data/images)
#   BASE          base image                        (default python:3.11-slim; with buildah one made by debootstrap)
#   TORCH_INDEX   index with the CPU build of torch (default: PyTorch's where it answers)
#   TARGETS       images to build                   (default: all)
set -euo pipefail
cd "$(dirname "$0")/.."

BUNDLE_ROOT=${BUNDLE_ROOT:-}
PYTHON=${PYTHON:-.venv/bin/python}
CHANNELS=$("$PYTHON" -c "from recsys.channels import CHANNELS; print(*CHANNELS, sep=',')")
TARGETS=${TARGETS:-recall-${CHANNELS//,/ recall-} rank gateway offline}
SUITE=${SUITE:-bookworm}
DEBIAN_BASE=localhost/recsys-base:$SUITE
VERSION=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' recsys/__init__.py)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

choose_engine() {
  if docker info >"$scratch/docker.log" 2>&1; then echo docker
  elif command -v buildah >"$scratch/which.log"; then echo buildah
  else
    echo "no Docker engine answers and buildah is not installed; on Debian: apt-get install buildah debootstrap" >&2
    exit 1
  fi
}

# A base image without a registry: Debian with its own Python, made once and kept by buildah.
make_debian_base() {
  buildah inspect --type image "$DEBIAN_BASE" >"$scratch/inspect.log" 2>&1 && return
  echo "making $DEBIAN_BASE with debootstrap"
  debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates "$SUITE" "$scratch/root" \
    >"$scratch/debootstrap.log" || { tail -n 20 "$scratch/debootstrap.log" >&2; exit 1; }
  rm -rf "$scratch"/root/var/cache/apt/archives/*.deb "$scratch"/root/var/lib/apt/lists/*
  local container
  container=$(buildah from scratch)
  buildah add --quiet "$container" "$scratch/root" / >"$scratch/add.log"
  buildah commit --quiet --rm "$container" "$DEBIAN_BASE" >"$scratch/commit.log"
  rm -rf "$scratch/root"
}

# The builds install packages the way this machine does: its pip settings become a build secret (never part of an image),
# and each local file or folder that they name is mounted at the same place.
write_pip_settings() {
  "$PYTHON" -m pip config list | "$PYTHON" docker/pip_settings.py "$scratch/pip.conf" "$scratch/mounts"
}

build() {
  local target=$1 image=$2
  local arguments=(--file docker/Dockerfile --target "$target" --tag "$image"
    --secret "id=pip.conf,src=$scratch/pip.conf" --build-arg "TORCH_INDEX=$TORCH_INDEX"
    --label "org.opencontainers.image.version=$VERSION")
  [[ -z ${BASE:-} ]] || arguments+=(--build-arg "BASE=$BASE")
  printf 'building %s with %s' "$target" "$ENGINE"
  local started=$SECONDS
  "build_with_$ENGINE" "${arguments[@]}" >"$scratch/build.log" 2>&1 || { echo; tail -n 60 "$scratch/build.log" >&2; exit 1; }
  echo ": $((SECONDS - started)) s"
}

build_with_docker() { docker build "$@" .; }

build_with_buildah() {
  local arguments=("$@") path stage
  while read -r path; do arguments+=(--volume "$path:$path:ro"); done <"$scratch/mounts"
  for stage in "${FINISHED_STAGES[@]}"; do
    arguments+=(--build-context "$stage=container-image://localhost/recsys-$stage:$VERSION")
  done
  buildah build --isolation chroot --format docker --layers "${arguments[@]}" --build-arg "BUILD_PACKAGES=g++ python3-dev" .
}

# buildah 1.28 (Debian 12) mounts a stage that came wholly from its cache as an empty folder, but not a named image.
build_mounted_stages() {
  local stage
  for stage in serving-wheels project $([[ " $TARGETS " != *" offline "* ]] || echo offline-wheels); do
    build "$stage" "localhost/recsys-$stage:$VERSION"
    FINISHED_STAGES+=("$stage")
  done
}

choose_torch_index() {
  local index=https://download.pytorch.org/whl/cpu
  curl --silent --fail --max-time 4 --output "$scratch/torch.log" "$index/torch/" && echo "$index" || true
}

ENGINE=$(choose_engine)
TORCH_INDEX=${TORCH_INDEX-$(choose_torch_index)}
FINISHED_STAGES=()
write_pip_settings
if [[ $ENGINE == buildah ]]; then
  [[ -n ${BASE:-} ]] || { make_debian_base; BASE=$DEBIAN_BASE; }
  build_mounted_stages
fi
for target in $TARGETS; do build "$target" "localhost/recsys-$target:$VERSION"; done
if [[ -z $BUNDLE_ROOT ]]; then # what did not change since the last time is not made again
  "$PYTHON" -m offline run --dataset demo --root data/images --serving.channels "$CHANNELS"
  BUNDLE_ROOT=data/images/demo/bundles/production
fi
read -ra targets <<<"$TARGETS"
"$PYTHON" docker/try_images.py --engine "$ENGINE" --version "$VERSION" --bundle-root "$BUNDLE_ROOT" "${targets[@]}"
