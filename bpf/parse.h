/* SPDX-License-Identifier: GPL-2.0 */
/*
 * From a packet to the words of its flow. No map is touched here.
 *
 * Nearly every packet is an Ethernet frame with a bare IPv4 or IPv6 header and the
 * ports behind it, all in the linear area: parse_plain() reads it in place. The
 * rest (VLAN tags in the data, IPv4 options, extension headers, fragments, headers
 * outside the linear area, frames cut short) goes to parse_any(), which copies
 * header by header and takes as long as it takes.
 *
 * Ethernet types are __be16 as in the packet and are compared with htons() only,
 * protocols are __u8: the one cannot be taken for the other.
 */
#pragma once
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include "flow.h"

#define IP_BARE_HEADER 0x45 /* version 4, five words: no options */
#define IP6_VERSION 0x60 /* in the upper half of the first byte */
#define IP_FRAGMENT 0x3fff /* more fragments, or an offset: RFC 791 3.1 */
#define IP_LATER_FRAGMENT 0x1fff
#define IP6_LATER_FRAGMENT 0xfff8 /* RFC 8200 4.5 */
#define MAX_VLAN_TAGS 2
#define MAX_EXTENSION_HEADERS 8 /* RFC 8200 4.1 has six kinds; a ninth is a flow of its own */

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
	u8 tcp_flags;
	bool ipv4;
};

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

static __always_inline bool has_ports(u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP ||
	       protocol == IPPROTO_UDPLITE || protocol == IPPROTO_DCCP;
}

static __always_inline u64 mapped_ipv4(__be32 address)
{
	return ((u64)address << 32) | htonl(0xffff);
}

/*
 * The common frame, read in place. -1: not one of those, or not all of it is in the
 * linear area; nothing has been decided then.
 */
static __always_inline int parse_plain(struct __sk_buff *skb, struct packet *packet)
{
	void *data = (void *)SKB_FIELD(skb, data), *end = (void *)SKB_FIELD(skb, data_end);
	__be16 *ports, type = SKB_FIELD(skb, protocol);

	if (type == htons(ETH_P_IP)) {
		struct iphdr *ip = data + ETH_HLEN;

		ports = (void *)(ip + 1);
		if ((void *)(ports + 2) > end)
			return -1;
		if (*(u8 *)ip != IP_BARE_HEADER || ip->frag_off & htons(IP_FRAGMENT))
			return -1;
		packet->source[0] = 0;
		packet->source[1] = mapped_ipv4(ip->saddr);
		packet->destination[0] = 0;
		packet->destination[1] = mapped_ipv4(ip->daddr);
		packet->protocol = ip->protocol;
		packet->ipv4 = true;
	} else if (type == htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = data + ETH_HLEN;
		u64 *words = (void *)&ip->saddr;

		ports = (void *)(ip + 1);
		if ((void *)(ports + 2) > end)
			return -1;
		if ((*(u8 *)ip & 0xf0) != IP6_VERSION)
			return -1;
		packet->source[0] = words[0];
		packet->source[1] = words[1];
		packet->destination[0] = words[2];
		packet->destination[1] = words[3];
		packet->protocol = ip->nexthdr;
	} else {
		return -1;
	}
	if (packet->protocol == IPPROTO_TCP) {
		u8 *flags = (u8 *)ports + TCP_FLAGS_OFFSET;

		if ((void *)(flags + 1) > end)
			return -1;
		packet->tcp_flags = *flags;
	} else if (packet->protocol != IPPROTO_UDP) {
		return -1;
	}
	packet->source_port = ports[0];
	packet->destination_port = ports[1];
	return 0;
}

/* The ports at `offset`, and for TCP the flags. Other protocols have neither. */
static __always_inline int parse_ports(struct __sk_buff *skb, u32 offset, struct packet *packet)
{
	__be16 ports[2];
	u8 flags;

	if (!has_ports(packet->protocol))
		return 0;
	if (bpf_skb_load_bytes(skb, offset, ports, sizeof(ports)))
		return -1;
	packet->source_port = ports[0];
	packet->destination_port = ports[1];
	/* without flags it is a tiny first fragment, RFC 1858: still a flow */
	if (packet->protocol == IPPROTO_TCP &&
	    !bpf_skb_load_bytes(skb, offset + TCP_FLAGS_OFFSET, &flags, sizeof(flags)))
		packet->tcp_flags = flags;
	return 0;
}

static __always_inline int parse_ipv4(struct __sk_buff *skb, u32 offset, struct packet *packet)
{
	struct iphdr ip;

	if (bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5)
		return -1;
	packet->source[1] = mapped_ipv4(ip.saddr);
	packet->destination[1] = mapped_ipv4(ip.daddr);
	packet->protocol = ip.protocol;
	packet->ipv4 = true;
	if (ip.frag_off & htons(IP_LATER_FRAGMENT))
		return 0; /* only the first fragment carries the ports */
	return parse_ports(skb, offset + ip.ihl * 4, packet);
}

static __always_inline int parse_ipv6(struct __sk_buff *skb, u32 offset, struct packet *packet)
{
	struct ipv6hdr ip;

	if (bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip)) || ip.version != 6)
		return -1;
	__builtin_memcpy(packet->source, &ip.saddr, sizeof(packet->source));
	__builtin_memcpy(packet->destination, &ip.daddr, sizeof(packet->destination));
	packet->protocol = ip.nexthdr;
	offset += sizeof(ip);
#pragma unroll
	for (int i = 0; i < MAX_EXTENSION_HEADERS; i++) {
		struct extension_header extension;
		u8 kind = packet->protocol;

		if (kind != IPPROTO_HOPOPTS && kind != IPPROTO_ROUTING && kind != IPPROTO_DSTOPTS &&
		    kind != IPPROTO_FRAGMENT && kind != IPPROTO_AH)
			break;
		if (bpf_skb_load_bytes(skb, offset, &extension, sizeof(extension)))
			return -1;
		packet->protocol = extension.next;
		if (kind == IPPROTO_FRAGMENT) {
			if (extension.fragment & htons(IP6_LATER_FRAGMENT))
				return 0;
			offset += 8; /* fixed size, RFC 8200 4.5 */
		} else if (kind == IPPROTO_AH) {
			offset += (extension.length + 2) * 4; /* RFC 4302 2.2 */
		} else {
			offset += (extension.length + 1) * 8; /* RFC 8200 4.3, 4.4, 4.6 */
		}
	}
	return parse_ports(skb, offset, packet);
}

/* Any frame, at leisure. -1: not IP, or cut short. */
static __always_inline int parse_any(struct __sk_buff *skb, struct packet *packet)
{
	__be16 type = SKB_FIELD(skb, protocol);
	u32 offset = ETH_HLEN;

#pragma unroll
	for (int i = 0; i < MAX_VLAN_TAGS; i++) {
		struct vlan_tag tag;

		if (type != htons(ETH_P_8021Q) && type != htons(ETH_P_8021AD))
			break;
		if (bpf_skb_load_bytes(skb, offset, &tag, sizeof(tag)))
			return -1;
		type = tag.inner_type;
		offset += sizeof(tag);
	}
	if (type == htons(ETH_P_IP))
		return parse_ipv4(skb, offset, packet);
	if (type == htons(ETH_P_IPV6))
		return parse_ipv6(skb, offset, packet);
	return -1;
}
