/* User namespaces as maps of ids: one range of host uids for each sandbox slot.
 *
 * A namespace lives as long as its descriptor, so they are made once and kept. The cache is
 * direct-mapped and small, for every clone copies the launcher's descriptors and closes them; a
 * lost entry only costs making it again. */
#define _GNU_SOURCE
#include "launch.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define CACHED 256

bool unprivileged;

static struct {
	uint32_t from, onto;
	int fd; /* 0: empty, for descriptor 0 is the launcher's stdin */
} cache[CACHED];

/* What an ordinary user may do to be root of something: itself, under another number. With a network
 * of its own too, for net.c could not come back to the host's. */
int enter_own_userns(void)
{
	char uids[64], gids[64];
	snprintf(uids, sizeof uids, "0 %u 1\n", geteuid());
	snprintf(gids, sizeof gids, "0 %u 1\n", getegid());
	if (unshare(CLONE_NEWUSER | CLONE_NEWNET))
		return failed("make a user namespace as an ordinary user (see kernel.apparmor_"
			      "restrict_unprivileged_userns and user.max_user_namespaces)");
	if (write_text("/proc/self/setgroups", "deny") || write_text("/proc/self/uid_map", uids) ||
	    write_text("/proc/self/gid_map", gids))
		return -1;
	unprivileged = true;
	return 0;
}

uint32_t ids_each(void)
{
	return unprivileged ? 1 : RANGE;
}

static int limit_userns(void);

/* What is used inside is also counted outside, for whoever made the namespace: inotify instances,
 * message queues, pending signals, processes. Were that root for all, one sandbox could use up what
 * all others, and root itself, may have. So the maker is the first uid of the range, but keeps
 * root's capabilities, for some systems let nobody else make one, and root's access to files. */
static int make_as(uint32_t uid)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2];
	if (unprivileged)
		return unshare(CLONE_NEWUSER);
	if (syscall(SYS_setresuid, -1, uid, -1) || syscall(SYS_capget, &header, data))
		return -1;
	data[0].effective = data[0].permitted;
	data[1].effective = data[1].permitted;
	if (syscall(SYS_capset, &header, data))
		return -1;
	syscall(SYS_setfsuid, 0);
	return unshare(CLONE_NEWUSER);
}

/* A child in a new user namespace, which limits it once told that it has its maps. */
static pid_t start_holder(uint32_t uid, int *go)
{
	struct clone_args args = {0}; /* no SIGCHLD: it is waited for by name */
	int ends[2];
	char byte;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends))
		return -1;
	pid_t parent = getpid();
	pid_t pid = (pid_t)syscall(SYS_clone3, &args, sizeof args);
	if (pid == 0) {
		close(ends[1]);
		byte = (char)(make_as(uid) ? errno : 0);
		/* The maker of rooms shares its descriptors, so its death closes none of them. After
		 * make_as, for the kernel forgets this when the user changes. */
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(1);
		bool told = write(ends[0], &byte, 1) == 1 && read(ends[0], &byte, 1) == 1;
		_exit(told && !limit_userns() ? 0 : 1);
	}
	close(ends[0]);
	*go = ends[1];
	if (pid > 0 && read(ends[1], &byte, 1) == 1 && !byte)
		return pid;
	int error = pid > 0 ? byte : errno;
	close(ends[1]);
	if (pid > 0)
		waitpid(pid, NULL, __WALL);
	errno = error;
	return -1;
}

static int write_maps(pid_t pid, uint32_t from, uint32_t onto)
{
	char path[64], map[64];
	snprintf(map, sizeof map, "%u %u %u\n", from, onto, ids_each());
	snprintf(path, sizeof path, "/proc/%d/uid_map", pid);
	if (write_text(path, map))
		return -1;
	snprintf(path, sizeof path, "/proc/%d/gid_map", pid);
	return write_text(path, map);
}

static int make_userns(uint32_t from, uint32_t onto)
{
	int fd = -1, go = -1, status = 0;
	char path[64];
	if (own_proc())
		return -1;
	pid_t pid = start_holder(onto, &go);
	if (pid < 0)
		return failed("make a user namespace (see user.max_user_namespaces)");
	snprintf(path, sizeof path, "/proc/%d/ns/user", pid);
	if (!write_maps(pid, from, onto) && (fd = open(path, O_RDONLY | O_CLOEXEC)) < 0)
		failed("open %s", path);
	bool told = fd >= 0 && write(go, "", 1) == 1;
	close(go);
	waitpid(pid, &status, __WALL);
	if (fd < 0 || (told && !status))
		return fd;
	close(fd);
	errno = 0;
	return failed("limit the namespaces inside a user namespace");
}

/* The descriptor stays the cache's; without ranges each sandbox has one of its own, see below. */
int map_ids(uint32_t from, uint32_t onto)
{
	if (unprivileged)
		return make_userns(from, onto);
	uint32_t place = (from / RANGE * 31 + onto / RANGE) % CACHED;
	if (cache[place].fd && cache[place].from == from && cache[place].onto == onto)
		return cache[place].fd;
	int fd = make_userns(from, onto);
	if (fd < 0)
		return -1;
	if (cache[place].fd)
		close(cache[place].fd);
	cache[place].from = from;
	cache[place].onto = onto;
	cache[place].fd = fd;
	return fd;
}

/* With one range for all, what a user namespace counts would be counted for all sandboxes. */
void drop_map(int userns)
{
	if (unprivileged && userns >= 0)
		close(userns);
}

int enter_userns(int userns)
{
	if (setns(userns, CLONE_NEWUSER))
		return failed("enter the user namespace");
	if ((!unprivileged && setgroups(0, NULL)) || setresgid(0, 0, 0) || setresuid(0, 0, 0))
		return failed("become root of the user namespace");
	return 0;
}

/* Per user namespace, and only because each sandbox has its own. They hold for all who enter it
 * later, and what takes them back is a capability that no sandbox has. */
static int limit_userns(void)
{
	static const char *const none[] = {"user", "mnt", "net", "pid", "ipc", "uts", "cgroup", "time"};
	char path[64];
	if (write_text("mnt/proc/sys/user/max_inotify_instances", "64") && errno != ENOENT)
		return -1;
	for (size_t i = 0; i < sizeof none / sizeof *none; i++) {
		snprintf(path, sizeof path, "mnt/proc/sys/user/max_%s_namespaces", none[i]);
		if (write_text(path, "0") && errno != ENOENT)
			return -1;
	}
	return 0;
}
