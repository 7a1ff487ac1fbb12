/* Scratch on btrfs: one image for all sandboxes of the launcher, a subvolume with a limit for each.
 *
 * The loop device clears itself with its last user, which is a mount in the launcher's own mount
 * namespace, and the image has lost its name by then: when the launcher and its sandboxes end,
 * however they do, the mount, the device and the file go by themselves. */
#define _GNU_SOURCE
#include "launch.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/btrfs.h>
#include <linux/loop.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#define FREE_LOOP_TRIES 64
#define BLOCK_BYTES 4096
/* Nothing here outlives the launcher, so nothing is written for the sake of a crash: no barriers,
 * no checksums. What is deleted goes back to the host's disk with the next commit. */
#define OPTIONS "nobarrier,nodatasum,discard,commit=5"
/* BTRFS_QUOTA_CTL_ENABLE_SIMPLE_QUOTA of newer headers; kernel 6.7. */
#define ENABLE_SIMPLE 4

static int devices = -1; /* the host's /dev, which mounts here no longer have */
static int volume = -1;

/* Without it there is no volume; make_volume then says so. */
void keep_devices(void)
{
	devices = open("/dev", O_PATH | O_DIRECTORY | O_CLOEXEC);
}

/* ---------------------------------------------------------------- the volume */

/* Somebody else may take the free device first. Direct, where the host's file system can, since
 * else the host would hold a second copy of all that is read and written. */
static int take_loop(int image)
{
	struct loop_config config = {.fd = (uint32_t)image, .block_size = BLOCK_BYTES};
	config.info.lo_flags = LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO;
	int control = openat(devices, "loop-control", O_RDWR | O_CLOEXEC);
	if (control < 0)
		return failed("open /dev/loop-control");
	int loop = -1, number;
	for (int tries = 0; loop < 0 && tries < FREE_LOOP_TRIES; tries++) {
		char name[32];
		if ((number = ioctl(control, LOOP_CTL_GET_FREE)) < 0)
			break;
		snprintf(name, sizeof name, "loop%d", number);
		if ((loop = openat(devices, name, O_RDWR | O_CLOEXEC)) < 0)
			break;
		if (!ioctl(loop, LOOP_CONFIGURE, &config))
			continue;
		int error = errno;
		close(loop);
		loop = -1;
		errno = error;
		if (error != EBUSY)
			break;
	}
	if (loop < 0)
		failed("set up a loop device");
	close(control);
	return loop;
}

static int mount_image(const char *image)
{
	char source[32];
	int file = open(image, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
	if (file < 0)
		return failed("open the image %s", image);
	int loop = take_loop(file);
	close(file);
	if (loop < 0)
		return -1;
	snprintf(source, sizeof source, "/proc/self/fd/%d", loop);
	int done = mount(source, "mnt/v", "btrfs", MS_NOATIME | MS_NOSUID | MS_NODEV, OPTIONS);
	if (done)
		failed("mount the image %s as btrfs", image);
	close(loop);
	return done;
}

/* Simple quotas charge an extent to whom wrote it, at no cost later. Classic ones, which older
 * kernels have, look up who shares it. */
static int enable_quota(void)
{
	struct btrfs_ioctl_quota_ctl_args simple = {.cmd = ENABLE_SIMPLE};
	struct btrfs_ioctl_quota_ctl_args classic = {.cmd = BTRFS_QUOTA_CTL_ENABLE};
	if (!ioctl(volume, BTRFS_IOC_QUOTA_CTL, &simple))
		return 0;
	return ioctl(volume, BTRFS_IOC_QUOTA_CTL, &classic) ? failed("enable quotas") : 0;
}

static void close_volume(void)
{
	umount2("mnt/v", MNT_DETACH);
	if (volume >= 0)
		close(volume);
	volume = -1;
}

static int open_volume(const char *image)
{
	errno = 0;
	if (mount_image(image))
		return -1;
	volume = open("mnt/v", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (volume < 0)
		failed("open the volume");
	if (volume < 0 || enable_quota()) {
		close_volume();
		return -1;
	}
	return 0;
}

/* For the maker of rooms: whatever is mounted there now. */
int find_volume(void)
{
	volume = open("mnt/v", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return volume < 0 ? failed("open the volume") : 0;
}

/* An open descriptor would keep a volume that is given up, and its image's space. */
void forget_volume(void)
{
	if (volume >= 0)
		close(volume);
	volume = -1;
}

/* One there was lives on as long as sandboxes stand on it. `-`: have none. */
void make_volume(const char *image)
{
	if (volume >= 0)
		close_volume();
	bool made = true;
	if (strcmp(image, "-")) {
		made = !open_volume(image);
		unlink(image);
	}
	printf("volume\t%d\t%s\n", volume, made ? "" : trouble);
}

/* ---------------------------------------------------------------- a sandbox's part of it */

static void name_argument(struct btrfs_ioctl_vol_args *args, const char *name)
{
	*args = (struct btrfs_ioctl_vol_args){0};
	snprintf(args->name, sizeof args->name, "%s", name);
}

/* In the child: where the file system is busy with itself, only this sandbox waits. */
int make_subvolume(const struct request *r)
{
	struct btrfs_ioctl_vol_args args;
	struct btrfs_ioctl_qgroup_limit_args limit = {
		.lim = {.flags = BTRFS_QGROUP_LIMIT_MAX_RFER, .max_rfer = r->subvolume_bytes},
	};
	errno = 0;
	if (volume < 0)
		return failed("there is no volume");
	name_argument(&args, r->id);
	if (ioctl(volume, BTRFS_IOC_SUBVOL_CREATE, &args))
		return failed("make a subvolume");
	int made = openat(volume, r->id, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (made < 0)
		return failed("open the subvolume");
	int done = fchmod(made, 0700);
	if (!done && r->subvolume_bytes)
		done = ioctl(made, BTRFS_IOC_QGROUP_LIMIT, &limit);
	if (done)
		failed("limit the subvolume to %llu bytes", r->subvolume_bytes);
	close(made);
	return done;
}

/* Fine if it is gone: it may have become a layer under another name. The kernel takes what was in
 * it apart behind our back. */
int remove_subvolume(int folder, const char *name)
{
	struct btrfs_ioctl_vol_args args;
	name_argument(&args, name);
	return ioctl(folder, BTRFS_IOC_SNAP_DESTROY, &args) && errno != ENOENT ? -1 : 0;
}
