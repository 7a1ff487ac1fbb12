/* The file system of a sandbox, made while still root of the host.
 *
 * The launcher works in its owner's folder and in a mount namespace of its own:
 *
 *   mnt/       a tmpfs only the launcher and its sandboxes see, with the mount points below
 *     m        the new root          l0 l1 …  id-mapped layers of /
 *     dev/<n>  a sandbox's /dev     k0 k1 …  id-mapped layers of /usr
 *     s        a tmpfs for scratch, where one is asked for
 *     v        the volume (volume.c): scratch and layers by name, once one was asked for
 *     proc     for settings of namespaces, see own_proc()
 *
 * Every sandbox has its own mount namespace, so the same mount points serve all of them. Names are
 * relative: short enough for 4 KiB of options, and they tell the sandbox nothing of the host. */
#define _GNU_SOURCE
#include "launch.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Spelt here because libcs differ in what they declare. */
#define TREE_CLONE 1
#define TREE_CLOEXEC O_CLOEXEC
#define MOVE_FROM_FD 0x4
#define ATTR_IDMAP 0x00100000
#define FS_CLOEXEC 1
#define FS_SET_STRING 1
#define FS_CREATE 6
#define FSMOUNT_FLAGS_CLOEXEC 1
#define TMPFS_INODE_BYTES 16384
#define PROC_USES 64

struct attributes {
	uint64_t set, clear, propagation, userns;
};

/* ---------------------------------------------------------------- once, in the launcher */

static bool is_needed(const char *mount_point, int keep_count, char **keep)
{
	size_t length = strlen(mount_point);
	if (!strcmp(mount_point, "/") || !strcmp(mount_point, "/proc"))
		return true;
	for (int i = 0; i < keep_count; i++)
		if (!strncmp(keep[i], mount_point, length) && (!keep[i][length] || keep[i][length] == '/'))
			return true;
	return false;
}

/* In mountinfo a blank, a tab, a newline and a backslash are three octal digits. */
static void unescape(char *text)
{
	char *to = text;
	for (char *from = text; *from; to++)
		if (*from == '\\' && strlen(from) >= 4) {
			char digits[4] = {from[1], from[2], from[3], 0};
			*to = (char)strtol(digits, NULL, 8);
			from += 4;
		} else {
			*to = *from++;
		}
	*to = 0;
}

/* Each clone copies the whole mount table, so a short one makes every sandbox cheaper. */
static int trim_mounts(int keep_count, char **keep)
{
	FILE *table = fopen("/proc/self/mountinfo", "re");
	char *line = NULL, *point = NULL;
	size_t room = 0;
	if (!table)
		return failed("open /proc/self/mountinfo");
	while (getline(&line, &room, table) > 0) {
		if (sscanf(line, "%*d %*d %*s %*s %ms", &point) != 1)
			continue;
		unescape(point);
		if (!is_needed(point, keep_count, keep))
			umount2(point, MNT_DETACH); /* fails below one that is gone already */
		free(point);
	}
	free(line);
	fclose(table);
	return 0;
}

static int make_mount_points(void)
{
	char name[32];
	if (mkdir("mnt", 0700) && errno != EEXIST)
		return failed("make the folder mnt");
	if (mount("rollout", "mnt", "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=0700"))
		return failed("mount a tmpfs");
	if (mkdir("mnt/m", 0755) || mkdir("mnt/s", 0755) || mkdir("mnt/v", 0755) ||
	    mkdir("mnt/dev", 0755) || mkdir("mnt/proc", 0755))
		return failed("make a mount point");
	for (int i = 0; i < MAX_LAYERS; i++)
		for (const char *kind = "lk"; *kind; kind++) {
			snprintf(name, sizeof name, "mnt/%c%d", *kind, i);
			if (mkdir(name, 0755))
				return failed("make the mount point %s", name);
		}
	return 0;
}

int prepare_mounts(int keep_count, char **keep)
{
	umask(0);
	keep_devices();
	if (unshare(CLONE_NEWNS))
		return failed("make a mount namespace");
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		return failed("make mounts private");
	return trim_mounts(keep_count, keep) || make_mount_points() || open_devices() ? -1 : 0;
}

/* The maker of rooms has one for each, in the mount namespace that it makes. */
static bool proc_is_new;

int mount_proc_once(void)
{
	proc_is_new = true;
	if (mount("proc", "mnt/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL))
		return failed("mount a /proc for the maker");
	return 0;
}

/* A /proc/sys keeps a name for each namespace that ever asked it for a setting and is still there,
 * all of them in one hash chain: with thousands alive, a lookup would take longer than the rest of
 * a sandbox's making. So the launcher asks one of its own, and takes a new one now and then. */
int own_proc(void)
{
	static int uses;
	if (proc_is_new || uses++ % PROC_USES || (unprivileged && uses > 1))
		return 0;
	if (unprivileged) /* may mount one only for processes of its own */
		return mount("/proc", "mnt/proc", NULL, MS_BIND | MS_REC, NULL)
			       ? failed("mount the host's /proc")
			       : 0;
	umount2("mnt/proc", MNT_DETACH); /* none is there at first */
	if (mount("proc", "mnt/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL))
		return failed("mount a /proc for the launcher");
	return 0;
}

/* A tmpfs that no mount table of the host shows; through its descriptor the host still reaches it.
 * Inodes are limited too, since their memory is the kernel's. */
int open_scratch(struct request *r)
{
	char bytes[32], inodes[32];
	if (!r->scratch_bytes)
		return 0;
	snprintf(bytes, sizeof bytes, "%llu", r->scratch_bytes);
	snprintf(inodes, sizeof inodes, "%llu", 1024 + r->scratch_bytes / TMPFS_INODE_BYTES);
	int fs = (int)syscall(SYS_fsopen, "tmpfs", FS_CLOEXEC);
	if (fs < 0 || syscall(SYS_fsconfig, fs, FS_SET_STRING, "size", bytes, 0) ||
	    syscall(SYS_fsconfig, fs, FS_SET_STRING, "nr_inodes", inodes, 0) ||
	    syscall(SYS_fsconfig, fs, FS_SET_STRING, "mode", "0700", 0) ||
	    syscall(SYS_fsconfig, fs, FS_CREATE, NULL, NULL, 0) ||
	    (r->scratch = (int)syscall(SYS_fsmount, fs, FSMOUNT_FLAGS_CLOEXEC, 0)) < 0)
		failed("make a tmpfs of %s bytes", bytes);
	if (fs >= 0)
		close(fs);
	return r->scratch < 0 ? -1 : 0;
}

/* ---------------------------------------------------------------- for each, in its child */

/* A private view of a layer in which its owner's ids are the sandbox's. */
static int attach_layer(const struct layer *layer, const char *at)
{
	int tree = (int)syscall(SYS_open_tree, AT_FDCWD, layer->path, TREE_CLONE | TREE_CLOEXEC);
	if (tree < 0)
		return failed("open layer %s", layer->path);
	if (layer->map >= 0) {
		struct attributes map = {.set = ATTR_IDMAP, .userns = (uint64_t)layer->map};
		if (syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH, &map, sizeof map))
			return failed("map the ids of %s (its file system must support id-mapped "
				      "mounts: ext4, xfs, btrfs, or tmpfs of kernel 6.3)",
				      layer->path);
	}
	if (syscall(SYS_move_mount, tree, "", AT_FDCWD, at, MOVE_FROM_FD))
		return failed("attach layer %s", layer->path);
	close(tree);
	return 0;
}

/* A volatile overlay cannot be mounted once writing to the file system below has failed, say since
 * the host's disk was full, until somebody has been told. */
static int forget_write_errors(const char *scratch)
{
	int fd = open(scratch, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	syncfs(fd);
	close(fd);
	errno = EIO;
	return 0;
}

static int mount_overlay(const struct request *r, const struct stack *stack, char kind,
			 const char *upper, const char *work, const char *at)
{
	char options[4096], point[32], room[96];
	const char *scratch = scratch_folder(r, room, sizeof room);
	size_t used = (size_t)snprintf(options, sizeof options, "lowerdir=");
	for (int i = 0; i < stack->count; i++) {
		snprintf(point, sizeof point, "mnt/%c%d", kind, i);
		if (attach_layer(&stack->at[i], point))
			return -1;
		used += (size_t)snprintf(options + used, sizeof options - used, "%s%s",
					 i ? ":" : "", point);
	}
	/* volatile: without it, every destroy would write out the whole file system below. */
	snprintf(options + used, sizeof options - used, ",upperdir=%s/%s,workdir=%s/%s,volatile,%s",
		 scratch, upper, scratch, work,
		 unprivileged ? "userxattr" : "redirect_dir=on,metacopy=off,index=off");
	unsigned long flags = weak(r, "nodev") ? 0 : MS_NODEV;
	if (mount("overlay", at, "overlay", flags, options) &&
	    !(errno == EIO && !forget_write_errors(scratch) &&
	      !mount("overlay", at, "overlay", flags, options)))
		return failed("mount an overlay on %s (%s)", at, options);
	return 0;
}

static int mount_dev(const struct request *r)
{
	unsigned long read_only = MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NOEXEC;
	char devices[32];
	int shm = (int)syscall(SYS_open_tree, AT_FDCWD, "dev/shm", TREE_CLONE | TREE_CLOEXEC);
	if (shm < 0)
		return failed("open /dev/shm");
	snprintf(devices, sizeof devices, "../dev/%d", r->devices);
	if (mount(devices, "dev", NULL, MS_BIND | (unprivileged ? MS_REC : 0), NULL) ||
	    (!weak(r, "dev") && mount(NULL, "dev", NULL, read_only, NULL)))
		return failed("mount /dev");
	if (syscall(SYS_move_mount, shm, "", AT_FDCWD, "dev/shm", MOVE_FROM_FD) ||
	    mount(NULL, "dev/shm", NULL, MS_REMOUNT | MS_BIND | MS_NOSUID | MS_NODEV, NULL))
		return failed("mount /dev/shm");
	close(shm);
	return 0;
}

/* To the kernel the sandboxes of an ordinary user are that user, whose keys it would name. */
static int hide_keys(void)
{
	if (unprivileged && mount("dev/null", "proc/keys", NULL, MS_BIND, NULL) && errno != ENOENT)
		return failed("hide /proc/keys");
	return 0;
}

static int mount_kernel(const struct request *r)
{
	char options[96];
	uint32_t tty = r->uids + (unprivileged ? 0 : 5);
	if (mount_dev(r))
		return -1;
	snprintf(options, sizeof options, "newinstance,ptmxmode=0666,mode=0620,gid=%u", tty);
	if (mount("devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, options))
		return failed("mount /dev/pts");
	return 0;
}

/* In the new root, by a process of the pid namespace that it shows. */
int mount_proc(void)
{
	if (mount("proc", "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL))
		return failed("mount /proc");
	return hide_keys();
}

/* All but /proc. Leaves the caller in the new root, which is not yet `/`. */
int mount_all(const struct request *r)
{
	if (mount_overlay(r, &r->root, 'l', "u", "w", "mnt/m"))
		return -1;
	if (r->usr.count && mount_overlay(r, &r->usr, 'k', "U", "W", "mnt/m/usr"))
		return -1;
	if (chdir("mnt/m"))
		return failed("enter the new root");
	return mount_kernel(r);
}

int pivot(const struct request *r)
{
	if (weak(r, "pivot"))
		return chroot(".") ? failed("change the root") : 0;
	if (syscall(SYS_pivot_root, ".", "."))
		return failed("make the new root the root");
	if ((!weak(r, "unmount") && umount2(".", MNT_DETACH)) || chdir("/"))
		return failed("leave the host's file system");
	return 0;
}
