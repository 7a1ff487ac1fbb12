/* The sandbox's own network: nothing but a loopback on which every port is free to take. */
#define _GNU_SOURCE
#include "launch.h"

#include <net/if.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

int raise_loopback(void)
{
	struct ifreq request = {.ifr_flags = IFF_UP | IFF_RUNNING};
	strcpy(request.ifr_name, "lo");
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &request))
		return failed("bring up the loopback");
	close(fd);
	return 0;
}

/* Relative to the new root, while the caller still is root of the host: the network belongs to the
 * host's user namespace, so that nothing inside can change it. */
int open_ports(void)
{
	if (write_text("proc/sys/net/ipv4/ip_unprivileged_port_start", "0"))
		return -1;
	return write_text("proc/sys/net/ipv4/ping_group_range", "0 2147483647");
}
