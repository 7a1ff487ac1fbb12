/* Where a sandbox writes: folders on disk, on a tmpfs of its own, or in a subvolume of its own.
 *
 *   b/<id>/    c, the init's socket; u and w, upper and work folder of /; U and W, those of /usr
 *   spare/<n>  such folders made ahead while nobody waits: an eighth of a sandbox's making; by
 *              name those of rooms (rooms.c)
 *
 * Upper folders belong to the sandbox's root; work folders to the host's, who writes there. */
#define _GNU_SOURCE
#include "launch.h"

#include <stdio.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#define SPARES 8
#define MOVE_FROM_FD 0x4

static const char *const owned[] = {"u", "U", "u/dev", "u/dev/shm"};
static unsigned made, taken; /* spares, numbered from 0 */
static bool refused;

static int make_folder(const char *at, const char *name, mode_t mode)
{
	char path[128];
	snprintf(path, sizeof path, "%s/%s", at, name);
	return mkdir(path, mode) ? failed("make the scratch folder %s", path) : 0;
}

/* A folder of the new root below the one that /dev will cover: no file system of its own, and the
 * mount table shows no path of the host. Opaque, so that a fork does not find its parent's. */
static int make_shm(const char *at)
{
	char path[128];
	if (make_folder(at, "u/dev", 0755) || make_folder(at, "u/dev/shm", 01777))
		return -1;
	snprintf(path, sizeof path, "%s/u/dev/shm", at);
	const char *opaque = unprivileged ? "user.overlay.opaque" : "trusted.overlay.opaque";
	if (setxattr(path, opaque, "y", 1, 0))
		return failed("make %s opaque", path);
	return 0;
}

static int make_folders(const char *at, bool usr)
{
	if (make_folder(at, "u", 0755) || make_folder(at, "w", 0700) || make_shm(at))
		return -1;
	return usr && (make_folder(at, "U", 0755) || make_folder(at, "W", 0700)) ? -1 : 0;
}

static int give_folders(const struct request *r, const char *at)
{
	char path[128];
	for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) {
		snprintf(path, sizeof path, "%s/%s", at, owned[i]);
		if ((*owned[i] != 'U' || r->usr.count) && lchown(path, r->uids, r->uids))
			return failed("give the scratch folder %s to its sandbox", path);
	}
	return 0;
}

/* Where its own folder is, in which is also the socket. */
const char *own_folder(const struct request *r)
{
	return r->ahead ? "spare" : "b";
}

const char *scratch_folder(const struct request *r, char *room, size_t size)
{
	if (r->scratch >= 0)
		return "mnt/s";
	snprintf(room, size, "%s/%s", r->subvolume ? "mnt/v" : own_folder(r), r->id);
	return room;
}

int make_scratch(const struct request *r)
{
	char room[96];
	const char *at = scratch_folder(r, room, sizeof room);
	if (r->has_scratch)
		return 0;
	if (make_folder(own_folder(r), r->id, 0700))
		return -1;
	if (r->scratch >= 0 && syscall(SYS_move_mount, r->scratch, "", AT_FDCWD, at, MOVE_FROM_FD))
		return failed("mount the tmpfs for scratch");
	if (r->subvolume && make_subvolume(r))
		return -1;
	return make_folders(at, r->usr.count) || give_folders(r, at) ? -1 : 0;
}

/* ---------------------------------------------------------------- ahead, in the launcher */

bool wants_spare_scratch(void)
{
	return !refused && made - taken < SPARES;
}

void make_spare_scratch(void)
{
	char name[32];
	snprintf(name, sizeof name, "%u", made);
	char at[64];
	snprintf(at, sizeof at, "spare/%s", name);
	refused = make_folder("spare", name, 0700) || make_folders(at, true);
	made += !refused;
}

/* Those for /usr are among them, so images without one of their own get none. */
int take_spare_scratch(struct request *r)
{
	char from[64], room[96];
	if (made == taken || r->scratch >= 0 || r->subvolume || !r->usr.count)
		return 0;
	snprintf(from, sizeof from, "spare/%u", taken);
	const char *at = scratch_folder(r, room, sizeof room);
	if (rename(from, at))
		return failed("take the scratch folder %s", from);
	taken++;
	r->has_scratch = true;
	return give_folders(r, at);
}
