# shellcheck shell=bash
#
# What every script here starts with:
#
#     #!/usr/bin/env bash
#     set -euo pipefail
#     . "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
#
# Sourcing it moves to the root of the source tree, from whatever directory the script was called,
# and sets an ERR trap: a command that fails unexpectedly ends the script with a line that names the
# step. Standard output is left to the script's result; all these functions talk on standard error.
#
#     say MESSAGE              tell what is being done now; it is also the step the ERR trap names
#     die MESSAGE              end the script with status 1 and this message
#     need_packages PKG...     install those of these Debian packages that are missing
#     need_command CMD PKG     install PKG unless some command CMD is there already, from wherever
#     need_postgresql          install PostgreSQL 15, but no database cluster of the machine's own
#     as_root CMD...           run a command as root: directly, or through sudo
#     plain_user               print the name of the user that as_plain_user runs commands as
#     as_plain_user CMD...     run a command as an ordinary user: PostgreSQL refuses to be root
#
# Call die and need_* in the script's own shell, not inside $(...): there, die would only end the
# substitution, and the ERR trap would add a second message.

set -Eeuo pipefail

SCRIPT_NAME=${0##*/}
CURRENT_STEP="starting"

say() {
    CURRENT_STEP=$*
    printf '%s: %s\n' "$SCRIPT_NAME" "$*" >&2
}

die() {
    printf '%s: error: %s\n' "$SCRIPT_NAME" "$*" >&2
    exit 1
}

report_failed_command() {
    local status=$1 line=$2 command=$3
    # A subshell's failure is reported once, by the shell that waited for it.
    if ((BASH_SUBSHELL == 0)); then
        printf '%s: error: step "%s" failed with status %d at line %d: %s\n' \
            "$SCRIPT_NAME" "$CURRENT_STEP" "$status" "$line" "${command%%$'\n'*}" >&2
    fi
}
trap 'report_failed_command "$?" "$LINENO" "$BASH_COMMAND"' ERR

as_root() {
    if ((EUID == 0)); then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "\"$1\" needs root, and there is no sudo"
    fi
}

package_is_installed() {
    [[ $(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null) == installed ]]
}

need_packages() {
    local package missing=()
    for package in "$@"; do
        package_is_installed "$package" || missing+=("$package")
    done
    ((${#missing[@]} > 0)) || return 0

    command -v apt-get >/dev/null || die "no apt-get here; install these yourself: ${missing[*]}"
    say "installing ${missing[*]}"
    apt_get update || die "apt-get update failed"
    apt_get install "${missing[@]}" || die "apt-get could not install ${missing[*]}"
}

# What apt says interests only when it fails.
apt_get() {
    local log status=0
    log=$(mktemp)
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get -qq -y --no-install-recommends -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 "$@" \
        >"$log" 2>&1 || status=$?
    ((status == 0)) || tail -n 20 "$log" >&2
    rm -f "$log"
    return "$status"
}

need_command() {
    local command=$1 package=$2
    command -v "$command" >/dev/null || need_packages "$package"
}

# The package would create and start a database cluster on port 5432. A drop-in file switches that
# off for the time of the installation; a PostgreSQL that is installed already is left as it is.
need_postgresql() {
    local packages=(postgresql-15 postgresql-client-15)
    local drop_in=/etc/postgresql-common/createcluster.d/pgstow-no-main-cluster.conf
    if package_is_installed "${packages[0]}" && package_is_installed "${packages[1]}"; then
        return
    fi
    need_packages postgresql-common
    (
        trap 'as_root rm -f "$drop_in"' EXIT
        as_root mkdir -p "${drop_in%/*}" &&
            echo "create_main_cluster = false" | as_root tee "$drop_in" >/dev/null &&
            need_packages "${packages[@]}"
    ) || exit 1
}

plain_user() {
    if ((EUID != 0)); then
        id -un
    elif id postgres >/dev/null 2>&1; then
        echo postgres
    else
        echo nobody
    fi
}

as_plain_user() {
    if ((EUID == 0)); then
        runuser -u "$(plain_user)" -- "$@"
    else
        "$@"
    fi
}

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
