/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The contract between the kernel programs and the agent: what lies in the maps.
 *
 * This file is the only place where the layout is written. The agent reads it as
 * text (podtally/kernel/abi.py), so a struct may hold fixed-width unsigned fields
 * and arrays of them only, and every hole is spelled out as a `pad` field. The
 * loader compares that reading with what the compiler laid out, and pins the text
 * beside the maps: a later agent with another layout can still read what this one
 * counted.
 */
#pragma once
#include <linux/types.h>

/* Seen from the endpoint (the pod, or the host on an uplink). */
#define FROM_ENDPOINT 0
#define TO_ENDPOINT 1
#define DIRECTIONS 2

/*
 * A half of the table is an array of blocks, a block is a page of slots. A flow's
 * fingerprint names two blocks, and the slot at which the search begins in them.
 *
 * The first is in the near region, the first blocks of the half, whose number the agent
 * chooses by the flows of the last epochs (kernel/region.py): so the slots in use lie close
 * together. Where NEAR_PROBES slots there have other flows, PROBES slots of the second follow,
 * which is anywhere behind the region. No slot is freed and no region changes within a
 * half's epoch, so all searches for a flow meet the same slots in the same order, and the first
 * that is free, or has the flow, ends them: a flow has one slot.
 */
#define BLOCK_SLOTS 128
#define NEAR_PROBES 8
#define PROBES 64 /* at five eighths full, 1 new flow in 10,000 finds no slot */

/*
 * hot.traffic packs both counts into one word, so that a packet costs one atomic
 * add: bytes below, packets above. The top bit of each count is a carry: the
 * CPU that sees it set moves it to the cold row, in units of 2^BYTE_CARRY_BIT bytes and
 * 2^(PACKET_CARRY_BIT - PACKET_SHIFT) packets. Half of each range is left for the
 * packets that other CPUs add meanwhile: 512 GiB and 8 million packets.
 */
#define PACKET_SHIFT 40
#define BYTE_CARRY_BIT 39
#define PACKET_CARRY_BIT 63

/*
 * hot.seen: the union of the TCP flags, from the endpoint in bits 0-7, to it in
 * bits 16-23, and facts the union cannot tell, in the byte above each.
 */
#define SEEN_SHIFT 16 /* from one direction to the next */
#define SEEN_PACKET 8 /* not TCP, whose PSH this is: a packet */
#define SEEN_SYN_ONLY 256 /* a SYN without ACK: this side opened the connection */
#define SEEN_SYN_ACK 512 /* a SYN with ACK: this side accepted the connection */
#define SEEN_SOCKET 1024 /* uplinks only: the packet is of, or for, a socket of the host */
#define SEEN_GROUP 2048 /* sent to a group: by the frame's destination, or the packet's */
#define SEEN_UNPARSED 4096 /* the ports, or the TCP flags, are not all in the packet */
#define SEEN_ICMP_ERROR 8192 /* the row is of errors about another flow: see below */
#define SEEN_ICMP_RELAYED 16384 /* and they came from another than that flow's end */
#define SEEN_REJECTED 32768 /* and one of them ends an attempt to connect: struct handshake */
#define SEEN_TIMED_BIT 32 /* the first of three: which times struct handshake has */
#define SEEN_RETRIES_SHIFT 40 /* how many SYNs repeat the row's first, eight bits */
#define SEEN_RETRIES_MASK 255
#define SEEN_PLAIN_BIT 35 /* and 16 on: no packet of this row and direction has to be copied */
#define SEEN_HELLO_BIT 36 /* a ClientHello began, and takes another segment */
#define SEEN_CARRIED_BIT 63 /* the cold row has carries */

/*
 * ICMP errors have rows of their own, with the keys of ICMP. The fingerprint is that of the
 * flow they are about, XOR this constant shifted by the direction, and by two more if they
 * were relayed: so the flow can be found, and rows of different origin stay apart.
 */
#define ERROR_FINGERPRINT 7046029254386353131

/* In which account of `books` a packet without a flow is booked. */
#define ACCOUNT_OTHER 0 /* not IP, no whole IP header, or link housekeeping (link.h) */
#define ACCOUNT_OVERFLOW 1 /* a flow, and no slot for it */
#define ACCOUNTS 2

/* The word every packet reads, on a cache line of its own: the other words change. */
struct control {
	__u64 epoch; /* its lowest bit says which half is active */
	__u64 always; /* facts of every packet: SEEN_PLAIN_BIT where messages are copied, else 0 */
	__u64 near_shift[2]; /* a half's near region is 1/2^this of it: 0, and there is none */
	__u64 pad0[4];
	__u64 used[2]; /* slots claimed in each half, listed in the map `used` */
	__u64 pad1[6];
};

/*
 * What a packet of a known flow touches, and nothing more: two slots a cache line.
 * All zero is a free slot; the agent zeroes the slots it has booked.
 */
struct hot {
	__u64 fingerprint;
	__u64 traffic[2]; /* [FROM_ENDPOINT], [TO_ENDPOINT] */
	__u64 seen;
};

/*
 * The first rows of a half, so many parts of it, read a fine clock: the answers to their first
 * packets are timed, at a cost that a flood does not raise. The time of others is as coarse as the
 * timer's tick. The lowest bit says which.
 */
#define FINE_PART 32
#define FIRST_SEEN_FINE 1

/*
 * What the packet that claims a slot writes, once: one cache line. Down to `protocol`
 * it is the flow's key. Only the carries change later, after gigabytes, and on an
 * uplink the cgroup, when a socket answers.
 *
 * The cgroup (v2) is that of the host's socket whose packet was the first to leave by
 * an uplink; 0 if none was of a socket. The root's id is 1. Ids are those of kernfs nodes
 * (cgroup_id() in include/linux/cgroup.h): the lower 32 bits number them, the upper
 * count how often the numbers went round (__kernfs_new_node() in fs/kernfs/dir.c),
 * after 2^31 new nodes each time. So 16 bits of those last for 2^47 cgroups.
 */
struct cold {
	__u64 local_address[2]; /* network order; IPv4 as ::ffff:a.b.c.d, RFC 4291 2.5.5.2 */
	__u64 remote_address[2];
	__u32 ifindex;
	__u16 local_port; /* host order; 0 where the protocol has none, or they are not in the packet */
	__u16 remote_port;
	__u8 protocol; /* IPPROTO_* */
	__u8 first_direction;
	__u16 cgroup_high; /* bits 32 to 47 of the id */
	__u32 cgroup_low;
	__u64 first_seen_ns; /* CLOCK_MONOTONIC; see FINE_PART */
	__u64 carries; /* 16 bits each: bytes [FROM], bytes [TO], packets [FROM], packets [TO] */
};

/*
 * When a handshake's packets passed, in units of 2^HANDSHAKE_SHIFT ns of CLOCK_MONOTONIC,
 * modulo 2^32: differences count, and are right up to 274 s. Only packets that did not claim the
 * row write here, since the time of the one that did is in the cold row. `seen` says which
 * times are valid, so nobody has to zero the others.
 *
 * Of other protocols than TCP, `answered` is the first packet against the row's first.
 */
#define HANDSHAKE_SHIFT 6
struct handshake {
	__u32 time[3]; /* of the first SYN, the first SYN/ACK, the first ACK that answers that */
	__u16 icmp; /* a row of ICMP errors with SEEN_REJECTED: type and code of the first such */
	__u16 pad;
};

/*
 * Limits on one direction of an interface, so that its traffic cannot take the rows of
 * others. From the endpoint, to it, and on an uplink what leaves
 * without a socket of the host: it only passes.
 *
 * The first 3/8 of a half's slots are first come, first served. Above that a lane
 * may claim as many as are left of 5/8, the load up to which PROBES
 * nearly always find a slot. So one lane alone gets to half of all slots, which is
 * max_flows, and leaves 1/8 to others; each further greedy one halves what is left (a
 * dynamic threshold, as switches share their buffers). Behind all of them, up to 6/8,
 * each lane has 1/512 for itself.
 */
#define RESERVED_PART 512
#define LANE_PASSING 2 /* FROM_ENDPOINT and TO_ENDPOINT are lanes, too */
#define LANES 3
#define FRAGMENTS 64 /* packets in fragments whose ports a lane remembers */

/*
 * A value of the map `lanes`, under (ifindex, lane). `claimed` counts the slots beyond 3/8
 * in the epoch whose lower 32 bits are its upper half. A word of `fragments` (there are
 * FRAGMENTS) is in the place that a digest says: 24 bits of that, the protocol, both ports.
 */
struct lane {
	__u64 claimed;
	__u64 fragments[64];
};

/* A value of the per-CPU map `books`: cumulative, under (ifindex, direction). */
struct book_key {
	__u32 ifindex;
	__u32 direction;
};

struct book {
	__u64 bytes[2]; /* [ACCOUNT_OTHER], [ACCOUNT_OVERFLOW] */
	__u64 packets[2];
	__u64 tagged; /* frames, of whatever account, whose VLAN tag is not in skb->len */
};

/*
 * DNS messages and TLS beginnings, copied by the optional programs of names.h.
 */
#define PIECE_SIZE 4096 /* of a packet's data, copied at once */
#define RING_BYTES 8388608 /* of the ring buffer: a second of 10,000 messages takes 2 MB */
#define CAPTURES 8 /* entries of `captures`: by kind, direction, and whether it is an uplink */

/* One copied piece, in the ring buffer; the data follow it. */
struct piece {
	__u64 at_ns; /* CLOCK_MONOTONIC */
	__u64 tick_ns; /* the same as of the last timer tick: not after any flow row that follows */
	__u64 local_address[2]; /* as in flow rows, and so are the ports */
	__u64 remote_address[2];
	__u32 ifindex;
	__u32 via; /* the interface by which it reached the host; 0: sent, or made here */
	__u32 sequence; /* of the first byte, TCP */
	__u32 pad;
	__u16 local_port;
	__u16 remote_port;
	__u16 size; /* of the data */
	__u8 protocol;
	__u8 facts; /* PIECE_* */
};

#define PIECE_SENT 1 /* by the endpoint */
#define PIECE_HOST 2 /* of a socket of the host, on an uplink */
#define PIECE_HELLO 4 /* may be of a ClientHello; else DNS */
#define PIECE_CUT 8 /* the packet has more data behind this */

/*
 * What an interface may copy (a value of `bounds`, by ifindex): a bucket that is full at
 * BOUND_BURST_NS ahead of the clock. A piece costs BOUND_NS for each BOUND_BYTES that it begins.
 * So 16,000 small messages a second pass, and 2 MB at once. While more than half of the
 * ring buffer is in use, only those pass whose interface has copied little.
 */
#define BOUND_NS 62500
#define BOUND_BYTES 512
#define BOUND_BURST_NS 256000000
#define BOUND_LITTLE_NS 16000000
struct bound {
	__u64 filled_ns; /* until when it takes the bucket to empty */
	__u64 lost; /* pieces, since the interface was attached */
};
