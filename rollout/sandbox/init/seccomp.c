/* The system calls of a sandbox: an allow-list in the spirit of Docker's default profile.
 *
 * Known calls that are not for sandboxes get EPERM; unknown ones, and clone3 whose flags a filter
 * cannot see, get ENOSYS, so that programs fall back. ptrace and landlock are allowed: they reach
 * nothing outside. The filter is a binary search over ranges of numbers: the kernel runs it once
 * for each number when it is installed, and a list compared one by one would cost 0.3 ms. */
#define _GNU_SOURCE
#include "launch.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#define ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define ARCH AUDIT_ARCH_AARCH64
#else
#error "the sandbox's filter knows x86_64 and aarch64"
#endif

#define NUMBERS 512
#define FILTER_ROOM 2048
#define NEW_NAMESPACES 0x7e020000u /* NEWNS CGROUP UTS IPC USER PID NET */
#define NEW_TIME 0x80u

enum action { UNKNOWN, ALLOW, DENY, CLONE, UNSHARE, SOCKET, PERSONALITY, ACTIONS };

#define ALLOWED(name) [SYS_##name] = ALLOW,
#define DENIED(name) [SYS_##name] = DENY,

static const uint8_t actions[NUMBERS] = {
#include "syscalls.h"
};

static struct sock_filter filter[FILTER_ROOM];
static unsigned short used;
static uint16_t bodies[ACTIONS]; /* where each action's code starts */

static void emit(uint16_t code, uint32_t k, uint8_t yes, uint8_t no)
{
	if (used < FILTER_ROOM)
		filter[used] = (struct sock_filter){code, yes, no, k};
	used++;
}

static void load(uint32_t offset)
{
	emit(BPF_LD | BPF_W | BPF_ABS, offset, 0, 0);
}

static void load_argument(int n)
{
	load((uint32_t)offsetof(struct seccomp_data, args) + 8u * (uint32_t)n);
}

static void allow(void)
{
	emit(BPF_RET | BPF_K, SECCOMP_RET_ALLOW, 0, 0);
}

static void refuse(int error)
{
	emit(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (uint32_t)error, 0, 0);
}

static void allow_if_equal(uint32_t value)
{
	emit(BPF_JMP | BPF_JEQ | BPF_K, value, 0, 1);
	allow();
}

static void refuse_flags(uint32_t flags)
{
	load_argument(0);
	emit(BPF_JMP | BPF_JSET | BPF_K, flags, 0, 1);
	refuse(EPERM);
	allow();
}

/* Unix, IPv4 and IPv6; of netlink what getifaddrs and ss ask for. Not KOBJECT_UEVENT: networks that
 * belong to the host's user namespace, as these do, hear of all that happens to its devices. */
static void check_socket(void)
{
	load_argument(0);
	allow_if_equal(AF_UNIX);
	allow_if_equal(AF_INET);
	allow_if_equal(AF_INET6);
	emit(BPF_JMP | BPF_JEQ | BPF_K, AF_NETLINK, 1, 0);
	refuse(EAFNOSUPPORT);
	load_argument(2);
	allow_if_equal(0);  /* ROUTE */
	allow_if_equal(4);  /* SOCK_DIAG */
	allow_if_equal(16); /* GENERIC */
	refuse(EPROTONOSUPPORT);
}

/* As Docker, and ADDR_NO_RANDOMIZE, which debuggers set. */
static void check_personality(void)
{
	load_argument(0);
	allow_if_equal(0x0);
	allow_if_equal(0x0008);
	allow_if_equal(0x20000);
	allow_if_equal(0x20008);
	allow_if_equal(0x40000);
	allow_if_equal(0xffffffff);
	refuse(EPERM);
}

static void start_body(enum action action)
{
	bodies[action] = used;
}

static void emit_bodies(void)
{
	start_body(UNKNOWN), refuse(ENOSYS);
	start_body(ALLOW), allow();
	start_body(DENY), refuse(EPERM);
	start_body(CLONE), refuse_flags(NEW_NAMESPACES);
	start_body(UNSHARE), refuse_flags(NEW_NAMESPACES | NEW_TIME);
	start_body(SOCKET), check_socket();
	start_body(PERSONALITY), check_personality();
}

/* Binary search over the ranges [first, last); jumps are 32 bit wide, so no size is too big. */
static void emit_search(const int *starts, int first, int last, uint16_t *jumps)
{
	if (last - first == 1) {
		jumps[first] = used;
		emit(BPF_JMP | BPF_JA, 0, 0, 0);
		return;
	}
	int middle = (first + last) / 2;
	emit(BPF_JMP | BPF_JGE | BPF_K, (uint32_t)starts[middle], 0, 1);
	unsigned short right = used;
	emit(BPF_JMP | BPF_JA, 0, 0, 0);
	emit_search(starts, first, middle, jumps);
	filter[right].k = used - right - 1u;
	emit_search(starts, middle, last, jumps);
}

int build_filter(void)
{
	static int starts[NUMBERS + 1];
	static uint16_t jumps[NUMBERS + 1];
	int ranges = 0;
	for (int number = 0; number < NUMBERS; number++)
		if (number == 0 || actions[number] != actions[number - 1])
			starts[ranges++] = number;
	if (actions[NUMBERS - 1] != UNKNOWN)
		starts[ranges++] = NUMBERS; /* past the table nothing is known, x32 included */
	load(offsetof(struct seccomp_data, arch));
	emit(BPF_JMP | BPF_JEQ | BPF_K, ARCH, 1, 0);
	refuse(ENOSYS);
	load(offsetof(struct seccomp_data, nr));
	emit_search(starts, 0, ranges, jumps);
	emit_bodies();
	errno = 0;
	if (used > FILTER_ROOM)
		return failed("the seccomp filter needs %d instructions", used);
	for (int i = 0; i < ranges; i++) {
		enum action action = starts[i] < NUMBERS ? actions[starts[i]] : UNKNOWN;
		filter[jumps[i]].k = bodies[action] - jumps[i] - 1u;
	}
	return 0;
}

int install_filter(void)
{
	struct sock_fprog program = {.len = used, .filter = filter};
	if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0))
		return failed("install the seccomp filter");
	return 0;
}
