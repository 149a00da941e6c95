/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A parsed packet, and what parsing it needs: fields of the context, and numbers that the
 * verifier is made to forget. Uses no maps.
 */
#pragma once
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>
#include "flow.h"

/* Warnings of what follows are errors, those of kernel headers, which no compiler has built for us, are not. */
#pragma clang diagnostic error "-Wall"
#include "link.h"

#define ETHERNET_GROUP 1 /* in the first byte of a MAC address */
#define IP_BARE_HEADER 0x45 /* version 4, five words: no options */
#define MULTICAST 14 /* upper four bits of 224.0.0.0/4 */
#define MULTICAST6 0xff /* upper eight of ff00::/8 */
#define IP6_VERSION 0x60 /* in the upper half of the first byte */
#define IP_FRAGMENT 0x3fff /* more fragments, or an offset: RFC 791 3.1 */
#define IP_LATER_FRAGMENT 0x1fff
#define IP6_LATER_FRAGMENT 0xfff8 /* RFC 8200 4.5 */
#define IP6_FRAGMENT 0xfff9 /* more fragments, or an offset */
#define MAX_VLAN_TAGS 8
#define MAX_EXTENSION_HEADERS 8 /* RFC 8200 4.1 has six kinds; what is behind a ninth is not read */
#define EXTENSION_SIZE 8 /* at least */
#define IP_SIZE_LIMIT 0x80000 /* of BIG TCP, whose length does not fit the header */
#define IPPROTO_HIP 139 /* RFC 7401 5.1 */
#define IPPROTO_SHIM6 140 /* RFC 5533 5.1 */

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10
#define TCP_FLAGS_OFFSET 13 /* RFC 9293 3.1 */

struct packet {
	u64 source[2];
	u64 destination[2];
	u16 source_port; /* network order */
	u16 destination_port;
	u8 protocol;
	u8 tcp_flags; /* SEEN_PACKET if it is not TCP */
	bool ipv4;
	u16 facts; /* SEEN_*, of this packet */
};

/* What follows the IP headers of a packet, as far as parse_any() found out. */
struct rest {
	u32 offset;
	u32 size;
	u32 identification; /* as in the packet; of a fragment */
	u16 place; /* of a fragment: NO_, FIRST_, SECOND_ or LATER_FRAGMENT */
	u16 icmp; /* type and code of an ICMP error */
};

enum { NO_FRAGMENT, FIRST_FRAGMENT, SECOND_FRAGMENT, LATER_FRAGMENT }; /* the second: 8 bytes on */

struct vlan_tag {
	__be16 tci;
	__be16 inner_type;
};

struct extension_header {
	u8 next;
	u8 length; /* in units that depend on the kind */
	__be16 fragment;
};

/*
 * A 32-bit field of a context. The verifier accepts a context only with the field's
 * offset in the load itself ("dereference of modified ctx ptr", otherwise), while LLVM
 * may compute the field's address first, and from version 19 does, where a field is
 * read on several paths. Assembly leaves it no choice. So: no plain `skb->field`,
 * and a field that several functions need is read once and passed on.
 */
#define SKB_FIELD(skb, field)                                            \
	({                                                               \
		u64 field_value;                                         \
		asm("%0 = *(u32 *)(%1 + %2)"                             \
		    : "=r"(field_value)                                  \
		    : "r"(skb), "i"(offsetof(struct __sk_buff, field))); \
		field_value;                                             \
	})

/*
 * The verifier follows what comes after a branch once for each set of numbers that it can tell
 * apart: a flag that one branch leaves 0 and the other 1 doubles its work from there on. So loops
 * are not unrolled here, and where the paths of parse_any() meet, it is made to forget.
 *
 * FORGET returns the same number, as one of which the verifier knows nothing: read from memory
 * that an atomic has changed. It takes a few nanoseconds.
 */
#define FORGET(number)                                                               \
	({                                                                           \
		u64 forgotten = (number), none = 0;                                  \
		asm volatile("lock *(u64 *)%0 += %1" : "+m"(forgotten) : "r"(none)); \
		forgotten;                                                           \
	})

/*
 * The same for the common path, by a number that the verifier does not know. Only for what is a
 * constant in each branch: the verifier would go on to tell apart what another number was made of.
 */
#define FORGET_CONSTANT(number, unknown)                                                      \
	({                                                                                    \
		u64 forgotten = (number);                                                     \
		asm volatile("%0 ^= %1\n\t%0 ^= %1" : "+r"(forgotten) : "r"((u64)(unknown))); \
		forgotten;                                                                    \
	})

static __always_inline bool has_ports(u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP ||
	       protocol == IPPROTO_UDPLITE || protocol == IPPROTO_DCCP;
}

static __always_inline u64 mapped_ipv4(__be32 address)
{
	return ((u64)address << 32) | htonl(0xffff);
}

/* Multicast or broadcast; 240.0.0.0/4 below it is unicast, as for the kernel (ipv4_is_multicast()). */
static __always_inline bool is_group4(__be32 address)
{
	return ntohl(address) >> 28 == MULTICAST || address == htonl(INADDR_BROADCAST);
}

static __always_inline bool is_vlan(__be16 type)
{
	return type == htons(ETH_P_8021Q) || type == htons(ETH_P_8021AD);
}
