/* What a process of the sandbox may do at most: rlimits, capabilities, no_new_privs, seccomp. */
#define _GNU_SOURCE
#include "launch.h"

#include <errno.h>
#include <linux/capability.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CAP(number) (1ull << (number))

static const uint64_t kept = CAP(CAP_CHOWN) | CAP(CAP_DAC_OVERRIDE) | CAP(CAP_FOWNER) |
			     CAP(CAP_FSETID) | CAP(CAP_SETUID) | CAP(CAP_SETGID) |
			     CAP(CAP_SETFCAP) | CAP(CAP_KILL) | CAP(CAP_NET_BIND_SERVICE) |
			     CAP(CAP_SYS_CHROOT);

int set_limits(const struct request *r)
{
	struct rlimit files, none = {0, 0}, data = {r->data_bytes, r->data_bytes},
		      processes = {r->processes, r->processes};
	if (getrlimit(RLIMIT_NOFILE, &files))
		return failed("read RLIMIT_NOFILE");
	if (files.rlim_max > 65536)
		files.rlim_max = 65536;
	files.rlim_cur = files.rlim_max < 8192 ? files.rlim_max : 8192;
	if (setrlimit(RLIMIT_NOFILE, &files) || setrlimit(RLIMIT_CORE, &none))
		return failed("set limits of a process");
	if (r->data_bytes && setrlimit(RLIMIT_DATA, &data))
		return failed("limit the data of a process");
	if (r->processes && setrlimit(RLIMIT_NPROC, &processes))
		return failed("limit the number of processes");
	return 0;
}

static int cut_bounding_set(void)
{
	for (unsigned long cap = 0; cap < 64; cap++) {
		/* Dropping needs a capability itself, which a container that lacks these may lack. */
		int there = prctl(PR_CAPBSET_READ, cap, 0, 0, 0);
		if (there < 0) /* past the last one */
			return 0;
		if (there && !(kept & CAP(cap)) && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0))
			return failed("drop capability %lu", cap);
	}
	return 0;
}

static int cut_capabilities(void)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2] = {
		{.effective = (uint32_t)kept, .permitted = (uint32_t)kept},
		{.effective = (uint32_t)(kept >> 32), .permitted = (uint32_t)(kept >> 32)},
	};
	return syscall(SYS_capset, &header, data) ? failed("cut capabilities") : 0;
}

/* Sockets without a path are the network's: in the host's, its own daemons listen on some. Kernels
 * before 6.12 cannot hold them back. */
static int leave_abstract_sockets(void)
{
	struct {
		uint64_t files, ports, scoped;
	} rules = {.scoped = 1};
	int set = (int)syscall(SYS_landlock_create_ruleset, &rules, sizeof rules, 0);
	if (set < 0)
		return errno == ENOSYS || errno == EOPNOTSUPP || errno == E2BIG || errno == EINVAL
			       ? 0
			       : failed("make a landlock ruleset");
	if (syscall(SYS_landlock_restrict_self, set, 0))
		return failed("leave the host's abstract sockets");
	close(set);
	return 0;
}

/* The filter comes before the cut: without no_new_privs, installing one needs CAP_SYS_ADMIN. */
int drop_privileges(const struct request *r)
{
	if (!r->sudo && !weak(r, "no_new_privs") && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return failed("set no_new_privs");
	if (r->host_network && leave_abstract_sockets())
		return -1;
	if (!weak(r, "bounding") && !weak(r, "caps") && cut_bounding_set())
		return -1;
	if (!weak(r, "seccomp") && install_filter())
		return -1;
	return !weak(r, "caps") && cut_capabilities() ? -1 : 0;
}

/* Last, since any change of credentials clears the death signal. The launcher may have ended just
 * before; its pid says nothing here, for this process lives in another pid namespace. */
int die_with(int launcher_pidfd)
{
	struct pollfd launcher = {.fd = launcher_pidfd, .events = POLLIN};
	if (prctl(PR_SET_PDEATHSIG, SIGKILL))
		return failed("set the death signal");
	errno = 0;
	return poll(&launcher, 1, 0) ? failed("the launcher has ended") : 0;
}
