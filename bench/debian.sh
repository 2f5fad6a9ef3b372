#!/usr/bin/env bash
# Build two real Debian trees to measure with: the same system before and
# after an upgrade.
#
#   bench/debian.sh OUTDIR
#
# OUTDIR/before   Debian bookworm as the last point release left it: a small
#                 server with kernel, compiler, Python, nginx, git, sshd.
# OUTDIR/after    a copy of it, upgraded from bookworm-updates and
#                 bookworm-security with "apt-get dist-upgrade".
#
# The list of packages of each tree goes to OUTDIR/before.packages and
# OUTDIR/after.packages.  A tree that exists already is kept, so the script can
# be run again; remove a tree to build it anew.  What the trees hold depends on
# the day they are built, because the archive moves on.
#
# Needs root, mmdebstrap, rsync and util-linux.  The mirrors are those of the
# apt configuration of this machine; MIRROR and SECURITY_MIRROR override them.
# SUITE (default bookworm) takes another release of Debian.

set -euo pipefail

if [[ $# -ne 1 || $1 == -* ]]; then
    echo "usage: bench/debian.sh OUTDIR" >&2
    exit 2
fi
if [[ $(id -u) -ne 0 ]]; then
    echo "bench/debian.sh: must run as root: it keeps owners and devices" >&2
    exit 2
fi
for tool in mmdebstrap rsync unshare chroot dpkg apt-get; do
    if ! command -v "$tool" >/dev/null; then
        echo "bench/debian.sh: $tool is missing; install it first" >&2
        exit 3
    fi
done

umask 022
export LC_ALL=C.UTF-8
suite=${SUITE:-bookworm}
arch=$(dpkg --print-architecture)
mkdir -p -- "$1"
out=$(cd -- "$1" && pwd)

say() { printf 'bench/debian.sh: %s\n' "$*" >&2; }

# uri_of RELEASE: the first address from which this machine gets RELEASE.
uri_of() {
    apt-get indextargets --format '$(RELEASE) $(REPO_URI)' 'Created-By: Packages' |
        awk -v release="$1" '$1 == release { sub(/\/$/, "", $2); print $2; exit }'
}

mirror=${MIRROR:-$(uri_of "$suite")}
security=${SECURITY_MIRROR:-$(uri_of "$suite-security")}
if [[ -z $mirror || -z $security ]]; then
    say "no mirror for $suite and $suite-security; set MIRROR and SECURITY_MIRROR"
    exit 3
fi

packages=(
    "linux-image-$arch" initramfs-tools # the kernel and the initrd built from it
    build-essential git perl python3 python3-venv python3-dev
    nginx-light openssh-server rsync curl ca-certificates
    vim locales man-db less sudo tmux bash-completion zstd xz-utils
    iputils-ping libcap2-bin acl attr e2fsprogs # ping has file capabilities
)

# forget TREE: drop apt's caches and lists.
forget() {
    rm -rf --one-file-system -- "${1:?}"/var/lib/apt/lists/* \
        "${1:?}"/var/cache/apt/*.bin "${1:?}"/var/cache/apt/archives/*.deb
}

# list_packages TREE: name and version of every installed package, sorted.
list_packages() {
    chroot "$1" dpkg-query -W -f '${binary:Package}\t${Version}\n' | sort
}

build_before() {
    local work=$out/before.partial
    rm -rf --one-file-system -- "$work"
    say "building $out/before"
    # shellcheck disable=SC2016 # mmdebstrap's own shell expands $1
    mmdebstrap --mode=root --variant=standard --architectures="$arch" \
        --aptopt='APT::Install-Recommends "false"' \
        --include="$(IFS=,; echo "${packages[*]}")" \
        --skip=output/dev \
        --customize-hook='rm -f "$1/etc/resolv.conf" "$1/etc/hostname"' \
        "$suite" "$work" "deb $mirror $suite main"
    forget "$work"
    list_packages "$work" >"$out/before.packages"
    mv -- "$work" "$out/before"
}

# Runs in the namespaces of its own mounts and processes: whatever it mounts
# and starts ends with it, and the mounts are never seen from outside.
upgrade() {
    local tree=$1 node name major minor
    mount -t proc proc "$tree/proc"
    mount -t sysfs -o ro sysfs "$tree/sys"
    mount -t tmpfs -o mode=755 tmpfs "$tree/dev"
    for node in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0; do
        IFS=: read -r name major minor <<<"$node"
        mknod -m 666 "$tree/dev/$name" c "$major" "$minor"
    done
    ln -s /proc/self/fd "$tree/dev/fd"
    mkdir "$tree/dev/shm" "$tree/dev/pts"
    mount -t tmpfs tmpfs "$tree/run"
    export DEBIAN_FRONTEND=noninteractive
    chroot "$tree" apt-get -q update
    chroot "$tree" apt-get -q -y \
        -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold \
        dist-upgrade
    chroot "$tree" apt-get clean
}

build_after() {
    local work=$out/after.partial file
    rm -rf --one-file-system -- "$work"
    say "copying $out/before"
    cp -a --reflink=auto -- "$out/before" "$work"
    cat >"$work/etc/apt/sources.list.d/upgrade.list" <<END
deb $mirror $suite-updates main
deb $security $suite-security main
END
    # For the time of the upgrade: name resolution, and no service may start.
    for file in resolv.conf hosts; do
        if [[ -e $work/etc/$file || -L $work/etc/$file ]]; then
            mv -- "$work/etc/$file" "$work/etc/$file.kept"
        fi
        cp -L -- "/etc/$file" "$work/etc/$file"
    done
    printf '#!/bin/sh\nexit 101\n' >"$work/usr/sbin/policy-rc.d"
    chmod 755 "$work/usr/sbin/policy-rc.d"

    say "upgrading $out/after"
    export -f upgrade
    unshare --mount --pid --fork --kill-child --propagation private \
        bash -euo pipefail -c 'upgrade "$1"' upgrade "$work"

    for file in resolv.conf hosts; do
        rm -f -- "$work/etc/$file"
        if [[ -e $work/etc/$file.kept || -L $work/etc/$file.kept ]]; then
            mv -- "$work/etc/$file.kept" "$work/etc/$file"
        fi
    done
    rm -f -- "$work/usr/sbin/policy-rc.d"
    forget "$work"
    list_packages "$work" >"$out/after.packages"
    mv -- "$work" "$out/after"
}

# clean TREE: nothing mounted below it, and /proc, /sys and /dev empty.
clean() {
    local dir
    if awk -v tree="$1/" 'index($5, tree) == 1 { found = 1 } END { exit !found }' \
        /proc/self/mountinfo; then
        say "something is still mounted below $1"
        exit 1
    fi
    for dir in proc sys dev; do
        find "$1/$dir" -xdev -mindepth 1 -delete
    done
}

# count TREE: entries by type and bytes of file content (a hard link once).
count() {
    find "$1" -xdev -printf '%y %i %s\n' | awk -v name="${1##*/}" '
        { kind[$1]++ }
        $1 == "f" && !seen[$2]++ { files++; bytes += $3 }
        END {
            printf "%s: %d entries, %d files (%d inodes), %d directories, %d symlinks, %d other, %d bytes\n",
                name, NR, kind["f"], files, kind["d"], kind["l"],
                NR - kind["f"] - kind["d"] - kind["l"], bytes
        }'
}

[[ -d $out/before ]] || build_before
clean "$out/before"
[[ -d $out/after ]] || build_after
clean "$out/after"

count "$out/before"
count "$out/after"
join -t $'\t' "$out/before.packages" "$out/after.packages" |
    awk -F'\t' '$2 != $3 { n++ } END { print "packages upgraded: " n + 0 }'
echo "packages added: $(join -v 2 -t $'\t' "$out/before.packages" "$out/after.packages" | wc -l)"
echo "packages removed: $(join -v 1 -t $'\t' "$out/before.packages" "$out/after.packages" | wc -l)"
for tree in before after; do
    echo "kernels $tree: $(cd "$out/$tree/boot" && echo vmlinuz-*)"
done
rsync -aHAXn --delete --stats "$out/after/" "$out/before/" |
    grep -E '^(Number of|Total file size|Total transferred)'
