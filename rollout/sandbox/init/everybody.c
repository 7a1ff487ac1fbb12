/* A signal to every process of a sandbox but its init: how one is held still, and set going again,
 * where there are no control groups. kill(-1) reaches whole a pid namespace, and no fork escapes it,
 * but it must be called from inside one: by a child that enters it and the child of that. */
#define _GNU_SOURCE
#include "launch.h"

#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* As fork(), but nobody gets a SIGCHLD: it is waited for by name. */
static pid_t quiet_fork(void)
{
	struct clone_args args = {0};
	return (pid_t)syscall(SYS_clone3, &args, sizeof args);
}

static int end_of(pid_t pid)
{
	int status = 1;
	if (pid < 0 || waitpid(pid, &status, __WALL) < 0)
		return 1;
	return status != 0;
}

/* ESRCH is fine: there is nobody but the init. */
static _Noreturn void signal_from_inside(int pids, int number)
{
	if (setns(pids, CLONE_NEWPID))
		_exit(1);
	pid_t inside = quiet_fork();
	if (inside == 0) {
		kill(-1, number);
		_exit(0);
	}
	_exit(end_of(inside));
}

int signal_everybody(pid_t init, int number)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/ns/pid", init);
	int pids = open(path, O_RDONLY | O_CLOEXEC);
	if (pids < 0)
		return failed("open %s", path);
	pid_t child = quiet_fork();
	if (child == 0)
		signal_from_inside(pids, number);
	close(pids);
	return end_of(child) ? failed("signal the processes of a sandbox") : 0;
}
