/* The loop of the init: accept, reap, deadlines, kill all. */
#define _GNU_SOURCE
#include "init.h"
#include "box.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#define LISTEN_FD 3
#define READY_FD 4
#define MAX_CONNS 1024
#define EVENTS_A_ROUND 64
/* Less than the host adds to a process's own timeout, see GRACE_S in link.py. */
#define REAP_PATIENCE_MS 1000

struct box box;

int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

/* ---- descriptors in the epoll */

void watch_set(struct watch *watch, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.ptr = watch };
	int how = EPOLL_CTL_MOD;

	if (watch->fd < 0 || events == watch->events)
		return;
	/* A watch without wishes leaves the epoll: HUP would be told for ever otherwise. */
	if (!events)
		how = EPOLL_CTL_DEL;
	else if (!watch->events)
		how = EPOLL_CTL_ADD;
	epoll_ctl(box.epoll, how, watch->fd, &event);
	watch->events = events;
}

void watch_close(struct watch *watch)
{
	if (watch->fd < 0)
		return;
	watch_set(watch, 0);
	close(watch->fd);
	watch->fd = -1;
}

/* ---- connections */

static bool from_inside(int fd)
{
	struct ucred peer;
	socklen_t size = sizeof(peer);

	/* The host has no number in our pid namespace; whoever has one lives in the sandbox. */
	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) ||
	       (peer.pid != 0 && !init_weak("pid"));
}

static void accept_one(struct watch *watch, uint32_t events)
{
	int fd = accept4(watch->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	(void)events;
	if (fd < 0) {
		if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)
			listener_rest(true);
		return;
	}
	if (from_inside(fd)) {
		close(fd);
		return;
	}
	conn_open(fd);
	if (box.live >= MAX_CONNS)
		listener_rest(true);
}

/* While it rests, callers wait in the backlog; it wakes when a connection has gone. */
void listener_rest(bool rest)
{
	/* With nothing live nothing would wake it, so then it never rests. */
	watch_set(&box.listener, rest && box.live ? 0 : EPOLLIN);
}

static void free_closed(void)
{
	struct conn **link = &box.conns;

	while (*link) {
		struct conn *conn = *link;

		if (conn->state != CONN_CLOSED) {
			link = &conn->next;
			continue;
		}
		*link = conn->next;
		conn_free(conn);
	}
}

/* ---- the end of processes */

static void process_ended(pid_t pid, int status)
{
	for (struct conn *conn = box.conns; conn; conn = conn->next) {
		if (conn->pid != pid)
			continue;
		conn->pid = 0;
		if (conn->state == CONN_PROC)
			proc_reaped(conn, status);
		else
			conn_close(conn);
		return;
	}
}

static void kill_all_done(void)
{
	box.killing = false;
	for (struct conn *conn = box.conns; conn; conn = conn->next) {
		if (conn->state == CONN_KILLING) {
			conn_send(conn, OUT_OK, NULL, 0);
			conn_finish(conn);
		}
	}
	for (struct conn *conn = box.conns; conn; conn = conn->next) {
		if (conn->state == CONN_HELD)
			dispatch(conn);
	}
}

static void reap(struct watch *watch, uint32_t events)
{
	struct signalfd_siginfo told;
	int status;
	pid_t pid;

	(void)events;
	/* Only emptied: one SIGCHLD may stand for many ends. */
	while (watch && read(watch->fd, &told, sizeof(told)) > 0)
		;
	while ((pid = (pid_t)RETRY(waitpid(-1, &status, WNOHANG))) > 0)
		process_ended(pid, status);
	if (pid < 0 && box.killing)
		kill_all_done();
}

/* As PID 1, -1 is everything in the sandbox but init. It is over when no child is left. */
void kill_all_start(struct conn *conn)
{
	conn->state = CONN_KILLING;
	box.killing = true;
	for (struct conn *other = box.conns; other; other = other->next) {
		if (other->state == CONN_PROC && !other->proc.exited)
			other->proc.killed = true;
	}
	kill(-1, SIGKILL);
	reap(NULL, 0);
}

static int pass_deadlines(void)
{
	int64_t now = now_ms(), next = INT64_MAX;

	for (struct conn *conn = box.conns; conn; conn = conn->next) {
		struct proc *proc = &conn->proc;

		if (conn->state != CONN_PROC || !proc->deadline_ms)
			continue;
		if (proc->deadline_ms <= now && proc->timed_out) {
			/* Killed, and still not ours to reap: somebody traces it and lets it lie. */
			conn->pid = 0;
			proc_reaped(conn, SIGKILL);
			continue;
		}
		if (proc->deadline_ms <= now) {
			proc->timed_out = true;
			proc->deadline_ms = now + REAP_PATIENCE_MS;
			proc_kill(conn);
		}
		if (proc->deadline_ms < next)
			next = proc->deadline_ms;
	}
	if (next == INT64_MAX)
		return -1;
	return next - now > 3600000 ? 3600000 : (int)(next - now);
}

/* ---- the start */

static void forget_inherited_signals(void)
{
	/* The kernel's own struct: handler, flags, restorer, mask. */
	static const unsigned long by_default[4];
	sigset_t all;

	/* An ignored signal would stay ignored in every process that we start. By the bare call:
	 * libcs keep two signals to themselves and refuse to touch them, inherited or not. */
	for (int number = 1; number < NSIG; number++)
		syscall(SYS_rt_sigaction, number, by_default, NULL, sizeof(by_default[3]));
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
}

/*
 * Short of memory, the kernel shall take a process of a sandbox rather than one of the host, and
 * any process of the sandbox rather than its init, with which all would end. A child has its score
 * from its parent, so init has theirs while it makes one. Without the file, or where the score is
 * high already, it stays as it is.
 */
static void find_oom_score(void)
{
	ssize_t length;

	box.oom_score = open("/proc/self/oom_score_adj", O_RDWR | O_CLOEXEC);
	if (box.oom_score < 0)
		return;
	length = pread(box.oom_score, box.oom_score_own, sizeof(box.oom_score_own) - 1, 0);
	if (length > 0 && atoi(box.oom_score_own) < atoi(OOM_SCORE_CHILD))
		return;
	close(box.oom_score);
	box.oom_score = -1;
}

void oom_score_set(const char *score)
{
	/* May be refused: then nothing is lost but the order. */
	if (box.oom_score >= 0 && pwrite(box.oom_score, score, strlen(score), 0) < 0)
		return;
}

static void own_descriptors(void)
{
	struct rlimit most;

	for (int fd = 0; fd <= 2; fd++) {
		if (fcntl(fd, F_GETFD) == -1)
			open("/dev/null", O_RDWR);
	}
	if (fcntl(LISTEN_FD, F_SETFD, FD_CLOEXEC) || fcntl(READY_FD, F_SETFD, FD_CLOEXEC))
		die("init needs a listening socket as 3 and a pipe as 4: %m");
	box.null = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (box.null < 0)
		box.null = fcntl(0, F_DUPFD_CLOEXEC, 5);
	if (getrlimit(RLIMIT_NOFILE, &box.nofile))
		die("getrlimit: %m");
	most = box.nofile;
	most.rlim_cur = most.rlim_max;
	setrlimit(RLIMIT_NOFILE, &most);
}

static void make_loop(void)
{
	sigset_t child;

	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	box.epoll = epoll_create1(EPOLL_CLOEXEC);
	box.signals.fd = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
	box.listener.fd = LISTEN_FD;
	if (box.epoll < 0 || box.signals.fd < 0)
		die("cannot make the loop: %m");
	if (fcntl(LISTEN_FD, F_SETFL, fcntl(LISTEN_FD, F_GETFL) | O_NONBLOCK))
		die("listening socket: %m");
	box.signals.ready = reap;
	box.listener.ready = accept_one;
	watch_set(&box.signals, EPOLLIN);
	watch_set(&box.listener, EPOLLIN);
}

static void say_ready(void)
{
	if (write(READY_FD, "R", 1) != 1)
		die("nobody waits for init: %m");
	close(READY_FD);
}

static void one_round(void)
{
	struct epoll_event events[EVENTS_A_ROUND];
	int count = epoll_wait(box.epoll, events, EVENTS_A_ROUND, pass_deadlines());

	for (int i = 0; i < count; i++) {
		struct watch *watch = events[i].data.ptr;

		/* Something earlier in this round may have closed it. */
		if (watch->fd >= 0 && watch->events)
			watch->ready(watch, events[i].events);
	}
	free_closed();
}

int init_main(void)
{
	/* 1. Nothing we were started with may reach the sandbox's processes. */
	forget_inherited_signals();
	own_descriptors();

	/* 2. Root inside may neither trace us nor read our memory. */
	if (!init_weak("dumpable") && prctl(PR_SET_DUMPABLE, 0))
		die("prctl: %m");
	find_oom_score();
	umask(0);

	/* 3. From here on nothing may end us: with PID 1 ends the sandbox. */
	make_loop();
	say_ready();
	for (;;)
		one_round();
}
