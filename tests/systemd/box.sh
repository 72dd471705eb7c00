#!/usr/bin/env bash
# Boots a real systemd as PID 1 of namespaces of its own, on a copy of this machine that nobody else sees.
#
#   box.sh guard DIR   proves the shield, boots nothing
#   box.sh up DIR      proves the shield, boots, and lives as long as the box: TERM ends it and all that is in it.
#                      DIR/pid holds the pid of its systemd from then on
#
# DIR is an empty directory. BOX_ROOT: another tree than / (debootstrap). BOX_BIND="FROM:TO …": shown inside, read-only.
# BOX_LOG=console: a systemd that does not come up says why in DIR/console, and nothing in its journal.
# Needs root, cgroups of version 2, util-linux, systemd.
#
# The shield: without it systemd empties the machine's /tmp, and writes to the kernel that all share.
# - the root is an overlay: what is written goes to memory, and goes with the box; /tmp, /run and /dev are new and empty
# - /proc/sys, /proc/sysrq-trigger and /sys are read-only; the network has nothing but a loopback of its own
# - no capability to load modules, make devices, set the clock, reboot, or touch hardware, log and audit of the kernel
# - no unit but the few that are copied below, and no generator
# Nothing is booted before `prove` has seen all this from inside, and `unharmed` from outside.
set -euo pipefail

DROPPED=-sys_module,-sys_rawio,-mknod,-sys_time,-sys_boot,-syslog,-sys_pacct,-audit_control
# Their bits in /proc/self/status.
DROPPED_BITS=$(((1 << 16) | (1 << 17) | (1 << 27) | (1 << 25) | (1 << 22) | (1 << 34) | (1 << 20) | (1 << 30)))
UNITS="basic.target sysinit.target sockets.target timers.target paths.target slices.target multi-user.target
    network.target network-online.target local-fs.target swap.target shutdown.target umount.target final.target
    systemd-journald.service systemd-journald.socket systemd-journald-dev-log.socket"

fail() {
    echo "box: $*" >&2
    exit 1
}

# What the box tries to write to; none of it may be seen outside.
traces() { printf '%s\n' /etc/.rotad-box /usr/.rotad-box /var/.rotad-box /run/.rotad-box /tmp/.rotad-box; }

# ---- inside: PID 1 of the new namespaces ----

inside() {
    local dir=$1 new=$1/memory/root bind from to
    exec 8>&1 9<&0 </dev/null >"$dir/console" 2>&1
    mkdir "$dir/memory"
    mount -t tmpfs -o mode=755 box "$dir/memory"
    mkdir "$dir/memory/upper" "$dir/memory/work" "$new"
    mount -t overlay -o "lowerdir=${BOX_ROOT:-/},upperdir=$dir/memory/upper,workdir=$dir/memory/work" overlay "$new"
    kernel "$new"
    devices "$new" "$dir/console"
    mount -t tmpfs -o mode=755 run "$new/run"
    mount -t tmpfs -o mode=1777 tmp "$new/tmp"
    mkdir -p "$new/run/lock" "$new/run/log/journal" "$new/run/machine"
    units "$new"
    hostname rotad-box
    rm -f "$new/etc/machine-id"
    tr -d - </proc/sys/kernel/random/uuid >"$new/etc/machine-id"
    for bind in ${BOX_BIND:-}; do
        from=${bind%%:*} to=$new${bind#*:}
        if [ -d "$from" ]; then mkdir -p "$to"; else mkdir -p "${to%/*}" && touch "$to"; fi
        mount --bind "$from" "$to"
        mount -o remount,bind,ro "$to"
    done
    ip link set lo up
    cp "$0" "$new/run/box.sh"
    cd "$new"
    pivot_root . run/machine
    exec chroot . setpriv --bounding-set "$DROPPED" --inh-caps -all /bin/bash /run/box.sh boot "$dir" </dev/null
}

# /proc, /sys, cgroups.
kernel() {
    local name
    mount -t proc proc "$1/proc"
    for name in sys sysrq-trigger; do
        [ -e "$1/proc/$name" ] || continue
        mount --bind "$1/proc/$name" "$1/proc/$name"
        mount -o remount,bind,ro "$1/proc/$name"
    done
    mount -t sysfs -o ro sysfs "$1/sys"
    mount -t cgroup2 cgroup2 "$1/sys/fs/cgroup"
}

# A /dev of its own: what every program wants, and a console that is a file.
devices() {
    local name
    mount -t tmpfs -o mode=755 dev "$1/dev"
    for name in null zero full random urandom tty; do
        touch "$1/dev/$name"
        mount --bind "/dev/$name" "$1/dev/$name"
    done
    touch "$1/dev/console"
    mount --bind "$2" "$1/dev/console"
    mkdir "$1/dev/pts" "$1/dev/shm"
    mount -t devpts -o newinstance,ptmxmode=666,mode=620,gid=5 devpts "$1/dev/pts"
    mount -t tmpfs -o mode=1777 shm "$1/dev/shm"
    ln -s pts/ptmx "$1/dev/ptmx"
    ln -s /proc/self/fd "$1/dev/fd"
    ln -s fd/0 "$1/dev/stdin"
    ln -s fd/1 "$1/dev/stdout"
    ln -s fd/2 "$1/dev/stderr"
}

# A small system: the units of the list, as the distribution has them, a default.target, and nothing of this machine's.
units() {
    local lib=$1/usr/lib/systemd kept=$1/run/kept unit
    [ -d "$lib/system" ] || lib=$1/lib/systemd
    mkdir "$kept"
    for unit in $UNITS; do
        if [ -e "$lib/system/$unit" ]; then cp "$lib/system/$unit" "$kept/"; fi
    done
    for unit in "$lib/system" "$lib/system-generators" "$1/etc/systemd/system"; do
        mount -t tmpfs -o mode=755 units "$unit"
    done
    mkdir "$lib/system/sockets.target.wants"
    mv "$kept"/* "$lib/system/"
    rmdir "$kept"
    ln -s ../systemd-journald.socket ../systemd-journald-dev-log.socket "$lib/system/sockets.target.wants/"
    printf '%s\n' '[Unit]' 'Requires=multi-user.target' 'Wants=systemd-journald.service' 'After=multi-user.target' \
        'AllowIsolate=yes' >"$lib/system/default.target"
}

# Seen from inside, with the rights that systemd will have.
prove() {
    local bounding file kind options rest
    [ $$ = 1 ] || fail "not PID 1 of a namespace"
    [ ! -e "$1" ] || fail "the machine's /tmp shows through"
    [ -z "$(ls -A /tmp)" ] || fail "/tmp is not empty"
    for file in /proc/sys/kernel/panic /proc/sysrq-trigger /sys/kernel/uevent_helper; do
        [ ! -w "$file" ] || fail "$file can be written"
    done
    bounding=$((16#$(sed -n 's/^CapBnd:\t*//p' /proc/self/status)))
    [ $((bounding & DROPPED_BITS)) = 0 ] || fail "capabilities were not dropped: $bounding"
    [ "$(ls /sys/class/net)" = lo ] || fail "the machine's network shows through"
    # Whatever is of a disk may be read only, but for the file that is the console.
    while read -r _ _ _ _ file options rest; do
        kind=${rest#*- } kind=${kind%% *}
        case "$kind $file" in
            overlay\ / | tmpfs\ * | proc\ * | sysfs\ * | cgroup2\ * | devpts\ * | devtmpfs\ /dev/* | *\ /dev/console) ;;
            *) case ",$options," in *,ro,*) ;; *) fail "$file ($kind) can be written" ;; esac ;;
        esac
    done </proc/self/mountinfo
    for file in $(traces); do
        echo "written in the box" >"$file" || fail "$file cannot be written"
    done
    echo shielded >&8
}

# Once the machine has looked, too.
boot() {
    local word=
    umount -l /run/machine
    rmdir /run/machine
    prove "$1"
    read -r word <&9 || true
    [ "$word" = boot ] || exit 0
    exec 8>&- 9<&-
    traces | xargs rm /run/box.sh
    exec env -i container=rotad-box PATH=/usr/sbin:/usr/bin:/sbin:/bin \
        /lib/systemd/systemd --system "--log-target=${BOX_LOG:-journal-or-kmsg}" --show-status=no
}

# ---- outside ----

# Where cgroups of version 2 are mounted.
cgroups() { awk '$3 == "cgroup2" { print $2; exit }' /proc/self/mounts; }

# Seen from outside, after the box has written what it can.
unharmed() {
    local file
    [ -e "$1/mark" ] || fail "NOT SHIELDED: the box has emptied the machine's /tmp"
    for file in $(traces); do
        [ ! -e "$file" ] || fail "NOT SHIELDED: $file has come through"
    done
}

clear_cgroups() {
    find "$1" -depth -type d -exec rmdir {} + 2>/dev/null
    [ ! -e "$1" ]
}

start() {
    local verb=$1 dir=$2 base cgroup said='' pid
    case $dir in /tmp/*) ;; *) fail "$dir is not below /tmp" ;; esac
    base=$(cgroups)
    [ -n "$base" ] || fail "no cgroups of version 2"
    cgroup=$base/rotad-box-$$
    : >"$dir/console"
    : >"$dir/mark"
    # shellcheck disable=SC2064 # as they are now
    trap "end '$cgroup' '$dir'" EXIT
    trap 'exit 143' TERM INT
    mkdir "$cgroup"
    coproc BOX {
        echo "$BASHPID" >"$cgroup/cgroup.procs"
        exec setpriv --pdeathsig KILL unshare --fork --kill-child --pid --mount --uts --ipc --net --cgroup \
            --propagation private -- "$0" inside "$dir" 2>"$dir/console"
    }
    box=$BOX_PID
    exec 8<&"${BOX[0]}" 9>&"${BOX[1]}"
    # Its end, if it dies first.
    read -r said <&8 || true
    [ "$said" = shielded ] || { cat "$dir/console" >&2 && fail "the shield does not stand"; }
    unharmed "$dir"
    echo shielded
    if [ "$verb" = guard ]; then return; fi
    # A cgroup with processes of its own gives no controllers to those below: the one that waits goes elsewhere.
    echo "$box" >"$base/cgroup.procs"
    pid=$(tr -d ' ' <"/proc/$box/task/$box/children")
    echo boot >&9
    echo "$pid" >"$dir/pid.draft"
    mv "$dir/pid.draft" "$dir/pid"
    wait "$box" || true
}

# Its PID 1 takes all others of the namespace along; then the cgroups are empty.
end() {
    local pid=''
    trap '' TERM INT
    trap - EXIT
    pid=$(cat "/proc/${box:-none}/task/${box:-none}/children" 2>/dev/null) || true
    if [ -n "$pid" ]; then kill -KILL ${pid} 2>/dev/null || true; fi
    wait "${box:-}" 2>/dev/null || true
    # It takes them a moment to be seen as empty.
    until clear_cgroups "$1"; do sleep 0.02; done
    rm -f "$2/mark" "$2/pid"
}

case "${1:-}" in
    guard | up) start "$1" "${2:?a directory}" ;;
    inside) inside "$2" ;;
    boot) boot "$2" ;;
    *) sed -n '2,10s/^# \{0,1\}//p' "$0" && exit 2 ;;
esac
