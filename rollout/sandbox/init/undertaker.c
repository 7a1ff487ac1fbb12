/* Unmounting what an ended sandbox had mounted takes the kernel longer than ending it, and whoever
 * lets go of a mount namespace last has to wait for that. So the launcher holds on to the one of
 * a sandbox it kills, and a process that shares its descriptors closes it, and removes its /dev. */
#define _GNU_SOURCE
#include "launch.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

struct remains {
	int mounts;  /* a mount namespace, or -1 */
	int devices; /* number of a /dev */
};

static int orders = -1;

static void bury_one(const struct remains *remains)
{
	if (remains->mounts >= 0)
		close(remains->mounts);
	give_devices_back(remains->devices);
}

static _Noreturn void bury_all(int from)
{
	struct remains remains[64];
	ssize_t length;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_NAME, "rollout-bury");
	while ((length = read(from, remains, sizeof remains)) > 0)
		for (size_t i = 0; i < (size_t)length / sizeof *remains; i++)
			bury_one(&remains[i]);
	_exit(0);
}

int start_undertaker(void)
{
	struct clone_args args = {.flags = CLONE_FILES, .exit_signal = SIGCHLD};
	int ends[2];
	if (pipe2(ends, O_CLOEXEC))
		return failed("make a pipe");
	pid_t pid = (pid_t)syscall(SYS_clone3, &args, sizeof args);
	if (pid == 0)
		bury_all(ends[0]);
	orders = ends[1];
	return pid < 0 ? failed("start the undertaker") : 0;
}

/* Its end of the pipe is in the same table, so this closes both. */
void stop_undertaker(void)
{
	close(orders);
}

int hold_mounts(pid_t pid)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/ns/mnt", pid);
	return open(path, O_RDONLY | O_CLOEXEC);
}

/* Here and now if the undertaker does not take them. */
void let_go(int mounts, int devices)
{
	struct remains remains = {mounts, devices};
	if (write(orders, &remains, sizeof remains) != sizeof remains)
		bury_one(&remains);
}
