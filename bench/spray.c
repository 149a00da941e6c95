/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Sends bare IPv4 frames (TCP SYN, UDP or DNS questions) at a rate, each to another port and
 * address. PROTOCOL is 6, 17 or dns: then the port is 53, the question's id is n, and only the
 * first BATCH addresses are used.
 *
 * spray IFACE MAC PROTOCOL SOURCE DESTINATION ADDRESSES PORTS RATE SECONDS [MOST]
 *
 * Frame n goes to address DESTINATION + n % ADDRESSES, port 1 + n / ADDRESSES % PORTS.
 * Prints how many were sent.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define BATCH 64
#define FRAME 96
#define TCP 6
#define UDP 17
#define SOURCE_PORT 40000
#define DNS_ID (ETH_HLEN + 20 + 8)
#define QUESTION "\1\0\0\1\0\0\0\0\0\0\5flood\7example\0\0\1\0\1" /* behind the id */

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

static unsigned short checksum(const unsigned char *bytes, int length)
{
	unsigned int sum = 0;

	for (int i = 0; i < length; i += 2)
		sum += bytes[i] << 8 | bytes[i + 1];
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return htons(~sum & 0xffff);
}

static void put16(unsigned char *at, unsigned int value)
{
	at[0] = value >> 8;
	at[1] = value;
}

static int fill(unsigned char *frame, char **argv, unsigned long number)
{
	bool dns = !strcmp(argv[3], "dns");
	int protocol = dns ? UDP : atoi(argv[3]);
	int payload = dns ? 2 + sizeof(QUESTION) - 1 : 4;
	int length = 20 + (protocol == TCP ? 20 : 8 + payload);
	unsigned long addresses = atol(argv[6]), ports = atol(argv[7]);
	unsigned int source = inet_addr(argv[4]);
	unsigned int target = htonl(ntohl(inet_addr(argv[5])) + number % addresses);
	unsigned char *ip = frame + ETH_HLEN, *segment = ip + 20;
	unsigned short sum;

	memset(frame, 0, FRAME);
	sscanf(argv[2], "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", frame, frame + 1, frame + 2, frame + 3,
	       frame + 4, frame + 5);
	frame[6] = 2; /* locally administered */
	frame[11] = 1;
	put16(frame + 12, ETHERTYPE_IP);
	ip[0] = 0x45;
	put16(ip + 2, length);
	ip[8] = 64;
	ip[9] = protocol;
	memcpy(ip + 12, &source, 4);
	memcpy(ip + 16, &target, 4);
	sum = checksum(ip, 20);
	memcpy(ip + 10, &sum, 2);
	put16(segment, SOURCE_PORT);
	put16(segment + 2, 1 + number / addresses % ports);
	if (protocol == TCP) {
		segment[12] = 5 << 4;
		segment[13] = 2; /* SYN */
	} else {
		put16(segment + 4, 8 + payload);
	}
	if (dns) {
		put16(segment + 2, 53);
		put16(segment + 8, number);
		memcpy(segment + 10, QUESTION, sizeof(QUESTION) - 1);
	}
	return ETH_HLEN + length;
}

int main(int argc, char **argv)
{
	static unsigned char frames[BATCH][FRAME];
	struct mmsghdr messages[BATCH] = { 0 };
	struct iovec parts[BATCH] = { 0 };
	struct sockaddr_ll link = { .sll_family = AF_PACKET };
	int raw = socket(AF_PACKET, SOCK_RAW, 0);
	unsigned long sent = 0, most;
	double rate, until, started = now();
	bool dns;
	int yes = 1;

	if (argc < 10)
		return 2;
	dns = !strcmp(argv[3], "dns");
	if (dns) /* all that a sender may do to be fast */
		setsockopt(raw, SOL_PACKET, PACKET_QDISC_BYPASS, &yes, sizeof(yes));
	link.sll_ifindex = if_nametoindex(argv[1]);
	if (raw < 0 || bind(raw, (struct sockaddr *)&link, sizeof(link)))
		return 1;
	rate = atof(argv[8]);
	until = started + atof(argv[9]);
	most = argc > 10 ? atol(argv[10]) : ~0UL;
	while (now() < until && sent < most) {
		int batch = most - sent < BATCH ? most - sent : BATCH, done;
		double ahead;

		for (int i = 0; i < batch; i++) {
			parts[i].iov_base = frames[i];
			if (dns && parts[i].iov_len)
				put16(frames[i] + DNS_ID, sent + i);
			else
				parts[i].iov_len = fill(frames[i], argv, sent + i);
			messages[i].msg_hdr.msg_iov = &parts[i];
			messages[i].msg_hdr.msg_iovlen = 1;
		}
		done = sendmmsg(raw, messages, batch, 0);
		sent += done > 0 ? done : 0;
		ahead = started + sent / rate - now();
		if (done <= 0)
			ahead = 0.0001;
		if (ahead > 0) {
			struct timespec pause = { ahead, (ahead - (long)ahead) * 1e9 };

			nanosleep(&pause, NULL);
		}
	}
	printf("%lu\n", sent);
	return 0;
}
