/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * ICMP errors: the packet that one quotes. An error belongs to that packet's flow; the
 * ledger joins them (icmp_errors.py), since the flow may be silent for longer than an epoch.
 *
 * Accepted only if it can be an answer: sent to the source of the quoted packet, no longer
 * than errors are, and whole. From a pod its source must be the destination of the quoted
 * packet: a pod is no router. Anything else is plain ICMP, like an echo.
 */
#pragma once
#include "parse.h"

#define ICMP_UNREACHABLE 3
#define ICMP_SOURCE_QUENCH 4
#define ICMP_REDIRECT 5
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETER_PROBLEM 12
#define ICMPV6_LAST_ERROR 4 /* RFC 4443: unreachable, too big, time exceeded, parameter problem */
#define ICMP_FRAGMENTATION_NEEDED 4 /* a code of ICMP_UNREACHABLE */
#define ICMPV6_UNREACHABLE 1
#define ICMPV6_TIME_EXCEEDED 3
#define ICMPV6_PARAMETER_PROBLEM 4
#define ICMP_HEADER 8
#define ICMP_MAX_ERROR 576 /* RFC 1812 4.3.2.3: the whole packet */
#define ICMPV6_MAX_ERROR 1280 /* RFC 4443 2.4 */

static __always_inline bool is_icmp_error(u8 type)
{
	return type == ICMP_UNREACHABLE || type == ICMP_SOURCE_QUENCH || type == ICMP_REDIRECT ||
	       type == ICMP_TIME_EXCEEDED || type == ICMP_PARAMETER_PROBLEM;
}

/* Whether an ICMP error ends an attempt to connect; `type_code` has both. */
static __always_inline bool is_rejection(u16 type_code, bool ipv4)
{
	u8 type = type_code >> 8;

	if (ipv4)
		return (type == ICMP_UNREACHABLE && (u8)type_code != ICMP_FRAGMENTATION_NEEDED) ||
		       type == ICMP_TIME_EXCEEDED || type == ICMP_PARAMETER_PROBLEM;
	return type == ICMPV6_UNREACHABLE || type == ICMPV6_TIME_EXCEEDED ||
	       type == ICMPV6_PARAMETER_PROBLEM;
}

/* The ports of a quoted packet; errors quote eight bytes of it at least (RFC 792). */
static __always_inline bool quote_ports(struct __sk_buff *skb, u32 offset, u32 end,
					struct packet *quoted)
{
	__be16 ports[2];

	if (!has_ports(quoted->protocol))
		return true;
	if (offset + sizeof(ports) > end || bpf_skb_load_bytes(skb, offset, ports, sizeof(ports)))
		return false;
	quoted->source_port = ports[0];
	quoted->destination_port = ports[1];
	return true;
}

static __always_inline bool quote_ipv4(struct __sk_buff *skb, u32 offset, u32 end,
				       struct packet *quoted)
{
	struct iphdr ip;

	if (offset + sizeof(ip) > end || bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip)) ||
	    ip.version != 4 || ip.ihl < 5)
		return false;
	quoted->source[1] = mapped_ipv4(ip.saddr);
	quoted->destination[1] = mapped_ipv4(ip.daddr);
	quoted->protocol = ip.protocol;
	quoted->ipv4 = true;
	if (ip.frag_off & htons(IP_LATER_FRAGMENT))
		return true;
	return quote_ports(skb, offset + ip.ihl * 4, end, quoted);
}

static __always_inline bool quote_ipv6(struct __sk_buff *skb, u32 offset, u32 end,
				       struct packet *quoted)
{
	struct extension_header extension;
	struct ipv6hdr ip;

	if (offset + sizeof(ip) > end || bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip)) ||
	    ip.version != 6)
		return false;
	__builtin_memcpy(quoted->source, &ip.saddr, sizeof(quoted->source));
	__builtin_memcpy(quoted->destination, &ip.daddr, sizeof(quoted->destination));
	quoted->protocol = ip.nexthdr;
	offset += sizeof(ip);
	if (ip.nexthdr == IPPROTO_FRAGMENT) { /* what was too big has one */
		if (bpf_skb_load_bytes(skb, offset, &extension, sizeof(extension)))
			return false;
		quoted->protocol = extension.next;
		if (extension.fragment & htons(IP6_LATER_FRAGMENT))
			return true;
		offset += EXTENSION_SIZE;
	}
	return quote_ports(skb, offset, end, quoted);
}

/* `rest` is what lies behind the headers of `packet`; `relays`: there may be routers here. */
static __always_inline bool parse_quote(struct __sk_buff *skb, struct packet *packet,
					struct rest *rest, struct packet *quoted, const bool relays)
{
	u32 offset = rest->offset + ICMP_HEADER, end = rest->offset + rest->size;
	__be16 type_code;
	u8 type;

	if (bpf_skb_load_bytes(skb, rest->offset, &type_code, sizeof(type_code)))
		return false;
	rest->icmp = ntohs(type_code);
	type = rest->icmp >> 8;
	if (packet->ipv4) {
		if (!is_icmp_error(type) || rest->size > ICMP_MAX_ERROR - sizeof(struct iphdr) ||
		    !quote_ipv4(skb, offset, end, quoted))
			return false;
	} else {
		if (!type || type > ICMPV6_LAST_ERROR ||
		    rest->size > ICMPV6_MAX_ERROR - sizeof(struct ipv6hdr) ||
		    !quote_ipv6(skb, offset, end, quoted))
			return false;
	}
	if (quoted->source[0] != packet->destination[0] ||
	    quoted->source[1] != packet->destination[1])
		return false;
	if (quoted->destination[0] != packet->source[0] ||
	    quoted->destination[1] != packet->source[1]) {
		if (!relays)
			return false;
		packet->facts |= SEEN_ICMP_RELAYED;
	}
	packet->facts |= SEEN_ICMP_ERROR;
	if (is_rejection(rest->icmp, packet->ipv4))
		packet->facts |= SEEN_REJECTED;
	return true;
}
