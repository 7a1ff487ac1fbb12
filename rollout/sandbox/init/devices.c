/* The /dev of each sandbox: a folder of one tmpfs for all, which it sees read-only.
 *
 * A file system for each would cost memory and time, and one folder for all would be shared: a lock
 * on /dev/null is seen by all who have the same file, and so is who opens it. Made ahead, as the
 * folders it writes to are. An ordinary user may make no devices, so there all share the host's. */
#define _GNU_SOURCE
#include "launch.h"

#include <errno.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define SPARES 8
#define SHARED 0

static const struct {
	const char *name;
	unsigned major, minor;
} nodes[] = {{"null", 1, 3},   {"zero", 1, 5},    {"full", 1, 7},
	     {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}};

static const struct {
	const char *name, *target;
} links[] = {{"fd", "/proc/self/fd"},
	     {"stdin", "fd/0"},
	     {"stdout", "fd/1"},
	     {"stderr", "fd/2"},
	     {"ptmx", "pts/ptmx"}};

#define COUNT(list) (sizeof(list) / sizeof *(list))

static int spares[SPARES], spare_count, last = SHARED;
static bool refused; /* whoever needs one then meets the same trouble, and tells it */

static int make_node(const char *path, size_t i)
{
	char host[32];
	dev_t device = makedev(nodes[i].major, nodes[i].minor);
	snprintf(host, sizeof host, "/dev/%s", nodes[i].name);
	if (!unprivileged)
		return mknod(path, S_IFCHR | 0666, device) ? failed("make %s", path) : 0;
	if (mknod(path, S_IFREG | 0666, 0) || mount(host, path, NULL, MS_BIND, NULL))
		return failed("mount the host's %s", host);
	return 0;
}

static int make_devices(int number)
{
	char path[64];
	int folder = snprintf(path, sizeof path, "mnt/dev/%d", number);
	size_t room = sizeof path - (size_t)folder;
	if (mkdir(path, 0755))
		return failed("make %s", path);
	for (size_t i = 0; i < COUNT(nodes); i++) {
		snprintf(path + folder, room, "/%s", nodes[i].name);
		if (make_node(path, i))
			return -1;
	}
	for (size_t i = 0; i < COUNT(links); i++) {
		snprintf(path + folder, room, "/%s", links[i].name);
		if (symlink(links[i].target, path))
			return failed("make %s", path);
	}
	snprintf(path + folder, room, "/pts");
	if (mkdir(path, 0755))
		return failed("make %s", path);
	snprintf(path + folder, room, "/shm");
	return mkdir(path, 01777) ? failed("make %s", path) : 0;
}

int open_devices(void)
{
	if (mount("dev", "mnt/dev", "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=0755"))
		return failed("mount a tmpfs for /dev");
	return make_devices(SHARED);
}

bool wants_spare_devices(void)
{
	return !unprivileged && !refused && spare_count < SPARES;
}

void make_spare_devices(void)
{
	refused = make_devices(++last);
	if (!refused)
		spares[spare_count++] = last;
}

/* By the maker of rooms, with numbers of its own. */
int make_devices_ahead(int *number)
{
	static int next = 1 << 30;
	*number = next;
	return make_devices(next++);
}

int take_devices(struct request *r)
{
	if (unprivileged)
		return r->devices = SHARED;
	if (spare_count) {
		r->devices = spares[--spare_count];
		return 0;
	}
	r->devices = ++last;
	return make_devices(r->devices);
}

/* That it is still mounted somewhere does not matter. */
void give_devices_back(int number)
{
	char path[64];
	int folder = snprintf(path, sizeof path, "mnt/dev/%d", number);
	size_t room = sizeof path - (size_t)folder;
	if (number == SHARED)
		return;
	for (size_t i = 0; i < COUNT(nodes); i++) {
		snprintf(path + folder, room, "/%s", nodes[i].name);
		unlink(path);
	}
	for (size_t i = 0; i < COUNT(links); i++) {
		snprintf(path + folder, room, "/%s", links[i].name);
		unlink(path);
	}
	snprintf(path + folder, room, "/pts");
	rmdir(path);
	snprintf(path + folder, room, "/shm");
	rmdir(path);
	path[folder] = 0;
	rmdir(path);
}
