#!/bin/sh
# What the base image needs beyond its packages. Runs as root inside the new
# root file system, from the Dockerfile and from build.sh alike.
set -eu

# The account that commands run as. 1000 is what most hosts give their first
# user, so that files copied out look familiar.
useradd --create-home --uid 1000 --user-group --shell /bin/bash dev
install -d -o dev -g dev -m 0755 /workspace

# A workspace is the user's own machine: pip may install into it.
rm -f /usr/lib/python3*/EXTERNALLY-MANAGED

# Repositories are unpacked by root's agent and used by `dev`, and by root when
# a command says `--user root`.
git config --system safe.directory '*'
git config --system init.defaultBranch main
git config --system advice.detachedHead false

# The machine id must differ between workspaces; it is made at first use.
: > /etc/machine-id

apt-get clean
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/debconf/*-old \
  /var/log/apt /var/log/dpkg.log /var/log/bootstrap.log /var/log/alternatives.log \
  /usr/share/doc/* /usr/share/man/* /usr/share/info/* /tmp/* /root/.npm
find / -xdev -name __pycache__ -path '/usr/lib/python3*' -prune -exec rm -rf {} +
