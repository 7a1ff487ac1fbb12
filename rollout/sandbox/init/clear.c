/* rollout-box clear OWNER_FOLDER
 *
 * Removes what ended sandboxes leave, beside the launcher, which must not wait for a big tree, and
 * outside Python, whose other work it would hold up.
 *
 * Lines in, split at tabs:                             Lines out, one for each:
 *   ID tree=PATH ... subvolume=PATH ...                  ID | ID TEXT if something is left
 *      cgroup=DIRECTORY ... batch=DIRECTORY
 *
 * Ends at once with its stdin: then the owner has ended, and the rest is the next sweep's. */
#define _GNU_SOURCE
#include "box.h"
#include "erase.h"
#include "launch.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>

#define CGROUP_TRIES 5000
#define CGROUP_PAUSE_NS 2000000
#define BATCH_TRIES 3
#define BATCH_PAUSE_NS 50000000
#define RECLAIM_MOST_US 100000
#define GONE -2

/* EBUSY until the kernel has let the last process go, which is after its parent reaped it. */
static int clear_cgroup(const char *path)
{
	struct timespec pause = {.tv_nsec = CGROUP_PAUSE_NS};
	for (int tries = 0; tries < CGROUP_TRIES; tries++) {
		if (!rmdir(path) || errno == ENOENT)
			return 0;
		if (errno != EBUSY)
			break;
		nanosleep(&pause, NULL);
	}
	return failed("remove cgroup %s", path);
}

static void interrupt(int number)
{
	(void)number;
}

static void set_alarm(suseconds_t after_us)
{
	struct itimerval timer = {.it_value.tv_usec = after_us};
	setitimer(ITIMER_REAL, &timer, NULL);
}

/* A memory directory of version 1 below which all have ended: page cache that is still charged to
 * them, gone as they are, keeps the kernel from forgetting them. The first try may only have it
 * write out what is dirty, and each is cut short: what stays then goes when memory is needed. */
static int clear_batch(const char *path)
{
	struct timespec pause = {.tv_nsec = BATCH_PAUSE_NS};
	char name[512];
	snprintf(name, sizeof name, "%s/memory.force_empty", path);
	for (int tries = 0; tries < BATCH_TRIES; tries++) {
		if (tries)
			nanosleep(&pause, NULL);
		set_alarm(RECLAIM_MOST_US);
		write_text(name, "0");
		set_alarm(0);
	}
	return clear_cgroup(path);
}

/* Parts `path` at its last name. Returns the folder it is in, GONE or -1. */
static int open_folder(char *path, char **name)
{
	errno = 0;
	*name = strrchr(path, '/');
	if (!*name || *name == path)
		return failed("what is cleared has a folder, unlike '%s'", path);
	*(*name)++ = 0;
	int folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (folder < 0)
		return errno == ENOENT ? GONE : failed("open %s", path);
	return folder;
}

static int clear_tree(char *path)
{
	struct culprit culprit;
	char *name;
	int folder = open_folder(path, &name);
	if (folder < 0)
		return folder == GONE ? 0 : -1;
	int done = erase(folder, name, &culprit);
	close(folder);
	errno = done ? culprit.error : 0;
	return done ? failed("remove %s in %s/%s", culprit.text, path, name) : 0;
}

/* Below a descriptor of the launcher: without a launcher there is no volume. */
static int clear_subvolume(char *path)
{
	char *name;
	int folder = open_folder(path, &name);
	if (folder < 0)
		return folder == GONE ? 0 : -1;
	int done = remove_subvolume(folder, name);
	if (done)
		failed("remove the subvolume %s/%s", path, name);
	close(folder);
	return done;
}

static int clear_field(char *field)
{
	if (!strncmp(field, "cgroup=", 7))
		return clear_cgroup(field + 7);
	if (!strncmp(field, "tree=", 5))
		return clear_tree(field + 5);
	if (!strncmp(field, "subvolume=", 10))
		return clear_subvolume(field + 10);
	if (!strncmp(field, "batch=", 6))
		return clear_batch(field + 6);
	errno = 0;
	return failed("unknown field '%s'", field);
}

static void obey(char *line)
{
	char *id = strsep(&line, "\t");
	int left = 0;
	for (char *field; (field = strsep(&line, "\t"));)
		left |= clear_field(field);
	if (left)
		printf("%s\t%s\n", id, trouble);
	else
		printf("%s\n", id);
	fflush(stdout);
}

int clear_main(int argc, char **argv)
{
	char *line = NULL;
	size_t room = 0;
	ssize_t length;
	if (argc != 3 || chdir(argv[2]))
		die("usage: rollout-box clear OWNER_FOLDER (%m)");
	if (geteuid() && enter_own_userns())
		die("%s", trouble);
	sigaction(SIGALRM, &(struct sigaction){.sa_handler = interrupt}, NULL);
	while ((length = getline(&line, &room, stdin)) > 0) {
		if (line[length - 1] != '\n')
			return 1; /* whoever wrote it ended in the middle */
		line[length - 1] = 0;
		obey(line);
	}
	return 0;
}

static int enter_userns_of(const char *pid)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%.20s/ns/user", pid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || setns(fd, CLONE_NEWUSER))
		return failed("enter the user namespace of process %s", pid);
	return close(fd);
}

/* rollout-box owning PID PROGRAM [ARGUMENT]...: with every right over the files of who starts it,
 * whatever their modes say; and over what process PID has open, unless that is 0. Root has it all
 * anyway. */
int owning_main(int argc, char **argv)
{
	if (argc < 4)
		die("usage: rollout-box owning PID PROGRAM [ARGUMENT]...");
	if (geteuid() && (strcmp(argv[2], "0") ? enter_userns_of(argv[2]) : enter_own_userns()))
		die("%s", trouble);
	execvp(argv[3], argv + 3);
	die("%s: %m", argv[3]);
}
