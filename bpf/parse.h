/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Parses a packet into the words of its flow. Uses no maps.
 *
 * Nearly every packet is an Ethernet frame with a bare IPv4 or IPv6 header and the
 * ports behind it, all in the linear area: parse_plain() reads it in place. The
 * rest (VLAN tags in the data, IPv4 options, extension headers, fragments, frames
 * to a group, headers outside the linear area, packets cut short) goes to
 * parse_any(), which copies header by header and may be slow.
 *
 * A packet with a whole IP header is routed, whatever is behind that: it is a flow.
 * Ports are read only within the length in the IP header (Ethernet pads short
 * frames); if they are not all there, the flow has port 0 and SEEN_UNPARSED.
 *
 * Ethernet types are __be16 as in the packet and are compared with htons() only,
 * protocols are __u8: the two cannot be confused.
 */
#pragma once
#include "packet.h"

/* What is behind the bare IP header of a common frame: `length` bytes, at `ports`. */
static __always_inline int parse_plain_ports(void *data, void *end, __be16 *ports, int length,
					     struct packet *packet)
{
	if (packet->protocol == IPPROTO_TCP) {
		u8 *flags = (u8 *)ports + TCP_FLAGS_OFFSET;

		if ((void *)(flags + 1) > end || length <= TCP_FLAGS_OFFSET)
			return -1;
		packet->tcp_flags = *flags;
	} else if (packet->protocol == IPPROTO_UDP && length >= (int)sizeof(struct udphdr)) {
		packet->tcp_flags = SEEN_PACKET;
	} else {
		return -1;
	}
	packet->facts = 0;
	if (*(u8 *)data & ETHERNET_GROUP)
		return -1;
	packet->source_port = ports[0];
	packet->destination_port = ports[1];
	return 0;
}

static __always_inline int parse_plain4(void *data, void *end, struct packet *packet)
{
	struct iphdr *ip = data + ETH_HLEN;
	__be16 *ports = (void *)(ip + 1);

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
	return parse_plain_ports(data, end, ports, ntohs(ip->tot_len) - (int)sizeof(*ip), packet);
}

static __always_inline int parse_plain6(void *data, void *end, struct packet *packet)
{
	struct ipv6hdr *ip = data + ETH_HLEN;
	__be16 *ports = (void *)(ip + 1);
	u64 *words = (void *)&ip->saddr;

	if ((void *)(ports + 2) > end)
		return -1;
	if ((*(u8 *)ip & 0xf0) != IP6_VERSION)
		return -1;
	packet->source[0] = words[0];
	packet->source[1] = words[1];
	packet->destination[0] = words[2];
	packet->destination[1] = words[3];
	packet->protocol = ip->nexthdr;
	packet->ipv4 = false;
	return parse_plain_ports(data, end, ports, ntohs(ip->payload_len), packet);
}

/*
 * The common frame, read in place. -1: not one of those, or not all of it is in the
 * linear area; nothing has been decided then.
 */
static __always_inline int parse_plain(struct __sk_buff *skb, struct packet *packet)
{
	void *data = (void *)SKB_FIELD(skb, data), *end = (void *)SKB_FIELD(skb, data_end);
	__be16 type = SKB_FIELD(skb, protocol);

	if (type == htons(ETH_P_IP))
		return parse_plain4(data, end, packet);
	if (type == htons(ETH_P_IPV6))
		return parse_plain6(data, end, packet);
	return -1;
}

/* The ports at `offset`, and for TCP the flags, as far as they lie before `end`. */
static __always_inline void parse_ports(struct __sk_buff *skb, u32 offset, u32 end,
					struct packet *packet)
{
	__be16 ports[2];
	u8 flags;

	if (!has_ports(packet->protocol))
		return;
	if (offset + sizeof(ports) > end || bpf_skb_load_bytes(skb, offset, ports, sizeof(ports))) {
		packet->facts |= SEEN_UNPARSED;
		return;
	}
	packet->source_port = ports[0];
	packet->destination_port = ports[1];
	if (packet->protocol != IPPROTO_TCP)
		return;
	/* without flags it is a tiny first fragment, RFC 1858 */
	if (offset + TCP_FLAGS_OFFSET >= end ||
	    bpf_skb_load_bytes(skb, offset + TCP_FLAGS_OFFSET, &flags, sizeof(flags)))
		packet->facts |= SEEN_UNPARSED;
	else
		packet->tcp_flags = flags;
}

/* Whether a frame ends where its packet does: Ethernet pads the packet to 46 bytes. */
static __always_inline bool ends_with_packet(struct __sk_buff *skb, u32 offset, u32 size)
{
	u32 padded = ETH_ZLEN - ETH_HLEN;

	return SKB_FIELD(skb, len) <= offset + (size > padded ? size : padded);
}

/* `units`: of eight bytes. */
static __always_inline u16 place_of_fragment(u16 units)
{
	if (!units)
		return FIRST_FRAGMENT;
	return units == 1 ? SECOND_FRAGMENT : LATER_FRAGMENT;
}

/*
 * `routers`: whether routers and DHCP servers may send this way; what a pod sends in
 * their place is not housekeeping.
 */
static __always_inline int parse_ipv4(struct __sk_buff *skb, u32 offset, struct packet *packet,
				      struct rest *rest, const bool routers)
{
	bool group_frame = packet->facts & SEEN_GROUP;
	struct iphdr ip;
	u32 size, end;

	if (bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5)
		return -1;
	size = ntohs(ip.tot_len);
	if (!size && SKB_FIELD(skb, gso_segs))
		size = IP_SIZE_LIMIT;
	if (size < ip.ihl * 4) /* no host or router takes it */
		return -1;
	end = offset + size;
	packet->source[1] = mapped_ipv4(ip.saddr);
	packet->destination[1] = mapped_ipv4(ip.daddr);
	packet->protocol = ip.protocol;
	packet->ipv4 = true;
	if (is_group4(ip.daddr))
		packet->facts |= SEEN_GROUP;
	offset += ip.ihl * 4;
	rest->offset = offset;
	rest->size = end - offset;
	if (ip.frag_off & htons(IP_FRAGMENT)) {
		rest->identification = ip.id;
		rest->place = place_of_fragment(ntohs(ip.frag_off) & IP_LATER_FRAGMENT);
	}
	if (rest->place > FIRST_FRAGMENT) { /* only the first carries the ports */
		if (has_ports(ip.protocol))
			packet->facts |= SEEN_UNPARSED;
		return 0;
	}
	if (packet->facts & SEEN_GROUP && rest->place == NO_FRAGMENT &&
	    ends_with_packet(skb, end - size, size)) {
		if (ip.protocol == IPPROTO_IGMP && is_igmp(skb, &ip, offset, end - offset))
			return -1;
		if (ip.protocol == IPPROTO_UDP && group_frame &&
		    is_dhcp(skb, &ip, offset, end - offset, routers))
			return -1;
	}
	parse_ports(skb, offset, end, packet);
	return 0;
}

static __always_inline bool is_extension(u8 protocol)
{
	return protocol == IPPROTO_HOPOPTS || protocol == IPPROTO_ROUTING ||
	       protocol == IPPROTO_DSTOPTS || protocol == IPPROTO_FRAGMENT ||
	       protocol == IPPROTO_AH || protocol == IPPROTO_MH || protocol == IPPROTO_HIP ||
	       protocol == IPPROTO_SHIM6;
}

static __always_inline int parse_ipv6(struct __sk_buff *skb, u32 offset, struct packet *packet,
				      struct rest *rest, const __be16 *mac, const bool routers)
{
	struct ipv6hdr ip;
	u32 size, end;

	if (bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip)) || ip.version != 6)
		return -1;
	__builtin_memcpy(packet->source, &ip.saddr, sizeof(packet->source));
	__builtin_memcpy(packet->destination, &ip.daddr, sizeof(packet->destination));
	packet->protocol = ip.nexthdr;
	if (ip.daddr.s6_addr[0] == MULTICAST6)
		packet->facts |= SEEN_GROUP;
	offset += sizeof(ip);
	size = ntohs(ip.payload_len);
	if (!size && SKB_FIELD(skb, gso_segs))
		size = IP_SIZE_LIMIT;
	end = offset + size;
	if (ends_with_packet(skb, offset, size)) {
		if (ip.nexthdr == IPPROTO_ICMPV6 &&
		    is_neighbor_discovery(skb, &ip, offset, size, mac, routers))
			return -1;
		if (ip.nexthdr == IPPROTO_HOPOPTS && is_mld(skb, &ip, offset, size))
			return -1;
	}
#pragma clang loop unroll(disable)
	for (int i = 0; i < MAX_EXTENSION_HEADERS; i++) {
		struct extension_header extension;
		u8 kind = packet->protocol;

		if (!is_extension(kind))
			break;
		if (offset + EXTENSION_SIZE > end ||
		    bpf_skb_load_bytes(skb, offset, &extension, sizeof(extension)))
			break; /* that header is the protocol, then */
		packet->protocol = extension.next;
		if (kind == IPPROTO_FRAGMENT) {
			if (extension.fragment & htons(IP6_FRAGMENT)) {
				if (bpf_skb_load_bytes(skb, offset + 4, &rest->identification, 4)) {
					packet->protocol = kind;
					break;
				}
				rest->place = place_of_fragment(ntohs(extension.fragment) >> 3);
			}
			if (rest->place > FIRST_FRAGMENT) {
				rest->offset = offset + EXTENSION_SIZE;
				rest->size = end - rest->offset;
				if (has_ports(packet->protocol) || is_extension(packet->protocol))
					packet->facts |= SEEN_UNPARSED;
				return 0;
			}
			offset += 8; /* fixed size, RFC 8200 4.5 */
		} else if (kind == IPPROTO_AH) {
			offset += (extension.length + 2) * 4; /* RFC 4302 2.2 */
		} else {
			offset += (extension.length + 1) * 8; /* RFC 8200 4.3, 4.4, 4.6 */
		}
	}
	if (is_extension(packet->protocol))
		packet->facts |= SEEN_UNPARSED;
	rest->offset = offset;
	rest->size = offset > end ? 0 : end - offset;
	parse_ports(skb, offset, end, packet);
	return 0;
}

/*
 * Any frame. -1: no IP header, or link housekeeping.
 *
 * The kernel removes any number of tags with VLAN id 0 (__netif_receive_skb_core()), so
 * whatever is behind the last tag parsed here may be routed: that is a flow of protocol 0
 * and unspecified addresses, SEEN_UNPARSED.
 */
static __always_inline int parse_any(struct __sk_buff *skb, struct packet *packet,
				     struct rest *rest, const bool routers)
{
	__be16 type = SKB_FIELD(skb, protocol);
	u32 offset = ETH_HLEN;
	__be16 macs[ETH_ALEN]; /* destination, source */

	if (bpf_skb_load_bytes(skb, 0, macs, sizeof(macs)))
		return -1;
	if (*(u8 *)macs & ETHERNET_GROUP)
		packet->facts |= SEEN_GROUP;
#pragma clang loop unroll(disable)
	for (int i = 0; i < MAX_VLAN_TAGS; i++) {
		struct vlan_tag tag;

		if (!is_vlan(type))
			break;
		if (bpf_skb_load_bytes(skb, offset, &tag, sizeof(tag)))
			return -1;
		type = tag.inner_type;
		offset += sizeof(tag);
	}
	offset = FORGET(offset);
	if (type == htons(ETH_P_IP))
		return parse_ipv4(skb, offset, packet, rest, routers);
	if (type == htons(ETH_P_IPV6))
		return parse_ipv6(skb, offset, packet, rest, macs + ETH_ALEN / 2, routers);
	if (!is_vlan(type))
		return -1;
	packet->facts |= SEEN_UNPARSED;
	return 0;
}

/* What parse_any() found out, where its paths join the common one. */
static __always_inline void forget_paths(struct packet *packet)
{
	packet->source_port = FORGET(packet->source_port);
	packet->destination_port = FORGET(packet->destination_port);
	packet->protocol = FORGET(packet->protocol);
	packet->tcp_flags = FORGET(packet->tcp_flags);
	packet->facts = FORGET(packet->facts);
}
