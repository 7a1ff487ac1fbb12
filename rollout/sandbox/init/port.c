/* LISTEN and CONNECT: a socket of the sandbox's network, handed to the host as a descriptor. */
#define _GNU_SOURCE
#include "init.h"
#include "box.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#define BACKLOG 128

static struct sockaddr_in loopback(uint16_t port)
{
	return (struct sockaddr_in){ .sin_family = AF_INET,
				     .sin_port = htons(port),
				     .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
}

static int tcp_socket(void)
{
	return socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}

/* An OK frame and the descriptor with it. Nothing was sent before, so it goes at once. */
static void hand_over(struct conn *conn, int fd)
{
	char frame[WIRE_FRAME_HEAD] = { OUT_OK };
	struct iovec bytes = { .iov_base = frame, .iov_len = sizeof(frame) };
	union {
		char space[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = { 0 };
	struct msghdr message = { .msg_iov = &bytes,
				  .msg_iovlen = 1,
				  .msg_control = control.space,
				  .msg_controllen = sizeof(control.space) };
	struct cmsghdr *head = CMSG_FIRSTHDR(&message);

	head->cmsg_level = SOL_SOCKET;
	head->cmsg_type = SCM_RIGHTS;
	head->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(head), &fd, sizeof(fd));
	RETRY(sendmsg(conn->sock.fd, &message, MSG_NOSIGNAL));
	conn_finish(conn);
}

void port_listen(struct conn *conn, uint16_t port)
{
	struct sockaddr_in address = loopback(port);
	_cleanup_fd_ int fd = tcp_socket();
	int one = 1;

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) ||
	    bind(fd, (struct sockaddr *)&address, sizeof(address)) || listen(fd, BACKLOG)) {
		conn_error(conn, errno, "listen on port %u", port);
		return;
	}
	hand_over(conn, fd);
}

/* The host waits for the connection to stand: a full backlog is nothing that init may wait for. */
void port_connect(struct conn *conn, uint16_t port)
{
	struct sockaddr_in address = loopback(port);
	_cleanup_fd_ int fd = tcp_socket();

	if (fd < 0 || (connect(fd, (struct sockaddr *)&address, sizeof(address)) &&
		       errno != EINPROGRESS)) {
		conn_error(conn, errno, "connect to port %u", port);
		return;
	}
	hand_over(conn, fd);
}
