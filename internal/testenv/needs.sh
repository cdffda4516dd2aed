#!/bin/sh
# Sees to what the tests need besides Go. Root on Debian and Ubuntu installs it;
# elsewhere on these the line to run is printed, and that is an error. On other
# systems the list is printed: tests skip what is missing.
set -eu
missing=
need() { # need PACKAGES TEST...
	packages=$1
	shift
	"$@" >/dev/null 2>&1 || missing="$missing $packages"
}
postgres() { [ -n "${DATABASE_URL:-}" ] || command -v initdb || ls /usr/lib/postgresql/*/bin/initdb; }
# /usr/sbin is not in an ordinary user's PATH on Debian.
docker() { [ -n "${DOCKER_HOST:-}" ] || [ -S /var/run/docker.sock ] || command -v dockerd || [ -x /usr/sbin/dockerd ]; }
runc_there() { command -v runc || [ -x /usr/sbin/runc ]; } # Docker's own packages have one, and conflict with Debian's
gvisor() { [ -n "${DOCKER_HOST:-}" ] || command -v runsc; }

need postgresql postgres
need docker.io docker
need runsc gvisor
need podman command -v podman
need runc runc_there
need bubblewrap command -v "${STEPWARD_BWRAP:-bwrap}"
need "gcc libc6-dev" command -v "${CC:-gcc}"
need protobuf-compiler command -v "${PROTOC:-protoc}"
need pgbouncer test -x "${STEPWARD_PGBOUNCER:-/usr/sbin/pgbouncer}"
need xz-utils command -v xz
need curl command -v curl
need git command -v git
need gh command -v gh

[ -n "$missing" ] || exit 0
if ! command -v apt-get >/dev/null; then
	echo "missing for some tests (names of Debian's packages):$missing" >&2
	exit 0
fi
if [ "$(id -u)" != 0 ]; then
	echo "first run: sudo apt-get install -y --no-install-recommends$missing" >&2
	exit 1
fi
echo "installing$missing" >&2
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086 # a list of words
{ apt-get update && apt-get install -y --no-install-recommends $missing; } >&2
