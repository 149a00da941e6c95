# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Sourced by the other scripts, in the checkout: runs commands as its owner, or as root without
# leaving root's files in it.

# Prints the comment at the head of the calling script and exits, if its first argument asks for help.
help() {
	case ${1-} in
	-h | --help)
		sed -n '3,${/^#/!q; /^# shellcheck/!{s/^# \{0,1\}//; p}}' "$0"
		exit 0
		;;
	esac
}

# Ends the calling script for arguments that it does not have.
usage() {
	echo "usage: see $0 --help" >&2
	exit 2
}

# Runs a command as the checkout's owner, also under sudo, so that the owner can remove what it makes.
as_owner() {
	local owner group home
	read -r owner group < <(stat -c '%u %g' .)
	if ((EUID != 0 || owner == 0)); then
		"$@"
		return
	fi
	local -a become=(setpriv --reuid "$owner" --regid "$group" --clear-groups)
	home=$(getent passwd "$owner" | cut -d: -f6) || true
	if "${become[@]}" test -w .; then
		HOME=${home:-/nonexistent} "${become[@]}" "$@"
	else # the owner cannot reach it: another machine's, mounted here
		"$@"
	fi
}

# Runs a command of the checkout as root, with separate caches for Python, pytest and Hypothesis.
exec_as_root() {
	local -a become=()
	local cache
	((EUID == 0)) || become=(sudo)
	if ((EUID != 0)) || [[ $(stat -c %u .) != 0 ]]; then
		cache=$(getent passwd 0 | cut -d: -f6)/.cache/podtally
		become+=(env "PYTHONPYCACHEPREFIX=$cache/python" "HYPOTHESIS_STORAGE_DIRECTORY=$cache/hypothesis"
			"PYTEST_ADDOPTS=${PYTEST_ADDOPTS-} -o cache_dir=$cache/pytest")
	fi
	exec "${become[@]}" "$@"
}
