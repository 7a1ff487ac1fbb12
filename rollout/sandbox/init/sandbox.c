/* From a clone of the launcher to the init of a sandbox: all that is done in between, in order. */
#define _GNU_SOURCE
#include "launch.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#define LISTENER 3
#define READY 4
#define BINARY 5
#define BACKLOG 128

/* Bound before the host is left: no path inside leads to it, and its network is the sandbox's. */
static int open_listener(const struct request *r, int *listener)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	snprintf(address.sun_path, sizeof address.sun_path, "%s/%s/c", own_folder(r), r->id);
	*listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (*listener < 0 || bind(*listener, (struct sockaddr *)&address, sizeof address) ||
	    chmod(address.sun_path, 0600) || listen(*listener, BACKLOG))
		return failed("listen on %s", address.sun_path);
	return 0;
}

int set_hostname(void)
{
	static const char name[] = "sandbox";
	return sethostname(name, sizeof name - 1) ? failed("set the host name") : 0;
}

static int high_copy(int fd)
{
	return fcntl(fd, F_DUPFD_CLOEXEC, 100);
}

/* First high, then low, so that none is overwritten before it is copied. Closes all the rest. */
static int arrange_descriptors(const struct request *r, int listener, int *ready, int *binary,
			       int *launcher)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	int from[] = {high_copy(null),   high_copy(null),    high_copy(null),
		      high_copy(listener), high_copy(*ready), high_copy(*binary),
		      high_copy(*launcher)};
	int count = sizeof from / sizeof *from;
	for (int to = 0; to < count; to++)
		if (from[to] < 0 || dup3(from[to], to, to >= BINARY ? O_CLOEXEC : 0) < 0)
			return failed("arrange descriptors");
	*ready = READY;
	*binary = BINARY;
	*launcher = BINARY + 1;
	if (!weak(r, "descriptors"))
		syscall(SYS_close_range, BINARY + 2, ~0u, 0);
	return 0;
}

static void reset_signals(void)
{
	sigset_t none;
	sigemptyset(&none);
	signal(SIGPIPE, SIG_DFL);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

/* What it sees, but for its /proc. */
int furnish(const struct request *r, int *listener)
{
	return make_scratch(r) || open_listener(r, listener) || mount_all(r) ? -1 : 0;
}

/* Version 1 groups are joined late, so that folders and mounts are not memory of the sandbox: parts
 * of them stay in the page cache for long and would keep its memory directory from going. */
static int build_room(const struct request *r, int *listener)
{
	if ((!weak(r, "net") && enter_network(r)) || furnish(r, listener) ||
	    mount_proc() || join_cgroups(r) || pivot(r))
		return -1;
	return !weak(r, "uts") && set_hostname() ? -1 : 0;
}

static int move_in(const struct request *r, int *listener)
{
	*listener = r->room.listener;
	return join_cgroups(r) || enter_room(&r->room) || mount_proc() ? -1 : 0;
}

static int build_sandbox(const struct request *r, const struct launcher *l, int *ready)
{
	int listener, binary = l->binary, launcher = l->self;

	if (r->room.mounts >= 0 ? move_in(r, &listener) : build_room(r, &listener))
		return -1;
	if ((!weak(r, "userns") && (enter_userns(r->userns) || raise_limits(r))) || set_limits(r))
		return -1;
	if (arrange_descriptors(r, listener, ready, &binary, &launcher) || drop_privileges(r) ||
	    die_with(launcher))
		return -1;

	char *const arguments[] = {"rollout-box", "init", WEAKENED(r), NULL};
	char *const environment[] = {NULL};
	reset_signals();
	umask(022);
	syscall(SYS_execveat, binary, "", arguments,
		weak(r, "environment") ? environ : environment, AT_EMPTY_PATH);
	return failed("start the init");
}

_Noreturn void become_sandbox(const struct request *r, const struct launcher *l, int ready)
{
	build_sandbox(r, l, &ready);
	dprintf(ready, "E%s", trouble);
	_exit(1);
}
