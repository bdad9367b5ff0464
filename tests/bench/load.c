/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Traffic for the benchmarks: one program, a mode a measurement, one number on standard output.
 *
 * Python would be the bottleneck here; nothing else of the benchmarks is in C. Ports are fixed:
 * 5001 streams, 5002 datagrams, 5003 connections, 5004 round trips.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/types.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { STREAMS = 5001, DATAGRAMS, CONNECTIONS, ROUNDS };
enum { CHUNK = 1 << 17, BATCH = 256, IN_FLIGHT = 64, SAMPLES = 20000 };

static double seconds_to_run;
static char payload[CHUNK];

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static int must(int result, const char *what)
{
	if (result < 0) {
		perror(what);
		exit(1);
	}
	return result;
}

static struct sockaddr_storage address(const char *host, int port, socklen_t *length)
{
	struct sockaddr_storage storage = {0};
	struct sockaddr_in6 *six = (void *)&storage;
	struct sockaddr_in *four = (void *)&storage;
	if (inet_pton(AF_INET6, host, &six->sin6_addr) == 1) {
		six->sin6_family = AF_INET6;
		six->sin6_port = htons(port);
		*length = sizeof *six;
	} else if (inet_pton(AF_INET, host, &four->sin_addr) == 1) {
		four->sin_family = AF_INET;
		four->sin_port = htons(port);
		*length = sizeof *four;
	} else {
		fprintf(stderr, "%s is not an address\n", host);
		exit(1);
	}
	return storage;
}

static int dial(const char *host, int port, int type)
{
	socklen_t length;
	struct sockaddr_storage to = address(host, port, &length);
	int fd = must(socket(to.ss_family, type, 0), "socket");
	must(connect(fd, (void *)&to, length), "connect");
	return fd;
}

static int serve(int port, int type)
{
	struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
	int fd = must(socket(AF_INET6, type, 0), "socket"), off = 0, on = 1;
	setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	must(bind(fd, (void *)&any, sizeof any), "bind");
	if (type == SOCK_STREAM)
		must(listen(fd, 4096), "listen");
	return fd;
}

/* Streams: the client says by one byte who sends; whoever receives counts. */

struct stream {
	pthread_t thread;
	int fd;
	unsigned long long received;
};

static void pour(int fd)
{
	while (send(fd, payload, CHUNK, MSG_NOSIGNAL) > 0)
		;
}

static unsigned long long drain(int fd, double until)
{
	static __thread char buffer[CHUNK];
	unsigned long long total = 0;
	ssize_t got;
	while ((got = recv(fd, buffer, CHUNK, 0)) > 0) {
		total += got;
		if (until && now() > until)
			break;
	}
	return total;
}

static void *stream_server_one(void *argument)
{
	int fd = (long)argument;
	char who = 0;
	if (recv(fd, &who, 1, 0) == 1 && who == 'd') {
		pour(fd);
	} else {
		unsigned long long total = drain(fd, 0);
		send(fd, &total, sizeof total, MSG_NOSIGNAL);
	}
	close(fd);
	return NULL;
}

static void *stream_server(void *unused)
{
	int listener = serve(STREAMS, SOCK_STREAM);
	for (;;) {
		pthread_t thread;
		long fd = must(accept(listener, NULL, NULL), "accept");
		pthread_create(&thread, NULL, stream_server_one, (void *)fd);
		pthread_detach(thread);
	}
	return unused;
}

static void *stream_down(void *argument)
{
	struct stream *one = argument;
	one->received = drain(one->fd, now() + seconds_to_run);
	return NULL;
}

static void *stream_up(void *argument)
{
	struct stream *one = argument;
	double end = now() + seconds_to_run;
	while (now() < end && send(one->fd, payload, CHUNK, MSG_NOSIGNAL) > 0)
		;
	shutdown(one->fd, SHUT_WR);
	recv(one->fd, &one->received, sizeof one->received, MSG_WAITALL);
	return NULL;
}

static void streams(const char *host, const char *direction, int count)
{
	struct stream all[64] = {0};
	unsigned long long total = 0;
	for (int i = 0; i < count; i++) {
		all[i].fd = dial(host, STREAMS, SOCK_STREAM);
		must(send(all[i].fd, direction, 1, 0), "send");
	}
	double start = now();
	for (int i = 0; i < count; i++)
		pthread_create(&all[i].thread, NULL, *direction == 'd' ? stream_down : stream_up,
			       &all[i]);
	for (int i = 0; i < count; i++) {
		pthread_join(all[i].thread, NULL);
		total += all[i].received;
	}
	printf("%.4f\n", total * 8 / (now() - start) / 1e9);
}

/* Datagrams of 64 bytes of UDP payload, as fast as the sender can; the receiver counts. */

static void flood(int fd, double until)
{
	struct iovec io = {payload, 64};
	struct mmsghdr messages[BATCH] = {0};
	for (int i = 0; i < BATCH; i++)
		messages[i].msg_hdr = (struct msghdr){.msg_iov = &io, .msg_iovlen = 1};
	while (now() < until)
		sendmmsg(fd, messages, BATCH, 0);
}

static unsigned long long count(int fd, double until)
{
	static __thread char bytes[BATCH][128];
	struct iovec io[BATCH];
	struct mmsghdr messages[BATCH] = {0};
	unsigned long long total = 0;
	struct timeval patience = {.tv_usec = 200000};
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
	for (int i = 0; i < BATCH; i++) {
		io[i] = (struct iovec){bytes[i], sizeof bytes[i]};
		messages[i].msg_hdr = (struct msghdr){.msg_iov = &io[i], .msg_iovlen = 1};
	}
	while (now() < until) {
		int got = recvmmsg(fd, messages, BATCH, MSG_WAITFORONE, NULL);
		total += got > 0 ? got : 0;
	}
	return total;
}

/* A request names direction and seconds; for "up" the answer is how many came. */
struct request {
	char direction;
	double seconds;
};

static void *datagram_server(void *unused)
{
	int listener = serve(DATAGRAMS, SOCK_DGRAM);
	for (;;) {
		struct sockaddr_in6 peer;
		socklen_t length = sizeof peer;
		struct request request;
		ssize_t got = recvfrom(listener, &request, sizeof request, MSG_TRUNC, (void *)&peer,
				       &length);
		if (got != sizeof request)
			continue; /* what was still under way of an earlier flood */
		must(connect(listener, (void *)&peer, length), "connect");
		if (request.direction == 'd') {
			flood(listener, now() + request.seconds);
		} else {
			unsigned long long total = count(listener, now() + request.seconds + 0.2);
			for (int i = 0; i < 5; i++)
				send(listener, &total, sizeof total, 0);
		}
		struct sockaddr none = {.sa_family = AF_UNSPEC};
		connect(listener, &none, sizeof none);
	}
	return unused;
}

static void datagrams(const char *host, const char *direction)
{
	int fd = dial(host, DATAGRAMS, SOCK_DGRAM);
	struct request request = {*direction, seconds_to_run};
	unsigned long long total = 0;
	must(send(fd, &request, sizeof request, 0), "send");
	if (*direction == 'd') {
		total = count(fd, now() + seconds_to_run);
	} else {
		struct timeval patience = {.tv_sec = 3};
		usleep(20000);
		flood(fd, now() + seconds_to_run);
		setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
		must(recv(fd, &total, sizeof total, 0), "no answer from the datagram server");
	}
	printf("%.0f\n", total / seconds_to_run);
}

/* Connections: opened, and reset by the client once the server has answered. Each from another
 * of its addresses in turn, so that no source port comes round while it is still remembered. */

static void *connection_server(void *unused)
{
	int listener = serve(CONNECTIONS, SOCK_STREAM);
	for (;;) {
		int fd = accept(listener, NULL, NULL);
		if (fd >= 0)
			close(fd);
	}
	return unused;
}

static int open_one(int poll, const struct sockaddr_storage *to, socklen_t length,
		    const char *const *sources, int source_count)
{
	static unsigned next;
	struct linger hard = {1, 0};
	struct epoll_event event = {.events = EPOLLOUT};
	int on = 1, fd = must(socket(to->ss_family, SOCK_STREAM | SOCK_NONBLOCK, 0), "socket");
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
	setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
	if (source_count) {
		socklen_t size;
		struct sockaddr_storage from = address(sources[next++ % source_count], 0, &size);
		must(bind(fd, (void *)&from, size), "bind");
	}
	if (connect(fd, (void *)to, length) < 0 && errno != EINPROGRESS) {
		close(fd);
		return -1;
	}
	event.data.fd = fd;
	epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event);
	return fd;
}

static void connections(const char *host, const char *const *sources, int source_count)
{
	socklen_t length;
	struct sockaddr_storage to = address(host, CONNECTIONS, &length);
	struct epoll_event events[IN_FLIGHT];
	int poll = epoll_create1(0), flying = 0;
	unsigned long long opened = 0, failed = 0;
	double start = now(), end = start + seconds_to_run;
	while (now() < end) {
		while (flying < IN_FLIGHT && open_one(poll, &to, length, sources, source_count) >= 0)
			flying++;
		int got = epoll_wait(poll, events, IN_FLIGHT, 100);
		for (int i = 0; i < got; i++) {
			int error = 0;
			socklen_t size = sizeof error;
			getsockopt(events[i].data.fd, SOL_SOCKET, SO_ERROR, &error, &size);
			error || events[i].events & (EPOLLERR | EPOLLHUP) ? failed++ : opened++;
			close(events[i].data.fd);
			flying--;
		}
	}
	if (failed)
		fprintf(stderr, "%llu connections failed\n", failed);
	printf("%.0f\n", opened / (now() - start));
}

/* Round trips of one byte over UDP: the median and the 99th percentile, in microseconds. */

static void *round_server(void *unused)
{
	int fd = serve(ROUNDS, SOCK_DGRAM);
	char byte;
	for (;;) {
		struct sockaddr_in6 peer;
		socklen_t length = sizeof peer;
		if (recvfrom(fd, &byte, 1, 0, (void *)&peer, &length) == 1)
			sendto(fd, &byte, 1, 0, (void *)&peer, length);
	}
	return unused;
}

static int ascending(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static void rounds(const char *host)
{
	static double took[SAMPLES];
	int fd = dial(host, ROUNDS, SOCK_DGRAM), done = 0;
	struct timeval patience = {.tv_sec = 1};
	char byte = 0;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
	while (done < SAMPLES) {
		double start = now();
		must(send(fd, &byte, 1, 0), "send");
		must(recv(fd, &byte, 1, 0), "no answer from the round trip server");
		took[done++] = (now() - start) * 1e6;
	}
	qsort(took, SAMPLES, sizeof *took, ascending);
	printf("%.2f %.2f\n", took[SAMPLES / 2], took[SAMPLES * 99 / 100]);
}

/* Many UDP flows from one packet socket: FLOWS sources in turn, in an order no cache likes. */

struct frame {
	unsigned char to[6], from[6];
	__be16 type;
	struct {
		__be32 version;
		__be16 length;
		unsigned char next, hops;
		struct in6_addr source, destination;
	} ip;
	struct {
		__be16 source, destination, length, sum;
	} udp;
	char data[64];
} __attribute__((packed));

#define STRIDE 7919 /* prime, so each round visits every flow once */

static __be16 udp_sum(const struct frame *frame)
{
	unsigned sum = htons(IPPROTO_UDP) + frame->ip.length;
	const unsigned char *bytes = (const void *)&frame->ip.source;
	for (unsigned i = 0; i < sizeof *frame - offsetof(struct frame, ip.source); i += 2) {
		__be16 word;
		memcpy(&word, bytes + i, 2);
		sum += word;
	}
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return ~sum ?: 0xffff;
}

static void spray(const char *device, const char *mac, const char *first_source,
		  const char *host, unsigned flows, const char *limit)
{
	struct sockaddr_ll link = {.sll_family = AF_PACKET};
	struct frame frame[BATCH] = {0}, proto = {.type = htons(0x86dd)};
	struct iovec io[BATCH];
	struct mmsghdr messages[BATCH] = {0};
	unsigned long long sent = 0, most = strtoull(limit, NULL, 10);
	unsigned flow = 0;
	int fd = must(socket(AF_PACKET, SOCK_RAW, 0), "packet socket");
	link.sll_ifindex = if_nametoindex(device);
	must(bind(fd, (void *)&link, sizeof link), "bind");
	sscanf(mac, "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", &proto.to[0], &proto.to[1], &proto.to[2],
	       &proto.to[3], &proto.to[4], &proto.to[5]);
	proto.ip.version = htonl(6u << 28);
	proto.ip.length = proto.udp.length = htons(sizeof proto.udp + sizeof proto.data);
	proto.ip.next = IPPROTO_UDP;
	proto.ip.hops = 64;
	inet_pton(AF_INET6, first_source, &proto.ip.source);
	inet_pton(AF_INET6, host, &proto.ip.destination);
	proto.udp.destination = htons(9);
	for (int i = 0; i < BATCH; i++) {
		io[i] = (struct iovec){&frame[i], sizeof frame[i]};
		messages[i].msg_hdr = (struct msghdr){.msg_iov = &io[i], .msg_iovlen = 1};
	}
	double start = now(), end = start + seconds_to_run;
	while (now() < end && (!most || sent < most)) {
		for (int i = 0; i < BATCH; i++) {
			frame[i] = proto;
			flow = (flow + STRIDE) % flows;
			frame[i].ip.source.s6_addr32[3] = htonl(0x10000 + flow / 32768);
			frame[i].udp.source = htons(1024 + flow % 32768);
			frame[i].udp.sum = 0;
			frame[i].udp.sum = udp_sum(&frame[i]);
		}
		int got = sendmmsg(fd, messages, BATCH, 0);
		sent += got > 0 ? got : 0;
	}
	printf("%llu %.3f\n", sent, now() - start);
}

static int usage(void)
{
	fputs("load server | streams HOST SECONDS u|d COUNT | datagrams HOST SECONDS u|d |\n"
	      "     connections HOST SECONDS [SOURCE...] | rounds HOST |\n"
	      "     spray DEVICE MAC SOURCE HOST SECONDS FLOWS PACKETS (0: no limit)\n",
	      stderr);
	return 2;
}

int main(int count_, char **words)
{
	const char *mode = count_ > 1 ? words[1] : "";
	signal(SIGPIPE, SIG_IGN);
	if (count_ > 3)
		seconds_to_run = atof(words[3]);
	if (!strcmp(mode, "server")) {
		pthread_t thread;
		pthread_create(&thread, NULL, stream_server, NULL);
		pthread_create(&thread, NULL, datagram_server, NULL);
		pthread_create(&thread, NULL, connection_server, NULL);
		round_server(NULL);
	} else if (!strcmp(mode, "streams") && count_ == 6) {
		streams(words[2], words[4], atoi(words[5]));
	} else if (!strcmp(mode, "datagrams") && count_ == 5) {
		datagrams(words[2], words[4]);
	} else if (!strcmp(mode, "connections") && count_ >= 4) {
		connections(words[2], (const char *const *)words + 4, count_ - 4);
	} else if (!strcmp(mode, "rounds") && count_ == 3) {
		rounds(words[2]);
	} else if (!strcmp(mode, "spray") && count_ == 9) {
		seconds_to_run = atof(words[6]);
		spray(words[2], words[3], words[4], words[5], atoi(words[7]), words[8]);
	} else {
		return usage();
	}
	return 0;
}
