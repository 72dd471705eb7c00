#!/bin/sh
# The first process of a container that is made of namespaces (unshare(1) has made them): mounts what a container
# engine would mount, and becomes the program.
#
# begin.sh ROOT PROGRAM ARGUMENT…
#   READ_ONLY=1        the root file system
#   TMPFS="/run …"     mode 0755; with :MODE, that one
#   VOLUMES="FROM:TO FROM:TO:ro …"
#   USER_GROUP=1234:0  numbers; without: root
#   CAPABILITIES=docker    those that Docker leaves; without: all
#   FILTER="NAME …"    of filter.py
#   ENVIRONMENT="KEY=VALUE …"
set -eu
root=$1
shift

mount --bind "$root" "$root"
mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
mount -t tmpfs -o mode=755 dev "$root/dev"
for node in null zero full random urandom; do
    : >"$root/dev/$node"
    mount --bind "/dev/$node" "$root/dev/$node"
done
ln -s /proc/self/fd "$root/dev/fd"
ln -s fd/0 "$root/dev/stdin"
ln -s fd/1 "$root/dev/stdout"
ln -s fd/2 "$root/dev/stderr"
mkdir "$root/dev/shm"
mount -t tmpfs -o mode=1777,nosuid,nodev,noexec shm "$root/dev/shm"
for entry in ${TMPFS:-}; do
    mode=${entry#*:}
    [ "$mode" != "$entry" ] || mode=755
    mkdir -p "$root/${entry%%:*}"
    mount -t tmpfs -o "mode=$mode" tmpfs "$root/${entry%%:*}"
done
for entry in ${VOLUMES:-}; do
    to=${entry#*:}
    mkdir -p "$root/${to%:ro}"
    mount --rbind "${entry%%:*}" "$root/${to%:ro}"
    case $to in *:ro) mount -o remount,bind,ro "$root/${to%:ro}" ;; esac
done
[ -z "${READ_ONLY:-}" ] || mount -o remount,bind,ro "$root"

set -- "$(command -v chroot)" ${USER_GROUP:+--userspec="$USER_GROUP" --groups=} "$root" "$@"
for filter in ${FILTER:-}; do
    set -- "$(command -v python3)" "$(dirname "$0")/filter.py" "$filter" "$@"
done
if [ "${CAPABILITIES:-}" = docker ]; then
    kept=-all
    for name in chown dac_override fowner fsetid kill setgid setuid setpcap net_bind_service net_raw sys_chroot mknod \
        audit_write setfcap; do
        kept=$kept,+$name
    done
    set -- "$(command -v setpriv)" --bounding-set="$kept" --inh-caps=-all "$@"
fi
cd /
exec env -i PATH=/bin ${ENVIRONMENT:-} "$@"
