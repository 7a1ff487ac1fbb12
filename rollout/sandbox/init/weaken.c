/* For tests alone: a build with -DROLLOUT_WEAKEN leaves out the walls that a request names.
 *
 * tests/security/test_matrix.py shows with it that each probe that fails on a real sandbox succeeds
 * on one without the wall it tries. Every other build has none of this: see the macros in launch.h
 * and box.h. */
#ifdef ROLLOUT_WEAKEN
#define _GNU_SOURCE
#include "box.h"
#include "launch.h"

#include <sched.h>
#include <string.h>

const char *weakened;

static bool names(const char *walls, const char *wall)
{
	size_t length = strlen(wall);
	for (const char *at = walls; at && *at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL)
		if (!strncmp(at, wall, length) && (at[length] == ',' || !at[length]))
			return true;
	return false;
}

bool weak(const struct request *r, const char *wall)
{
	return names(r->weaken, wall);
}

bool init_weak(const char *wall)
{
	return names(weakened, wall);
}

unsigned long long shared_namespaces(const struct request *r)
{
	return (weak(r, "pid") ? CLONE_NEWPID : 0u) | (weak(r, "net") ? CLONE_NEWNET : 0u) |
	       (weak(r, "ipc") ? CLONE_NEWIPC : 0u) | (weak(r, "uts") ? CLONE_NEWUTS : 0u);
}

/* The limits came with the user namespace; its root may still raise them. */
int raise_limits(const struct request *r)
{
	static const char *const kinds[] = {"user", "mnt", "net",    "pid",
					    "ipc",  "uts", "cgroup", "time"};
	char path[64];
	if (!weak(r, "nesting"))
		return 0;
	for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
		snprintf(path, sizeof path, "/proc/sys/user/max_%s_namespaces", kinds[i]);
		if (write_text(path, "100"))
			return -1;
	}
	return 0;
}
#endif
