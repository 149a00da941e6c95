/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Link housekeeping: the counterparts of ARP for IPv6 and for multicast groups, and DHCP
 * before there is an address. Hosts send it unprompted, bridges flood it to every port,
 * and no policy can express it: it is booked as `other`, like ARP.
 *
 * It must not hide payload. So a message counts as housekeeping only if a router would not
 * forward it, or, where the packet does not show that, if its headers determine all of it;
 * it and its frame are no longer than real ones; and messages that only routers and servers
 * send are not accepted from a pod. Anything else is a flow.
 */
#pragma once
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>

#define ND_HOP_LIMIT 255 /* RFC 4861: proves that no router has forwarded it */
#define ND_ROUTER_SOLICITATION 133
#define ND_ROUTER_ADVERTISEMENT 134
#define ND_NEIGHBOR_SOLICITATION 135
#define ND_NEIGHBOR_ADVERTISEMENT 136
#define ND_REDIRECT 137
#define ND_HEADER 24 /* of a solicitation or an advertisement, without options */
#define ND_OPTION 8 /* a link-layer address; RFC 7527's nonce is as long */
#define ND_MAX_ADVERTISEMENT 512 /* of a router: prefixes, routes, resolvers */
#define ND_MAX_REDIRECT 1240 /* RFC 4861 4.5: quotes what fits in 1280 bytes */
#define ND_ADVERTISEMENT_FLAGS 0xe0000000

#define MLD_QUERY 130
#define MLD_REPORT 131
#define MLD_DONE 132
#define MLD_REPORT_V2 143
#define MLD_HEADER 24 /* RFC 2710 3; RFC 3810 adds four bytes to a query */
#define IGMP_HEADER 8
#define IGMP_QUERY 0x11
#define IGMP_REPORT 0x12
#define IGMP_REPORT_V2 0x16
#define IGMP_LEAVE 0x17
#define IGMP_REPORT_V3 0x22
#define MAX_GROUPS 8 /* that one report names, without sources */

#define DHCP_SERVER 67
#define DHCP_CLIENT 68
#define DHCP_REQUEST 1
#define DHCP_REPLY 2
#define DHCP_COOKIE 0x63825363 /* RFC 2131 3 */
#define DHCP_COOKIE_OFFSET 236
#define DHCP_MAX_SIZE 576 /* RFC 2131 2: the whole packet, unless both ends agreed on more */

struct nd_message {
	u8 type;
	u8 code;
	__be16 checksum;
	__be32 flags; /* reserved, but for the three of an advertisement */
	__be32 target[4];
	u8 option;
	u8 option_length;
	__be16 option_mac[3];
};

/* A multicast report of version 2 (MLD) or 3 (IGMP): the same layout. */
struct group_report {
	u8 type;
	u8 code;
	__be16 checksum;
	__be16 reserved;
	__be16 groups;
};

struct alerted_report {
	u8 next;
	u8 options_length; /* 0: eight bytes */
	__be32 router_alert; /* RFC 2711 2.1: option 5 of two bytes, 0 for MLD */
	__be16 pad;
	u8 type;
	u8 code;
	__be16 checksum;
	__be16 reserved;
	__be16 groups;
} __attribute__((packed));

struct dhcp_start {
	__be16 source;
	__be16 destination;
	__be16 length;
	__be16 checksum;
	u8 operation;
	u8 hardware; /* 1: Ethernet, whose addresses have six bytes */
	u8 address_length;
	u8 hops; /* only relays count them */
};

static __always_inline bool is_link_local(const struct in6_addr *address)
{
	return (ntohl(address->s6_addr32[0]) & 0xffc00000) == 0xfe800000;
}

static __always_inline bool is_unspecified(const struct in6_addr *address)
{
	return !(address->s6_addr32[0] | address->s6_addr32[1] | address->s6_addr32[2] |
		 address->s6_addr32[3]);
}

/* Link-local, or multicast on the link: no router forwards to those. */
static __always_inline bool stays_on_link(const struct in6_addr *address)
{
	return is_link_local(address) || (ntohl(address->s6_addr32[0]) & 0xff0f0000) == 0xff020000;
}

static __always_inline bool same_address(const struct in6_addr *address, const __be32 *other)
{
	return !((address->s6_addr32[0] ^ other[0]) | (address->s6_addr32[1] ^ other[1]) |
		 (address->s6_addr32[2] ^ other[2]) | (address->s6_addr32[3] ^ other[3]));
}

/* ff02::1:ffXX:XXXX, RFC 4291 2.7.1 */
static __always_inline bool is_solicited_node_of(const struct in6_addr *address,
						 const __be32 *target)
{
	return ntohl(address->s6_addr32[0]) == 0xff020000 && !address->s6_addr32[1] &&
	       ntohl(address->s6_addr32[2]) == 1 &&
	       ntohl(address->s6_addr32[3]) == ((ntohl(target[3]) & 0xffffff) | 0xff000000);
}

/*
 * To a global address, as when a neighbour's reachability is probed: a first router would
 * forward that. So the source is link-local (RFC 4291 2.5.6: not forwarded), or both have
 * the prefix of one link; and nothing is left to choose: the target is the destination of a
 * solicitation or the source of an advertisement, the option the frame's own source.
 */
static __always_inline bool is_plain_probe(const struct ipv6hdr *ip, const struct nd_message *nd,
					   u32 length, const __be16 *mac)
{
	const struct in6_addr *target =
		nd->type == ND_NEIGHBOR_SOLICITATION ? &ip->daddr : &ip->saddr;

	if (!is_link_local(&ip->saddr) && (ip->saddr.s6_addr32[0] != ip->daddr.s6_addr32[0] ||
					   ip->saddr.s6_addr32[1] != ip->daddr.s6_addr32[1]))
		return false;
	if (!same_address(target, nd->target))
		return false;
	if (length == ND_HEADER)
		return true;
	return nd->option == (nd->type == ND_NEIGHBOR_SOLICITATION ? 1 : 2) &&
	       nd->option_length == 1 && nd->option_mac[0] == mac[0] &&
	       nd->option_mac[1] == mac[1] && nd->option_mac[2] == mac[2];
}

/* `length` bytes of ICMPv6 right behind the IPv6 header; `mac` is the frame's source. */
static __always_inline bool is_neighbor_discovery(struct __sk_buff *skb, const struct ipv6hdr *ip,
						  u32 offset, u32 length, const __be16 *mac,
						  const bool routers)
{
	struct nd_message nd = {};

	if (ip->hop_limit != ND_HOP_LIMIT || bpf_skb_load_bytes(skb, offset, &nd, 8) || nd.code)
		return false;
	if (nd.type == ND_ROUTER_SOLICITATION)
		return length <= 8 + 2 * ND_OPTION && stays_on_link(&ip->daddr);
	if (nd.type == ND_ROUTER_ADVERTISEMENT)
		return routers && length <= ND_MAX_ADVERTISEMENT && is_link_local(&ip->saddr) &&
		       stays_on_link(&ip->daddr);
	if (nd.type == ND_REDIRECT)
		return routers && length <= ND_MAX_REDIRECT && is_link_local(&ip->saddr);
	if (nd.type != ND_NEIGHBOR_SOLICITATION && nd.type != ND_NEIGHBOR_ADVERTISEMENT)
		return false;
	if (length != ND_HEADER && length != ND_HEADER + ND_OPTION &&
	    length != ND_HEADER + 2 * ND_OPTION)
		return false;
	if (nd.flags &
	    (nd.type == ND_NEIGHBOR_SOLICITATION ? 0xffffffff : ~htonl(ND_ADVERTISEMENT_FLAGS)))
		return false;
	if (length == ND_HEADER) {
		if (bpf_skb_load_bytes(skb, offset, &nd, ND_HEADER))
			return false;
	} else if (bpf_skb_load_bytes(skb, offset, &nd, sizeof(nd))) {
		return false;
	}
	if (is_link_local(&ip->daddr))
		return true;
	if (ip->daddr.s6_addr[0] != 0xff)
		return length <= sizeof(nd) && is_plain_probe(ip, &nd, length, mac);
	if (nd.type == ND_NEIGHBOR_SOLICITATION)
		return is_solicited_node_of(&ip->daddr, nd.target);
	return length <= sizeof(nd) && stays_on_link(&ip->daddr);
}

/* `length` bytes behind the IPv6 header: eight of hop-by-hop options, then ICMPv6. */
static __always_inline bool is_mld(struct __sk_buff *skb, const struct ipv6hdr *ip, u32 offset,
				   u32 length)
{
	struct alerted_report report;

	if (ip->hop_limit != 1 || ip->daddr.s6_addr[0] != 0xff ||
	    !(is_link_local(&ip->saddr) || is_unspecified(&ip->saddr)))
		return false;
	if (bpf_skb_load_bytes(skb, offset, &report, sizeof(report)))
		return false;
	if (report.next != IPPROTO_ICMPV6 || report.options_length ||
	    ntohl(report.router_alert) != 0x05020000 || report.code)
		return false;
	if (report.type == MLD_REPORT_V2)
		return ntohs(report.groups) <= MAX_GROUPS &&
		       length == sizeof(report) + ntohs(report.groups) * 20;
	length -= 8;
	if (report.type == MLD_QUERY)
		return length == MLD_HEADER || length == MLD_HEADER + 4;
	return (report.type == MLD_REPORT || report.type == MLD_DONE) && length == MLD_HEADER;
}

static __always_inline bool is_igmp(struct __sk_buff *skb, const struct iphdr *ip, u32 offset,
				    u32 length)
{
	struct group_report report;
	__be32 option;

	if (ip->ttl != 1 || ntohl(ip->daddr) >> 28 != 14)
		return false;
	if (ip->ihl == 6) { /* RFC 2113: router alert */
		if (bpf_skb_load_bytes(skb, offset - 4, &option, 4) || ntohl(option) != 0x94040000)
			return false;
	} else if (ip->ihl != 5) {
		return false;
	}
	if (bpf_skb_load_bytes(skb, offset, &report, sizeof(report)))
		return false;
	if (report.type == IGMP_REPORT_V3)
		return ntohs(report.groups) <= MAX_GROUPS &&
		       length == sizeof(report) + ntohs(report.groups) * 8;
	if (report.type == IGMP_QUERY)
		return length == IGMP_HEADER || length == IGMP_HEADER + 4;
	return (report.type == IGMP_REPORT || report.type == IGMP_REPORT_V2 ||
		report.type == IGMP_LEAVE) &&
	       length == IGMP_HEADER;
}

/* Broadcast to the link, by a client or, where servers may be, to one. */
static __always_inline bool is_dhcp(struct __sk_buff *skb, const struct iphdr *ip, u32 offset,
				    u32 length, const bool servers)
{
	struct dhcp_start dhcp;
	__be32 cookie;

	if (ip->daddr != htonl(INADDR_BROADCAST) || ip->ihl != 5 ||
	    length > DHCP_MAX_SIZE - sizeof(*ip))
		return false;
	if (bpf_skb_load_bytes(skb, offset, &dhcp, sizeof(dhcp)) ||
	    bpf_skb_load_bytes(skb, offset + sizeof(struct udphdr) + DHCP_COOKIE_OFFSET, &cookie,
			       sizeof(cookie)))
		return false;
	if (ntohs(dhcp.length) != length || dhcp.hardware != 1 || dhcp.address_length != 6 ||
	    dhcp.hops || ntohl(cookie) != DHCP_COOKIE)
		return false;
	if (dhcp.source == htons(DHCP_CLIENT) && dhcp.destination == htons(DHCP_SERVER))
		return dhcp.operation == DHCP_REQUEST;
	return servers && dhcp.operation == DHCP_REPLY && dhcp.source == htons(DHCP_SERVER) &&
	       dhcp.destination == htons(DHCP_CLIENT);
}
