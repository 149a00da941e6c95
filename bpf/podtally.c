// SPDX-License-Identifier: GPL-2.0-only
/*
 * Counts the packets and bytes of every flow that crosses a watched interface.
 *
 *   packet -> parse -> fingerprint -> a slot of the active half += (bytes, packets)
 *                                     no slot, or no flow: += in `books`
 *
 * The programs only observe: the verdict is always TC_ACT_UNSPEC, so the packet goes on
 * to the next program as if none of these were attached.
 *
 * The loader sets the parameters: the table has SLOTS slots in each half, a power of two
 * and at least BLOCK_SLOTS.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include "plain.h"
#include "names.h"
#include "retransmit.h"
#include "rows.h"
#include "sockets.h"

/* Any packet; see plain.h for the common ones. */
static __always_inline int count_any(struct __sk_buff *skb, const u32 direction, const bool uplink)
{
	struct packet packet;
	struct rest rest = {};
	struct flow flow;
	u64 packets = SKB_FIELD(skb, gso_segs), bytes = SKB_FIELD(skb, len);
	u64 epoch, fingerprint, traffic, flags, news, error = 0;
	u32 ifindex = SKB_FIELD(skb, ifindex);
	u32 number = direction; /* of the lane */
	u64 passing = 0; /* LANE_PASSING: leaves an uplink without a socket of the host */
	struct found found;

	if (!packets)
		packets = 1;
	if (SKB_FIELD(skb, vlan_present))
		note_tag(ifindex, direction);
	if (uplink && direction == FROM_ENDPOINT) {
		passing = FORGET_CONSTANT(skb->sk ? 0 : LANE_PASSING, bytes);
		number = passing;
	}
	if (parse_plain(skb, &packet)) {
		packet = (struct packet){}; /* else the common path stores zeroes for this one */
		if (parse_any(skb, &packet, &rest, uplink || direction == TO_ENDPOINT)) {
			book(ifindex, direction, ACCOUNT_OTHER, bytes, packets);
			return TC_ACT_UNSPEC;
		}
		if (rest.place != NO_FRAGMENT)
			join_fragment(skb, &packet, &rest, ifindex, number);
		else
			error = fingerprint_of_error(skb, &packet, &rest, ifindex, direction,
						     uplink);
		if (packet.protocol != IPPROTO_TCP)
			packet.tcp_flags = SEEN_PACKET;
		forget_paths(&packet);
		error = FORGET(error);
	}
	flow.ifindex = ifindex;
	turn(&flow, &packet, direction);
	flags = packet.tcp_flags | packet.facts;
	if (uplink && direction == FROM_ENDPOINT)
		flags |= (passing ^ LANE_PASSING) * (SEEN_SOCKET / LANE_PASSING);

	flags |= *(volatile u64 *)&VALUE_OF(control)->always;
	fingerprint = error ? error : fingerprint_of(&flow, packet.ipv4);
	epoch = *(volatile u64 *)&VALUE_OF(control)->epoch; /* once: see flip() in table.py */
	found = search(fingerprint, epoch & 1, claims_left(epoch, ifindex, number));
	if (!found.slot) {
		book(ifindex, direction, ACCOUNT_OVERFLOW, bytes, packets);
		return TC_ACT_UNSPEC;
	}
	if (uplink && found.is_claimed && direction == TO_ENDPOINT && is_for_socket(skb, &packet))
		flags |= SEEN_SOCKET;
	traffic = packets << PACKET_SHIFT | bytes;
	if (found.is_claimed) { /* one atomic less: that there is a packet is in the row */
		news = add(found.slot, found.index, traffic, flags & ~SEEN_PACKET, direction,
			   rest.icmp, true);
		note_claim(epoch, ifindex, number);
		write_row(&flow, found.index, epoch & 1, direction);
	} else {
		news = add(found.slot, found.index, traffic, flags, direction, rest.icmp, false);
	}
	if (uplink && direction == FROM_ENDPOINT && news & SEEN_SOCKET)
		note_sender(skb, found.index);
	if (news & SEEN_PLAIN)
		capture(skb, &packet, found.slot, direction, uplink);
	return TC_ACT_UNSPEC;
}

static __always_inline int count(struct __sk_buff *skb, const u32 direction, const bool uplink)
{
	if (count_plain(skb, direction, uplink))
		return TC_ACT_UNSPEC;
	AFRESH(skb);
	return count_any(skb, direction, uplink);
}

PROGRAM(from_pod, BPF_PROG_TYPE_SCHED_CLS);
int from_pod(struct __sk_buff *skb)
{
	return count(skb, FROM_ENDPOINT, false);
}

PROGRAM(to_pod, BPF_PROG_TYPE_SCHED_CLS);
int to_pod(struct __sk_buff *skb)
{
	return count(skb, TO_ENDPOINT, false);
}

PROGRAM(from_host, BPF_PROG_TYPE_SCHED_CLS);
int from_host(struct __sk_buff *skb)
{
	return count(skb, FROM_ENDPOINT, true);
}

PROGRAM(to_host, BPF_PROG_TYPE_SCHED_CLS);
int to_host(struct __sk_buff *skb)
{
	return count(skb, TO_ENDPOINT, true);
}

OPTIONAL_PROGRAM(dns_from_pod, BPF_PROG_TYPE_SCHED_CLS);
int dns_from_pod(struct __sk_buff *skb)
{
	return copy_packet(skb, CAPTURE_DNS, FROM_ENDPOINT, false);
}

OPTIONAL_PROGRAM(dns_to_pod, BPF_PROG_TYPE_SCHED_CLS);
int dns_to_pod(struct __sk_buff *skb)
{
	return copy_packet(skb, CAPTURE_DNS, TO_ENDPOINT, false);
}

OPTIONAL_PROGRAM(dns_from_host, BPF_PROG_TYPE_SCHED_CLS);
int dns_from_host(struct __sk_buff *skb)
{
	return copy_packet(skb, CAPTURE_DNS, FROM_ENDPOINT, true);
}

OPTIONAL_PROGRAM(dns_to_host, BPF_PROG_TYPE_SCHED_CLS);
int dns_to_host(struct __sk_buff *skb)
{
	return copy_packet(skb, CAPTURE_DNS, TO_ENDPOINT, true);
}

OPTIONAL_PROGRAM(tls_from_pod, BPF_PROG_TYPE_SCHED_CLS);
int tls_from_pod(struct __sk_buff *skb)
{
	return copy_packet(skb, CAPTURE_HELLO, FROM_ENDPOINT, false);
}

OPTIONAL_PROGRAM(tls_from_host, BPF_PROG_TYPE_SCHED_CLS);
int tls_from_host(struct __sk_buff *skb)
{
	return copy_packet(skb, CAPTURE_HELLO, FROM_ENDPOINT, true);
}

OPTIONAL_PROGRAM(retransmit_skb, BPF_PROG_TYPE_TRACEPOINT);
int retransmit_skb(struct retransmit_skb_record *record)
{
	struct retransmit_key key = {};

	READ_RETRANSMIT(&key, record);
	return count_retransmit(&key);
}

OPTIONAL_PROGRAM(retransmit_err, BPF_PROG_TYPE_TRACEPOINT);
int retransmit_err(struct retransmit_skb_record *record)
{
	struct retransmit_key key = {};

	if (*(volatile int *)&record->err)
		return 0;
	READ_RETRANSMIT(&key, record);
	return count_retransmit(&key);
}

OPTIONAL_PROGRAM(retransmit_ack, BPF_PROG_TYPE_TRACEPOINT);
int retransmit_ack(struct retransmit_synack_record *record)
{
	struct retransmit_key key = {};

	READ_RETRANSMIT(&key, record);
	return count_retransmit(&key);
}
