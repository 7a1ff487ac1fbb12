/* Control groups: the caller names directories and limits, for it knows which hierarchies exist. */
#define _GNU_SOURCE
#include "launch.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int make_directory(const char *path)
{
	return mkdir(path, 0755) ? failed("make cgroup %s", path) : 0;
}

static int write_limit(char *setting)
{
	char *value = strchr(setting, '=');
	errno = 0;
	if (!value)
		return failed("a limit is file=value, not '%s'", setting);
	*value++ = 0;
	return write_text(setting, value);
}

int make_cgroups(struct request *r)
{
	if (!r->cgroup)
		return 0;
	if (make_directory(r->cgroup))
		return -1;
	r->cgroup_fd = open(r->cgroup, O_DIRECTORY | O_CLOEXEC);
	if (r->cgroup_fd < 0)
		return failed("open cgroup %s", r->cgroup);
	/* One that is there already is shared. */
	for (int i = 0; i < r->join_count; i++)
		if (access(r->joins[i], F_OK) && make_directory(r->joins[i]))
			return -1;
	for (int i = 0; i < r->write_count; i++)
		if (write_limit(r->writes[i]))
			return -1;
	return 0;
}

/* Version 2 was joined by clone3; the namespace comes last so that its root is what was joined. */
int join_cgroups(const struct request *r)
{
	char path[512];
	for (int i = 0; i < r->join_count; i++) {
		snprintf(path, sizeof path, "%s/tasks", r->joins[i]);
		if (write_text(path, "0"))
			return -1;
	}
	if (weak(r, "cgroup"))
		return 0;
	return unshare(CLONE_NEWCGROUP) ? failed("make a cgroup namespace") : 0;
}
