/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copies DNS messages, and the beginnings of TLS connections, to a ring buffer.
 *
 * Off the common path: the counting programs recognise such packets and jump to an optional
 * program (a tail call), which parses the packet again. Where a kernel refuses these
 * programs (before 5.8 it has no ring buffers) the jump finds none, and packets are
 * counted as ever.
 *
 * Each interface has a bound of its own, so an endpoint that floods loses its own messages.
 * Pieces stay in the ring buffer until the agent has written its checkpoint.
 */
#pragma once
#include "flow.h"
#include "object.h"
#include "parse.h"
#include "sockets.h"

#define SEEN_PLAIN (1ULL << SEEN_PLAIN_BIT)
#define HELLO_PACKETS 16 /* within so many of a row, in an epoch, a ClientHello may come */
#define DNS_PORT 53
#define CAPTURE_DNS 1
#define CAPTURE_HELLO 2
#define PIECES 4 /* of one packet at most */

struct piece_buffer {
	struct piece piece;
	u8 data[PIECE_SIZE];
};

PARAMETER(dns_port_1); /* in network order; DNS_PORT where there are no others */
PARAMETER(dns_port_2);
PARAMETER(bound_entries);

MAP(captures, BPF_MAP_TYPE_PROG_ARRAY, u32, u32, CAPTURES, 0);
MAP(bounds, BPF_MAP_TYPE_HASH, u32, struct bound, SET_BY(bound_entries), BPF_F_NO_PREALLOC);
MAP(piece_buffers, BPF_MAP_TYPE_PERCPU_ARRAY, u32, struct piece_buffer, 1, 0);
RING_BUFFER(messages, RING_BYTES);

/* Whether the peer's port is one of DNS. */
static __always_inline bool is_dns(const struct packet *packet, const u32 direction)
{
	u16 port = direction == FROM_ENDPOINT ? packet->destination_port : packet->source_port;

	return port == htons(DNS_PORT) || port == PARAMETER32(dns_port_1) ||
	       port == PARAMETER32(dns_port_2);
}

/* Where the packet ends in the frame, which may be longer: Ethernet pads it. */
static __always_inline u32 end_of_packet(struct __sk_buff *skb, const struct packet *packet)
{
	u32 whole = SKB_FIELD(skb, len), end = whole;
	__be16 length = 0;

	if (packet->ipv4) {
		bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct iphdr, tot_len), &length,
				   sizeof(length));
		if (length)
			end = ETH_HLEN + ntohs(length);
	} else {
		bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct ipv6hdr, payload_len), &length,
				   sizeof(length));
		if (length)
			end = ETH_HLEN + sizeof(struct ipv6hdr) + ntohs(length);
	}
	return end < whole ? end : whole;
}

/* Where TCP's data begin in a frame of the common kind; 0: there are none. */
static __always_inline u32 data_of(struct __sk_buff *skb, const struct packet *packet, u32 *end)
{
	u32 offset = ETH_HLEN + (packet->ipv4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr));
	u8 words;

	if (bpf_skb_load_bytes(skb, offset + TCP_FLAGS_OFFSET - 1, &words, sizeof(words)))
		return 0;
	offset += (words >> 4) * 4;
	*end = end_of_packet(skb, packet);
	return offset < *end ? offset : 0;
}

/*
 * Whether a packet from the endpoint begins or continues a ClientHello, which is the first
 * that a client sends; `plain` becomes whether none can follow.
 */
static __always_inline bool is_hello(struct __sk_buff *skb, const struct packet *packet,
				     struct hot *slot, bool *plain)
{
	u32 end = 0, data = data_of(skb, packet, &end);
	u8 head[6]; /* of the record, RFC 8446 5.1, and of the handshake message */

	*plain = slot->traffic[FROM_ENDPOINT] >> PACKET_SHIFT > HELLO_PACKETS;
	if (!data)
		return false;
	*plain = true;
	if (slot->seen & 1ULL << SEEN_HELLO_BIT)
		return true;
	if (bpf_skb_load_bytes(skb, data, head, sizeof(head)))
		return false;
	if (head[0] != 0x16 || head[1] != 3 || head[5] != 1)
		return false;
	if (data + 5 + (head[3] << 8 | head[4]) > end) {
		__sync_fetch_and_or(&slot->seen, 1ULL << SEEN_HELLO_BIT);
		*plain = false;
	}
	return true;
}

/*
 * Called for packets of rows that are not known to be plain: notes if they are, or goes on to
 * the program that copies the packet. Returns if there is none.
 */
static __always_inline void capture(struct __sk_buff *skb, const struct packet *packet,
				    struct hot *slot, const u32 direction, const bool uplink)
{
	u32 index = direction * 2 + uplink;
	bool plain = true, copied = false;

	if (is_dns(packet, direction)) {
		plain = false;
		copied = true;
	} else if (direction == FROM_ENDPOINT && packet->protocol == IPPROTO_TCP) {
		copied = is_hello(skb, packet, slot, &plain);
		index += 4;
	}
	if (plain)
		__sync_fetch_and_or(&slot->seen, SEEN_PLAIN << direction * SEEN_SHIFT);
	if (copied)
		((long (*)(void *, void *, u32))BPF_FUNC_tail_call)(skb, MAP_ADDRESS(captures),
								    index);
}

/* Whether an interface may copy a piece of this size; counts it as lost otherwise. */
static __always_inline bool may_copy(u32 ifindex, u64 now_ns, u32 size, u64 in_use)
{
	u64 filled_ns, limit_ns = BOUND_BURST_NS;
	struct bound *bound = lookup(bounds, &ifindex);

	if (!bound) { /* not attached by the agent: the bound of unattributed interfaces */
		ifindex = 0;
		bound = lookup(bounds, &ifindex);
	}
	if (!bound)
		return false;
	filled_ns = *(volatile u64 *)&bound->filled_ns;
	if (filled_ns < now_ns)
		filled_ns = now_ns;
	if (in_use > RING_BYTES / 2)
		limit_ns = BOUND_LITTLE_NS;
	if (filled_ns - now_ns > limit_ns) {
		__sync_fetch_and_add(&bound->lost, 1);
		return false;
	}
	bound->filled_ns = filled_ns + BOUND_NS * (1 + size / BOUND_BYTES);
	return true;
}

static __always_inline void note_lost(u32 ifindex)
{
	struct bound *bound = lookup(bounds, &ifindex);

	if (bound)
		__sync_fetch_and_add(&bound->lost, 1);
}

static __always_inline void copy_pieces(struct __sk_buff *skb, struct piece_buffer *buffer,
					u32 offset, u32 end)
{
	void *ring = MAP_ADDRESS(messages);
	u8 facts = buffer->piece.facts;

#pragma clang loop unroll(disable)
	for (int i = 0; i < PIECES; i++) {
		u32 size = end - offset;
		u64 in_use, length;

		if (offset >= end)
			break;
		buffer->piece.facts = facts;
		if (size > PIECE_SIZE) {
			size = PIECE_SIZE;
			buffer->piece.facts |= PIECE_CUT;
		}
		in_use = ((u64(*)(void *, u64))BPF_FUNC_ringbuf_query)(ring, BPF_RB_AVAIL_DATA);
		if (!may_copy(buffer->piece.ifindex, buffer->piece.at_ns, size, in_use))
			break;
		buffer->piece.size = size;
		/* the same number, 1 to PIECE_SIZE, in a form that the verifier sees */
		length = size - 1;
		asm volatile("%0 &= %1" : "+r"(length) : "i"(PIECE_SIZE - 1));
		length += 1;
		if (bpf_skb_load_bytes(skb, offset, buffer->data, length))
			break;
		if (((long (*)(void *, void *, u64, u64))BPF_FUNC_ringbuf_output)(
			    ring, buffer, sizeof(buffer->piece) + length, BPF_RB_NO_WAKEUP)) {
			note_lost(buffer->piece.ifindex);
			break;
		}
		offset += size;
		buffer->piece.sequence += size;
	}
}

/*
 * Copies the data of a packet. On an uplink only what the host's own sockets send and
 * receive: what is forwarded belongs to others, who are watched elsewhere.
 */
static __always_inline int copy_packet(struct __sk_buff *skb, const u32 kind, const u32 direction,
				       const bool uplink)
{
	u32 zero = 0, offset, end;
	struct packet packet = {};
	struct rest rest = {};
	struct piece_buffer *buffer;
	struct piece *piece;
	__be32 sequence = 0;
	u8 words = 0;

	if (!parse_plain(skb, &packet)) {
		offset = ETH_HLEN + (packet.ipv4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr));
		end = end_of_packet(skb, &packet);
	} else {
		packet = (struct packet){};
		if (parse_any(skb, &packet, &rest, true) || rest.place > FIRST_FRAGMENT)
			return TC_ACT_UNSPEC;
		offset = rest.offset;
		end = offset + rest.size;
		if (end > SKB_FIELD(skb, len))
			end = SKB_FIELD(skb, len);
	}
	if (uplink && direction == FROM_ENDPOINT && !skb->sk)
		return TC_ACT_UNSPEC;
	if (uplink && direction == TO_ENDPOINT && !is_for_socket(skb, &packet))
		return TC_ACT_UNSPEC;
	buffer = lookup(piece_buffers, &zero);
	if (!buffer)
		return TC_ACT_UNSPEC;
	piece = &buffer->piece;
	if (packet.protocol == IPPROTO_TCP) {
		if (bpf_skb_load_bytes(skb, offset + 4, &sequence, sizeof(sequence)) ||
		    bpf_skb_load_bytes(skb, offset + TCP_FLAGS_OFFSET - 1, &words, sizeof(words)))
			return TC_ACT_UNSPEC;
		offset += (words >> 4) * 4;
	} else if (packet.protocol == IPPROTO_UDP) {
		offset += sizeof(struct udphdr);
	} else {
		return TC_ACT_UNSPEC;
	}
	piece->at_ns = bpf_ktime_get_ns();
	piece->tick_ns = bpf_ktime_get_coarse_ns();
	piece->ifindex = SKB_FIELD(skb, ifindex);
	piece->via = direction == TO_ENDPOINT ? SKB_FIELD(skb, ingress_ifindex) : 0;
	piece->sequence = ntohl(sequence);
	piece->protocol = packet.protocol;
	piece->facts = (direction == FROM_ENDPOINT ? PIECE_SENT : 0) | (uplink ? PIECE_HOST : 0) |
		       (kind == CAPTURE_HELLO ? PIECE_HELLO : 0);
	if (rest.place == FIRST_FRAGMENT)
		piece->facts |= PIECE_CUT;
	if (direction == FROM_ENDPOINT) {
		__builtin_memcpy(piece->local_address, packet.source, sizeof(packet.source));
		__builtin_memcpy(piece->remote_address, packet.destination,
				 sizeof(packet.destination));
		piece->local_port = ntohs(packet.source_port);
		piece->remote_port = ntohs(packet.destination_port);
	} else {
		__builtin_memcpy(piece->local_address, packet.destination,
				 sizeof(packet.destination));
		__builtin_memcpy(piece->remote_address, packet.source, sizeof(packet.source));
		piece->local_port = ntohs(packet.destination_port);
		piece->remote_port = ntohs(packet.source_port);
	}
	copy_pieces(skb, buffer, offset, end);
	return TC_ACT_UNSPEC;
}
