/* SPDX-License-Identifier: GPL-2.0-only */
/* From a parsed packet to its flow, and to the fingerprint of that. */
#pragma once
#include "object.h"
#include "parse.h"

/* A packet as seen from the endpoint; ports in network order. */
struct flow {
	const u64 *local;
	const u64 *remote;
	u32 ifindex;
	u16 local_port;
	u16 remote_port;
	u8 protocol;
};

/*
 * The fingerprint identifies the flow: two flows with the same one are booked as one.
 * So collisions must not be predictable, and similar keys must not collide. Each part
 * of the key has a universal hash with its own secrets, and the hashes are summed: two
 * keys collide for at most one choice of secrets in 2^32. The products are independent,
 * so the CPU computes them in parallel.
 *
 *   - 32 bits times an odd 64-bit secret: a difference in bit b changes 64 - b bits of
 *     the product. Hence host order, where the bits that vary most are low; and no
 *     64 x 64 bits, where top bits of two words cancel, whatever the secrets.
 *   - a word of an IPv6 address by NH (RFC 4418 5.2): both halves plus secrets, modulo
 *     2^32, multiplied.
 */
#define NH(word, secret, lower) \
	(ADD_LOW_HALF(word, secret, lower) * ADD_HIGH_HALF((word) >> 32, secret, lower))

/* Random; those with odd numbers are odd. */
PARAMETER(secret_0);
PARAMETER(secret_1);
PARAMETER(secret_2);
PARAMETER(secret_3);
PARAMETER(secret_4);
PARAMETER(secret_5);
PARAMETER(secret_6);
PARAMETER(secret_7);

static __always_inline u64 fingerprint_of(const struct flow *flow, bool ipv4)
{
	u64 interface = (u64)flow->protocol << 32 | flow->ifindex;
	u64 ports = ntohl(flow->local_port | (u32)flow->remote_port << 16);
	u64 sum = ports * PARAMETER64(secret_5) + interface * PARAMETER64(secret_7), lower;

	asm("%0 = 0xffffffff ll" : "=r"(lower));
	if (ipv4)
		sum += (u64)ntohl(flow->local[1] >> 32) * PARAMETER64(secret_1) +
		       (u64)ntohl(flow->remote[1] >> 32) * PARAMETER64(secret_3);
	else
		sum += NH(flow->local[0], secret_0, lower) + NH(flow->local[1], secret_2, lower) +
		       NH(flow->remote[0], secret_4, lower) + NH(flow->remote[1], secret_6, lower);
	sum ^= sum >> 32;
	sum *= PARAMETER64(secret_1);
	sum ^= sum >> 29;
	return sum ? sum : 1; /* 0 is a free slot */
}

/* Fills protocol, addresses and ports of `flow`, seen from the endpoint. */
static __always_inline void turn(struct flow *flow, const struct packet *packet, u32 direction)
{
	bool from = direction == FROM_ENDPOINT;

	flow->protocol = packet->protocol;
	flow->local = from ? packet->source : packet->destination;
	flow->remote = from ? packet->destination : packet->source;
	flow->local_port = from ? packet->source_port : packet->destination_port;
	flow->remote_port = from ? packet->destination_port : packet->source_port;
}
