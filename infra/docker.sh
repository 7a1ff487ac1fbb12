#!/usr/bin/env bash
# A Docker daemon for engine=docker and benchmarks/engine.py, on a machine that has none.
#
#     infra/docker.sh start    nothing, where a daemon answers; else installs and starts one
#     infra/docker.sh stop     ends the daemon that `start` started, and no other
#
# Images and containers stay in the daemon's usual folder.
set -euo pipefail

STATE=/run/rollout-docker  # root's alone, and gone at the next boot
PID_FILE=$STATE/dockerd.pid
LOG=$STATE/dockerd.log
ANSWER_WITHIN_S=${ANSWER_WITHIN_S:-60}
END_WITHIN_S=60

say() { echo "docker: $*"; }
give_up() { echo "docker: $*" >&2; exit 1; }

answers() { version=$(timeout 5 docker version --format '{{.Server.Version}}' 2>/dev/null); }

# The process that `start` left, if it still is one: its number may have been given away since.
ours() {
	pid=$(cat "$PID_FILE" 2>/dev/null) && [ -n "$pid" ] &&
		[ "$(cat "/proc/$pid/comm" 2>/dev/null)" = dockerd ] &&
		tr '\0' ' ' <"/proc/$pid/cmdline" | grep -qF -- "--pidfile $PID_FILE"
}

start() {
	if answers; then
		say "version $version answers already; nothing to do"
		return
	fi
	[ -z "${DOCKER_HOST:-}" ] || give_up "nothing answers at DOCKER_HOST=$DOCKER_HOST; unset it or start that one"
	[ "$(id -u)" = 0 ] || give_up "no daemon answers, and only root can start one: sudo make docker"
	if ! command -v dockerd >/dev/null || ! command -v docker >/dev/null; then
		install
	fi
	if [ -d /run/systemd/system ]; then
		start_service
	else
		start_daemon
	fi
}

install() {
	command -v apt-get >/dev/null ||
		give_up "no daemon answers, and there is no apt-get: install Docker by hand"
	say "installing Debian's docker.io"
	mkdir -p -m 700 "$STATE"
	# One run level without services, or the package's own script might start a daemon too.
	[ -d /run/systemd/system ] || export RUNLEVEL=1
	local get="apt-get -y -q -o DPkg::Lock::Timeout=120 --no-install-recommends install docker.io"
	export DEBIAN_FRONTEND=noninteractive
	$get >"$STATE/apt.log" 2>&1 || { apt-get -q update && $get; } >>"$STATE/apt.log" 2>&1 ||
		{ tail -n 5 "$STATE/apt.log" >&2; give_up "apt-get could not install docker.io; all of it: $STATE/apt.log"; }
	hash -r
}

start_service() {
	answers || systemctl start docker || give_up "systemctl could not start it: journalctl -u docker"
	await_answer
	mkdir -p -m 700 "$STATE"
	touch "$STATE/service"
	say "version $version answers; its service was started, and 'make docker-stop' stops it"
}

start_daemon() {
	mkdir -p -m 700 "$STATE"
	local options=() network="with Docker's usual network"
	if ! iptables -w 5 -t nat -nL >/dev/null 2>&1; then
		# Containers then have --network none or host; the engine's never have another.
		options=(--iptables=false --ip6tables=false --ip-forward=false --bridge=none)
		network="without a bridge, for iptables cannot be used here"
	elif [ ! -e /sys/class/net/docker0 ]; then
		iptables -w 5 -S FORWARD | awk '/^-P/ {print $3}' >"$STATE/forward-policy"
		cp /proc/sys/net/ipv4/ip_forward "$STATE/ip-forward"
	fi
	setsid nohup dockerd --pidfile "$PID_FILE" "${options[@]}" >"$LOG" 2>&1 </dev/null &
	daemon=$!
	await_answer
	say "version $version answers, $network; log: $LOG; 'make docker-stop' ends it"
}

await_answer() {
	local end=$((SECONDS + ANSWER_WITHIN_S))
	until answers; do
		if [ -n "${daemon:-}" ] && ! kill -0 "$daemon" 2>/dev/null; then
			rm -f "$PID_FILE"
			tail -n 5 "$LOG" >&2
			give_up "dockerd ended; all it said: $LOG"
		fi
		if ((SECONDS >= end)); then
			[ -z "${daemon:-}" ] || { kill "$daemon"; tail -n 5 "$LOG" >&2; }
			give_up "no answer within $ANSWER_WITHIN_S s${daemon:+; all it said: $LOG}"
		fi
		sleep 0.3
	done
}

stop() {
	if [ -e "$STATE/service" ]; then
		systemctl stop docker.socket docker
		say "its service was stopped"
	elif ours; then
		end_daemon
	elif answers; then
		say "version $version answers, but 'make docker' did not start it; left alone"
		return
	else
		say "none runs that 'make docker' started"
	fi
	[ ! -e "$STATE/ip-forward" ] || restore_network
	rm -rf "$STATE"
}

# Containers end with it, and so does the containerd it started.
end_daemon() {
	kill "$pid"
	local end=$((SECONDS + END_WITHIN_S))
	while kill -0 "$pid" 2>/dev/null; do
		if ((SECONDS >= end)); then
			give_up "process $pid did not end within $END_WITHIN_S s; all it said: $LOG"
		fi
		sleep 0.2
	done
	rmdir /sys/fs/cgroup/docker /sys/fs/cgroup/*/docker 2>/dev/null || true
	say "ended"
}

# dockerd leaves its bridge, its chains, a closed FORWARD chain and an open ip_forward behind.
restore_network() {
	local table
	for table in filter nat; do
		iptables-save -t $table | grep -vi docker |
			sed "s/^:FORWARD DROP/:FORWARD $(cat "$STATE/forward-policy")/" | iptables-restore -w 5
	done
	ip link delete docker0 2>/dev/null || true
	cat "$STATE/ip-forward" >/proc/sys/net/ipv4/ip_forward
}

case "${1:-}" in
start) start ;;
stop) stop ;;
*) give_up "say start or stop" ;;
esac
