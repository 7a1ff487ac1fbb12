#!/usr/bin/env bash
# Two images in the Docker daemon that answers here, made of this machine's own packages and of no
# registry's: for the tests and for trying things by hand.
#
#     infra/images.sh
#
# rollout-test-busybox    FROM scratch: busybox-static and nothing else
# rollout-test-debian     debootstrap: a small Debian with python3 and git
#
# The Debian takes a minute or two, so its tar is kept under /var/cache/rollout, or where root is not
# at work under $XDG_CACHE_HOME, and made again only when the release or the packages change.
set -euo pipefail

BUSYBOX=rollout-test-busybox
DEBIAN=rollout-test-debian
VERSION=1  # of what is done beside installing; another number makes both anew
PACKAGES=python3,git,perl-base,ca-certificates,procps,patch

say() { echo "images: $*"; }
give_up() { echo "images: $*" >&2; exit 1; }

there() { docker image inspect --format '{{index .Config.Labels "rollout.test"}}' "$1" 2>/dev/null | grep -qx "$2"; }

cache_folder() {
	local folder=/var/cache/rollout
	[ "$(id -u)" = 0 ] || folder=${XDG_CACHE_HOME:-$HOME/.cache}/rollout
	mkdir -p "$folder"
	echo "$folder"
}

need() {  # program, package
	command -v "$1" >/dev/null && return
	[ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || give_up "needs $1: apt-get install $2"
	say "installing $2"
	local get="apt-get -y -qq -o DPkg::Lock::Timeout=120 --no-install-recommends install $2"
	export DEBIAN_FRONTEND=noninteractive
	{ $get || { apt-get -qq update && $get; }; } >/dev/null
}

make_busybox() {
	need busybox busybox-static
	local program digest
	program=$(command -v busybox)
	digest=$(echo "$VERSION" | cat - "$program" | sha256sum | cut -c1-16)
	there $BUSYBOX "$digest" && return
	local root=$work/busybox name
	mkdir -p "$root"/{bin,etc,root,usr/bin,tmp,var,srv,home/user}
	chmod 1777 "$root/tmp"
	cp "$program" "$root/bin/busybox"
	for name in $("$program" --list | grep -vx busybox); do ln -sf /bin/busybox "$root/bin/$name"; done
	users "$root" /bin/sh
	tar -C "$root" -c . | docker import --change "LABEL rollout.test=$digest" - $BUSYBOX >/dev/null
	say "$BUSYBOX is made"
}

users() {  # root, shell
	grep -q ^root: "$1/etc/passwd" 2>/dev/null || {
		printf 'root:x:0:0:root:/root:%s\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n' "$2" >"$1/etc/passwd"
		printf 'root:x:0:\nnogroup:x:65534:\n' >"$1/etc/group"
	}
	echo "user:x:1000:1000:user:/home/user:$2" >>"$1/etc/passwd"
	echo "user:x:1000:" >>"$1/etc/group"
	mkdir -p "$1/home/user"
	chown 1000:1000 "$1/home/user"
}

# The release this machine runs, from where it gets its own packages.
make_debian() {
	local suite mirror tar digest
	suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
	digest=$(echo "$VERSION $suite $PACKAGES" | sha256sum | cut -c1-16)
	there $DEBIAN "$digest" && return
	tar=$(cache_folder)/$DEBIAN-$digest.tar
	if [ ! -e "$tar" ]; then
		[ "$(id -u)" = 0 ] || give_up "$DEBIAN is made by debootstrap, which needs root"
		need debootstrap debootstrap
		mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' "Suite: $suite" 2>/dev/null | head -n 1)
		[ -n "$mirror" ] || mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' "Release: $suite" | head -n 1)
		[ -n "$mirror" ] || give_up "apt's sources name no mirror for the release ${suite:-of this machine}"
		say "making $DEBIAN from $mirror $suite"
		proxies
		debootstrap --variant=minbase --include="$PACKAGES" "$suite" "$work/debian" "$mirror" >"$work/log" 2>&1 ||
			{ tail -n 5 "$work/log" "$work/debian/debootstrap/debootstrap.log" >&2 || true; give_up "debootstrap failed"; }
		rm -rf "$work"/debian/var/cache/apt/* "$work"/debian/var/lib/apt/lists/* "$work"/debian/usr/share/{doc,man,locale}/*
		users "$work/debian" /bin/bash
		tar -C "$work/debian" --one-file-system -cf "$work/tar" .
		mv "$work/tar" "$tar.$$" && mv "$tar.$$" "$tar"
	fi
	docker import --change "LABEL rollout.test=$digest" "$tar" $DEBIAN >/dev/null
	say "$DEBIAN is made"
}

proxies() {
	local found
	found=$(apt-config shell p Acquire::http::Proxy)
	eval "$found"
	[ -z "${p:-}" ] || export http_proxy=$p
}

timeout 10 docker version >/dev/null 2>&1 || give_up "no Docker daemon answers: make docker"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
make_busybox
make_debian
say "$BUSYBOX and $DEBIAN are there"
