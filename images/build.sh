#!/bin/bash
# Builds the images that workspaces start from, at most once for the same inputs.
#
#   images/build.sh [base]
#
# The tag `compy/base:<hash of the inputs>` says what an image was made from;
# `compy/base:latest` names the newest. With a registry in reach `docker build`
# makes it; without one mmdebstrap does, from this machine's own Debian package
# sources (as root, or in a user namespace).
#
# COMPY_IMAGE_SOURCE=registry|packages takes the choice away from the script.
# COMPY_AGENT=FILE names the agent's binary, which must answer in a new image.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
suite=bookworm

say() { printf 'images: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

# Whether `docker build` can have its first layer. Engines wait long for a
# registry that does not answer; a build from packages takes a minute or two.
base_image_at_hand() {
  docker image inspect "debian:$suite-slim" >/dev/null 2>&1 ||
    timeout 20 docker pull --quiet "debian:$suite-slim" >/dev/null 2>&1
}

debian_sources() {
  local file
  for file in /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list; do
    if [ -s "$file" ] && grep -q "$suite" "$file"; then
      cat "$file"
      return
    fi
  done
  fail "no Debian $suite package source on this machine: add one to /etc/apt, or build where a registry answers"
}

build_from_packages() {
  local directory=$1 tag=$2 packages
  command -v mmdebstrap >/dev/null ||
    fail "no registry answers and mmdebstrap is missing: apt-get install mmdebstrap"
  packages=$(grep -v '^#' "$directory/packages.txt" | paste -sd,)
  debian_sources | mmdebstrap \
    --quiet --variant=minbase --include="$packages" \
    --aptopt='Apt::Install-Recommends "false"' \
    --aptopt='Acquire::Languages "none"' \
    --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --customize-hook="copy-in $directory/setup.sh /root" \
    --customize-hook='chroot "$1" sh /root/setup.sh' \
    --customize-hook='rm "$1/root/setup.sh" "$1/etc/resolv.conf" "$1/etc/hostname"' \
    "$suite" - - |
    docker import \
      --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
      --change 'ENV LANG=C.UTF-8' \
      --change 'USER dev' \
      --change 'WORKDIR /workspace' \
      --change 'CMD ["bash"]' \
      - "$tag" >/dev/null
}

# The image does what the rest of the project expects of it.
check() {
  docker run --rm --network none "$1" sh -euc '
    test "$(id -un)" = dev
    test -w /workspace
    git --version; python --version; python -m pytest --version
    python -m venv --without-pip /tmp/venv; node --version; npm --version
    cc --version | head -n 1; rg --version | head -n 1; curl --version | head -n 1
  ' >&2
  if [ -n "${COMPY_AGENT:-}" ]; then
    docker run --rm --network none --user 0 --volume "$COMPY_AGENT:/compy-agent:ro" \
      --volume "$here/agent-answers.py:/agent-answers.py:ro" "$1" python /agent-answers.py >&2
  else
    say "COMPY_AGENT names no agent: whether it answers in $1 was not checked"
  fi
}

build() {
  local name=$1 directory=$here/$1 hash tag
  [ -f "$directory/Dockerfile" ] || fail "there is no image $name in $here"
  hash=$(cd "$directory" && find . -type f | LC_ALL=C sort | xargs sha256sum |
    cat - "$here/build.sh" | sha256sum | cut -c1-16)
  tag=compy/$name:$hash
  if docker image inspect "$tag" >/dev/null 2>&1; then
    say "$tag is there"
  else
    local source=${COMPY_IMAGE_SOURCE:-}
    if [ -z "$source" ]; then
      if base_image_at_hand; then source=registry; else source=packages; fi
    fi
    say "making $tag from $source"
    case $source in
      registry) docker build --tag "$tag.new" "$directory" >&2 ;;
      packages) build_from_packages "$directory" "$tag.new" ;;
      *) fail "COMPY_IMAGE_SOURCE is \`$source\`: give registry or packages" ;;
    esac
    # The lasting tag is given last: an image that is there has passed.
    check "$tag.new" || fail "the new image $tag.new does not pass its check"
    docker tag "$tag.new" "$tag"
    docker rmi "$tag.new" >/dev/null
  fi
  docker tag "$tag" "compy/$name:latest"
}

docker version >/dev/null 2>&1 ||
  fail "the container engine does not answer: start it, or set DOCKER_HOST"
if [ $# -eq 0 ]; then set -- base; fi
for image in "$@"; do build "$image"; done
